"""Prefect flows: views of the DVC pipeline."""
