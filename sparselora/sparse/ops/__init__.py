"""Autograd functions: each computes what its formula says, forward and backward."""
