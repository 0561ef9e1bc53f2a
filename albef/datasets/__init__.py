"""Sources of raw data: the built-in emoji world, official JSON lists, RefCOCO."""
