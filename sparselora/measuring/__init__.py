"""What a step costs: interleaved timing, and a count of its FLOPs."""
