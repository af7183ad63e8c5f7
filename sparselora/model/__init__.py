"""A backbone with its LoRA adapter, its tokenizer and its task."""
