"""Share one Optuna study between processes."""
