"""Evaluation: metrics of each task, and what the report shows."""
