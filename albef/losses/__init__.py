"""The objectives: tensors in, loss out. No module here knows a model, a data set or a configuration."""
