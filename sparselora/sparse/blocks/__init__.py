"""What computes a layer sparsely."""
