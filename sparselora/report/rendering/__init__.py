"""Render an analysis as tables, pages and files."""
