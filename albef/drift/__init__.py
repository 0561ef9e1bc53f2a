"""Whether served requests still look like the data that the model was trained on."""
