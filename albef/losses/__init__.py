"""Loss functions on tensors, independent of models, data sets and configuration."""
