"""One Optuna study that processes share."""
