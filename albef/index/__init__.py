"""The index that retrieval searches: embeddings on disk, exact or clustered search."""
