"""Show what runs left in tables, charts and pages; nothing here imports torch."""
