"""Experiment tracking: MLflow behind a journal on disk, for training and the report."""
