"""A LoRA step made faster, dense as it is: one module a kind of layer."""
