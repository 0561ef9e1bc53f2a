"""Hyper-parameter search with Ray Tune and Optuna."""
