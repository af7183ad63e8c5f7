"""Optimizer steps, evaluation, and what of a training is kept on disk."""
