"""Comparisons as charts."""
