"""Tables, charts and pages of what runs left; nothing here imports torch."""
