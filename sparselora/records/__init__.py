"""Write what runs leave, each file whole or not there. Nothing here imports torch."""
