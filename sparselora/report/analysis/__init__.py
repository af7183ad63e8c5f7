"""What the runs of one comparison show, with intervals."""
