from __future__ import annotations

import pytest

from tests.served import Served, served


@pytest.fixture(scope="session")
def model() -> Served:
    return served()
