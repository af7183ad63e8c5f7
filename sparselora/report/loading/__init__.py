"""Load records and studies as pandas frames."""
