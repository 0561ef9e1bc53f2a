"""Weights on disk: model files, official checkpoints, pretrained encoders, transfer between tasks."""
