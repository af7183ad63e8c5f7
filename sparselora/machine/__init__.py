"""Look after the machine that a run computes on: its devices, clock, memory and processes."""
