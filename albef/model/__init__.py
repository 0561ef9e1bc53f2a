"""The model: vision transformer, text and fusion encoders, momentum teacher, feature queue, checkpoints."""
