"""Weakly supervised visual grounding."""
