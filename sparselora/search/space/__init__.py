"""What a search draws from, and how."""
