"""Do one fine-tune, from checked settings to its record."""
