"""Choose the channels that are kept, and find what stands in for the others."""
