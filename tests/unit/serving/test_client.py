from __future__ import annotations

import socket
import threading

import numpy as np
import pytest

from albef.serving.client import Client, ServerTimeoutError, ServerUnavailableError
from albef.serving.protocol import PROBABILITIES
from albef.serving.requests import InvalidRequestError, Match, ServingError
from albef.serving.server import free_ports
from albef.serving.transport import MAX_MESSAGE
from albef.tasks.retrieval import client as retrieval
from albef.tasks.retrieval.client import format_answer
from albef.tasks.vqa import client as vqa
from albef.tasks.vqa.spec import ANSWERS
from tests.errors import refuses


def test_no_server():
    (port,) = free_ports(1)
    with Client(f"127.0.0.1:{port}", timeout=5, retries=1) as client:
        assert not client.ready()
        with refuses(ServerUnavailableError, f"127.0.0.1:{port}"):
            client.retrieve(text="red")


def test_silent_server_times_out():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        accepting = threading.Thread(target=silent.accept, daemon=True)
        accepting.start()
        with (
            Client(f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.5) as client,
            pytest.raises(ServingError) as caught,
        ):
            client.retrieve(text="red")
        assert isinstance(caught.value, ServerTimeoutError | ServerUnavailableError)
        accepting.join(5)


def test_a_generated_answer_may_be_empty_and_padding_is_none():
    read = vqa.request(b"image", ["what"], generate=True).read
    texts, probabilities = np.array([[b"red", b"", b""]], np.object_), np.array([[0.5, 0.25, 0]], np.float32)
    (answers,) = read({ANSWERS: texts, PROBABILITIES: probabilities})
    assert [(answer.text, answer.probability) for answer in answers] == [("red", 0.5), ("", 0.25)]


def test_errors_are_what_the_command_line_catches():
    # It prints ValueError and OSError as one sentence.
    assert issubclass(ServingError, OSError)


def test_proxy_of_the_environment_is_ignored(monkeypatch):
    (port, proxy) = free_ports(2)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy}")
    with Client(f"127.0.0.1:{port}", timeout=5, retries=0) as client, pytest.raises(ServerUnavailableError) as caught:
        client.retrieve(text="red")
    assert str(proxy) not in str(caught.value)


def test_table_aligns():
    lines = format_answer([Match("a.png", 12.34567), Match("b.png", -0.5)]).splitlines()
    assert lines == [
        "rank        score  answer",
        "   1      12.3457  a.png",
        "   2      -0.5000  b.png",
    ]


def test_a_request_that_is_too_large_is_refused_before_it_is_sent() -> None:
    request = retrieval.request(images=[bytes(MAX_MESSAGE // 2), bytes(MAX_MESSAGE // 2)])
    with Client("127.0.0.1:1", timeout=5) as client, pytest.raises(InvalidRequestError):
        client.ask(request)
