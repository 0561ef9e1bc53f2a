"""Tests."""

SHARED = "ALBEF_TESTS_SHARED"
"""Variable with a folder that all processes of a test run see."""
