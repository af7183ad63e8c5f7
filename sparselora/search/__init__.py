"""Search settings with Optuna: draw them, ask and tell, and survive."""
