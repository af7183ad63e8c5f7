"""Make the LoRA steps of a model sparse: the core, of use without Hydra."""
