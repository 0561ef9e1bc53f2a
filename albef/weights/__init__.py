"""Weights on disk: our checkpoints, published layouts, pretrained encoders, task adaptation."""
