"""Serving: contract of names and shapes, gallery, local Triton server and its client. Never imports torch."""
