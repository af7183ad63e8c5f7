"""Load a backbone with its LoRA adapter, its tokenizer and its task."""
