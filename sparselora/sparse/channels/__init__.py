"""Which channels are kept, and what stands in for the others."""
