"""Records, images, text and the built-in world: everything before the model."""
