"""Measure what a step costs: time it interleaved, and count its FLOPs."""
