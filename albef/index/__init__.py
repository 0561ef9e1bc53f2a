"""Image-text index for retrieval: embeddings on disk, exact or clustered search."""
