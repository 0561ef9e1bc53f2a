"""Features of images and texts, from the encoders of retrieval."""
