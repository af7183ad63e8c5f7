"""The command line: reads it, checks every job of it, and says what goes wrong in a line."""
