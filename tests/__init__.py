"""Tests."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SHARED = "ALBEF_TESTS_SHARED"
"""Environment variable with a folder that all processes of a test run share."""
