"""Compute single operations by autograd functions, forward and backward."""
