"""Draw settings for a search."""
