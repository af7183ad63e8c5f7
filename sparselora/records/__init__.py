"""What runs write, each file whole or not there. Nothing here imports torch."""
