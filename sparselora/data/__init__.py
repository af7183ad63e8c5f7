"""Read examples from where they come, split them, and make batches of them."""
