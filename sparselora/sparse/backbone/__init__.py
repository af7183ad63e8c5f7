"""Find where things are in a transformers model."""
