"""Data validation between preparation and training; the only users of Great Expectations."""
