"""Access to a server: tokens of clients, the key of its administrator, and TLS certificates.

Tokens and keys are compared in constant time and never logged.
"""

from __future__ import annotations

import argparse
import hmac
import ipaddress
import os
import secrets
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AUTHORIZATION, ADMIN_HEADER = "authorization", "albef-admin-key"
"""Metadata of a request with the client's token as ``Bearer TOKEN``, and with the administrator's key."""
_MIN_LENGTH = 16
_OPTIONS = {
    "tls-ca": "PEM file of certificates to trust, for a server with TLS",
    "tls-cert": "PEM file of the client's certificate, for a server that requires one",
    "tls-key": "PEM file of its private key",
    "token-file": "file with a client's token",
    "admin-key": "file with the administrator's key of a server elsewhere",
}


class AccessError(ValueError):
    """Tokens, keys or certificates are missing or unusable."""


@dataclass(frozen=True)
class Tls:
    """PEM files of one side of a connection.

    Args:
        ca: Certificates that the other side's certificate must descend from; on a server, clients must present one.
        cert, key: Own certificate and its private key.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def read(self) -> dict[str, bytes | None]:
        """Return the contents of the files by field.

        Raises:
            AccessError: If one cannot be read, or only one of certificate and key is given.
        """
        if (self.cert is None) != (self.key is None):
            raise AccessError("TLS needs both the certificate and its private key; give the missing one")
        return {name: _read(path) if path else None for name, path in vars(self).items()}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AccessError(f"{path}: cannot be read ({error.strerror})") from error


def _read_secret(path: Path) -> str:
    content = _read(path)
    if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        raise AccessError(f"{path}: other users can read or write this file; run `chmod o-rw {path}`")
    try:
        return content.decode("ascii")
    except UnicodeDecodeError as error:
        raise AccessError(f"{path}: expected ASCII characters only") from error


def read_tokens(path: Path) -> list[str]:
    """Read client tokens, one per line; empty lines and those that start with ``#`` are ignored.

    Raises:
        AccessError: If the file cannot be read, is readable by others, has no token, or has a weak one.
    """
    lines = [line.strip() for line in _read_secret(path).splitlines()]
    tokens = [line for line in lines if line and not line.startswith("#")]
    if not tokens:
        raise AccessError(f"{path}: no token, expected one per line")
    for number, token in enumerate(tokens, 1):
        if len(token) < _MIN_LENGTH or not all(char.isalnum() or char in "-._~+/=" for char in token):
            raise AccessError(
                f"{path}: token {number} is too short or has other characters than letters, digits and -._~+/=; "
                f"expected at least {_MIN_LENGTH}, for example from `openssl rand -hex 32`"
            )
    return tokens


def key_file(port: int) -> Path:
    """Return the file of the administrator's key of this user's server on a gRPC port."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) / "albef" if runtime else Path(tempfile.gettempdir()) / f"albef-{os.getuid()}"
    return folder / f"admin-{port}.key"


def new_key() -> str:
    """Return a new random key."""
    return secrets.token_hex(32)


def write_key(path: Path, key: str) -> None:
    """Write an administrator's key to a file that this user alone can read.

    Raises:
        AccessError: If its folder belongs to another user or is open to others.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.parent.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise AccessError(f"{path.parent}: belongs to another user or is open to others; remove it and start again")
    path.unlink(missing_ok=True)
    with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(key + "\n")


def read_key(path: Path) -> str:
    """Read an administrator's key.

    Raises:
        AccessError: If the file cannot be read, is readable by others, or has a weak key.
    """
    key = _read_secret(path).strip()
    if len(key) < _MIN_LENGTH or not key.isalnum():
        raise AccessError(f"{path}: expected a key of at least {_MIN_LENGTH} letters and digits")
    return key


def key_of(url: str) -> str | None:
    """Return the administrator's key of this user's server on loopback, None if there is none."""
    host, _, port = url.rpartition(":")
    if not port.isdecimal() or not is_loopback(host):
        return None
    path = key_file(int(port))
    return read_key(path) if path.is_file() else None


@dataclass(frozen=True)
class Credentials:
    """Secrets by which a server knows a client; see `albef.serving.client.Client`."""

    tls: Tls | None = None
    token: str | None = None
    admin_key: str | None = None

    def options(self, url: str) -> dict[str, Any]:
        """Return the arguments of a client, with the administrator's key of this user's own server."""
        return {"tls": self.tls, "token": self.token, "admin_key": self.admin_key or key_of(url)}


NOBODY = Credentials()
"""A client without credentials, except those of this user's own server."""


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of a command that connects to a server.

    Variables of the environment set their defaults.
    """
    for option, text in _OPTIONS.items():
        variable = "ALBEF_" + option.upper().replace("-", "_")
        default = os.environ.get(variable)
        help_text = f"{text} (default: variable {variable})"
        command.add_argument(f"--{option}", type=Path, default=Path(default) if default else None, help=help_text)


def credentials(args: argparse.Namespace) -> Credentials:
    """Return the credentials in the options of `add_options`.

    Raises:
        AccessError: If a file cannot be used.
    """
    files = Tls(args.tls_ca, args.tls_cert, args.tls_key)
    return Credentials(
        files if any(vars(files).values()) else None,
        read_tokens(args.token_file)[0] if args.token_file else None,
        read_key(args.admin_key) if args.admin_key else None,
    )


def is_loopback(host: str) -> bool:
    """Return whether an address is one of this machine's loopback interface."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_open(tls: Tls, tokens: Sequence[str]) -> bool:
    """Return whether anybody can connect, because neither tokens nor client certificates are required."""
    return not tokens and tls.ca is None


def check_address(host: str, tls: Tls, tokens: Sequence[str]) -> None:
    """Check that an address other than loopback is protected.

    Raises:
        AccessError: If TLS or the identification of clients is missing; the message says how to add it.
    """
    if is_loopback(host) or (tls.cert and not is_open(tls, tokens)):
        return
    raise AccessError(
        f"{host}: an address other than loopback needs TLS and identified clients; add --tls-cert and --tls-key, and "
        "--tokens or --tls-client-ca, or serve on 127.0.0.1"
    )


def same(given: str | None, expected: Sequence[str]) -> bool:
    """Return whether a secret is one of the expected ones, in constant time."""
    found = False
    for each in expected:
        found |= hmac.compare_digest((given or "").encode(), each.encode())
    return found


def headers(token: str | None, admin_key: str | None = None) -> dict[str, str]:
    """Return the metadata that identifies a client."""
    given = {AUTHORIZATION: token and f"Bearer {token}", ADMIN_HEADER: admin_key}
    return {name: value for name, value in given.items() if value}


def admits(metadata: dict[str, Any], tokens: Sequence[str]) -> bool:
    """Return whether the metadata of a request has a valid token, or none is required."""
    if not tokens:
        return True
    kind, _, token = str(metadata.get(AUTHORIZATION, "")).partition(" ")
    return same(token, tokens) and kind.lower() == "bearer"
