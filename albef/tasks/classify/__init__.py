"""Zero-shot classification with labels of the request, by the encoders of retrieval."""
