"""Make a dense LoRA step faster: one module for each kind of layer."""
