"""Drift detection: compares served requests with the training data."""
