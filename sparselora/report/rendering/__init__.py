"""Tables, pages and files that show an analysis."""
