"""Model architecture: encoders, fusion, decoder, momentum teacher and queue."""
