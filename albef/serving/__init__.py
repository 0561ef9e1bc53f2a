"""Serving: protocol of the endpoints, local Triton server, and clients; never imports torch."""
