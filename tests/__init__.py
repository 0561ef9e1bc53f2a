"""Tests."""

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # The cores are shared. OpenMP reads this when torch is imported, so it must be set before.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]

SHARED = "ALBEF_TESTS_SHARED"
"""Environment variable with a folder that all processes of a test run share."""
