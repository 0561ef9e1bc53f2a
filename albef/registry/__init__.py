"""Models of the served endpoints in MLflow's registry: what is tried, what is served, and whether it may take over."""
