"""Experiment tracking with MLflow, buffered in a journal on disk."""
