"""When the service gives up."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from albef.serving.runtime import Runtime
from albef.serving.server import ServerError, TritonServer
from albef.serving.service import Access, Service


def test_it_gives_up_when_one_part_keeps_dying(tmp_path: Path) -> None:
    service = Service(TritonServer(tmp_path, runtime=Runtime(tmp_path)), Access())
    service.stopping.set()  # no pauses
    for _ in range(5):
        for part in ("the Triton server", "proxy", "http_app", "nginx"):
            service._count_crash(part, -signal.SIGKILL)
    with pytest.raises(ServerError):
        service._count_crash("proxy", -signal.SIGKILL)
