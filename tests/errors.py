"""Errors that tests expect."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refuses(error: type[BaseException], *names: object) -> Iterator[pytest.ExceptionInfo]:
    """Expect an error whose message contains each name (file, key, value) as a word."""
    with pytest.raises(error) as caught:
        yield caught
    message = str(caught.value)
    missing = [str(name) for name in names if not re.search(rf"(?<!\w){re.escape(str(name))}(?!\w|\.\w)", message)]
    assert not missing, f"{missing} not in {message!r}"
