"""Serving: protocol, local Triton server and clients; never imports torch."""
