"""Tokens, keys and certificates."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from albef.serving import access
from albef.serving.access import AccessError, Tls
from albef.serving.service import Access
from tests.errors import refuses

TOKEN = "0123456789abcdef-token"


def secret(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_tokens_are_read_by_line(tmp_path: Path) -> None:
    path = secret(tmp_path / "tokens", f"# team\n\n {TOKEN} \n{TOKEN}2\n")
    assert access.read_tokens(path) == [TOKEN, TOKEN + "2"]


@pytest.mark.parametrize("text", ["", "# none\n", "short\n", f"{TOKEN} x\n", f"{TOKEN}\nshort", "ü" * 20])
def test_files_without_good_tokens_are_refused(tmp_path: Path, text: str) -> None:
    path = secret(tmp_path / "tokens", text)
    with refuses(AccessError, path):
        access.read_tokens(path)


@pytest.mark.parametrize("read", [access.read_tokens, access.read_key])
def test_secrets_that_others_can_read_are_refused(tmp_path: Path, read) -> None:  # type: ignore[no-untyped-def]
    path = secret(tmp_path / "secret", "a" * 32, 0o644)
    with refuses(AccessError, path, "chmod"):
        read(path)
    with refuses(AccessError, tmp_path / "none"):
        read(tmp_path / "none")


def test_a_key_is_written_for_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    key, path = access.new_key(), access.key_file(4711)
    access.write_key(path, key)
    assert path.is_relative_to(tmp_path)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert access.key_of("127.0.0.1:4711") == access.key_of("localhost:4711") == key
    assert access.key_of("example.org:4711") is access.key_of("127.0.0.1:4712") is None
    path.parent.chmod(0o755)
    with refuses(AccessError, path.parent):
        access.write_key(path, key)


def test_a_link_in_place_of_a_key_is_replaced(tmp_path: Path) -> None:
    other = secret(tmp_path / "other", "precious")
    path = tmp_path / "keys" / "admin.key"
    path.parent.mkdir(mode=0o700)
    path.symlink_to(other)
    access.write_key(path, access.new_key())
    assert other.read_text() == "precious"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.9", "localhost", "::1", "[::1]"])
def test_loopback_is_open(host: str) -> None:
    Access(address=host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.4", "127.0.0.1.example.org", "example.org", ""])
def test_networks_need_encryption_and_known_clients(tmp_path: Path, host: str) -> None:
    pem = secret(tmp_path / "pem", "PEM")
    own = {"cert": pem, "key": pem}
    for tls, tokens in ((Tls(), [TOKEN]), (Tls(**own), []), (Tls(ca=pem), [TOKEN])):
        with refuses(AccessError, "--tls-cert", "--tokens"):
            Access(address=host, tls=tls, tokens=tokens)
    Access(address=host, tls=Tls(**own), tokens=[TOKEN])
    Access(address=host, tls=Tls(ca=pem, **own))


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    pem = secret(tmp_path / "pem", "PEM")
    with refuses(AccessError, "key"):
        Tls(cert=pem).read()
    with refuses(AccessError, tmp_path / "none"):
        Tls(cert=pem, key=tmp_path / "none").read()


@pytest.mark.parametrize("given", [None, "", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer", f"Bearer  {TOKEN}"])
def test_only_a_valid_token_admits(given: str | None) -> None:
    assert not access.admits({access.AUTHORIZATION: given} if given is not None else {}, [TOKEN])
    assert access.admits({access.AUTHORIZATION: given}, [])


def test_each_of_several_tokens_admits() -> None:
    for token in (TOKEN, TOKEN + "2"):
        assert access.admits(access.headers(token), [TOKEN, TOKEN + "2"])


def test_options_take_their_defaults_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALBEF_TOKEN_FILE", str(secret(tmp_path / "tokens", TOKEN)))
    parser = argparse.ArgumentParser()
    access.add_options(parser)
    assert access.credentials(parser.parse_args([])).token == TOKEN
    key = secret(tmp_path / "key", "b" * 32)
    found = access.credentials(parser.parse_args(["--admin-key", str(key), "--tls-ca", os.devnull]))
    assert (found.admin_key, found.tls) == ("b" * 32, Tls(ca=Path(os.devnull)))
