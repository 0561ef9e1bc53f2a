"""Registry of the served models in MLflow, with a gate for releases."""
