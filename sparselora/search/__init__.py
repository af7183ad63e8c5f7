"""The Optuna side: what a search draws, what it asks and tells, and how it survives."""
