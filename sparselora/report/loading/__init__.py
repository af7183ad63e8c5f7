"""Records and studies as pandas frames."""
