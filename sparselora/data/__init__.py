"""Examples: where they come from, which split each is in, and batches of them."""
