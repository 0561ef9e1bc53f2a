"""Model repository in S3-compatible storage, served by a real Triton server."""

from __future__ import annotations

import subprocess
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from albef.serving.client import Client
from albef.serving.server import ServerError, TritonServer, free_ports
from tests.errors import refuses
from tests.integration.serving.test_lifecycle import ROOT, command, gone, triton
from tests.integration.serving.test_lifecycle import address as address_in

BUCKET = "albef"


@pytest.fixture(scope="module")
def storage():
    server = ThreadedMotoServer("127.0.0.1", free_ports(1)[0])
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def credentials(monkeypatch):
    for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)


def put(storage: str, folder: Path, name: str) -> str:
    """Copy a folder into the storage.

    Returns:
        Its address in the format of Triton.
    """
    client = boto3.client("s3", endpoint_url=storage)
    client.create_bucket(Bucket=BUCKET)
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), BUCKET, f"{name}/{path.relative_to(folder).as_posix()}")
    return f"s3://{storage}/{BUCKET}/{name}"


def test_served_from_storage(retrieval_alone, runtime, storage, credentials, client):
    address = put(storage, retrieval_alone, "repository")
    with subprocess.Popen(command(address), cwd=ROOT, stdout=subprocess.PIPE, text=True) as serving:
        try:
            line = serving.stdout.readline()
            assert line.startswith(f"serving {address}: ")
            (server,) = triton(serving.pid)
            with Client(address_in(line)) as other:
                assert other.ready()
                assert other.retrieve(text="red") == client.retrieve(text="red")
            serving.terminate()
            assert serving.wait(30) == 0
        finally:
            serving.kill()
    assert gone(server)


def test_nothing_in_storage_is_said(runtime, storage, credentials):
    boto3.client("s3", endpoint_url=storage).create_bucket(Bucket="empty")
    with refuses(ServerError, "status 1"):
        TritonServer(f"s3://{storage}/empty/nowhere", runtime=runtime).start()
