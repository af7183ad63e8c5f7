"""Where things are in a transformers model."""
