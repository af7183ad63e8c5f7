"""Train and evaluate, and keep of a training what it can go on from."""
