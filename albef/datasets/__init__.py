"""Raw data sources: built-in emoji data set, official JSON lists, RefCOCO+."""
