"""Draw comparisons as charts."""
