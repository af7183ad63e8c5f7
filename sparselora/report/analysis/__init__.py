"""Find what the runs of one comparison show, with intervals."""
