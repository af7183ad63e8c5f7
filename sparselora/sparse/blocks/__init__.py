"""Compute a layer sparsely, and put that in the place of its own modules' forward."""
