"""Hold what a user may ask for, and every check of it that needs nothing loaded."""
