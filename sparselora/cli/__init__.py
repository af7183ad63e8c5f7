"""Read the command line, check every job of it, and say what goes wrong in a line."""
