"""Pipeline results shared through S3-compatible storage."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from albef.serving.server import free_ports
from tests.e2e.tree import Tree, copy_sources, ran

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def storage(monkeypatch):
    """Address of an S3 API with a bucket ``results``."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer("127.0.0.1", free_ports(1)[0])
    server.start()
    host, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="results")
    yield f"http://{host}:{port}"
    server.stop()


def configure(tree: Tree, storage: str) -> None:
    tree.dvc("remote", "add", "--default", "--force", "store", "s3://results/albef")
    tree.dvc("remote", "modify", "store", "endpointurl", storage)


def test_another_clone_computes_nothing(tree: Tree, storage: str, tmp_path: Path) -> None:
    config = (tree.root / ".dvc" / "config").read_bytes()
    configure(tree, storage)
    try:
        tree.dvc("push", "--run-cache")
    finally:
        (tree.root / ".dvc" / "config").write_bytes(config)

    laptop = Tree(tmp_path / "laptop", tree.record)
    laptop.root.mkdir()
    copy_sources(laptop.root)
    (laptop.root / "params.yaml").write_bytes((tree.root / "params.yaml").read_bytes())
    (laptop.root / "dvc.lock").unlink(missing_ok=True)  # the run cache alone has to do
    laptop.run("git", "init", "-q")
    configure(laptop, storage)
    output = laptop.dvc("repro", "--pull", "evaluate@nlvr2")
    assert ran(output) == []
    assert output.count("is cached - skipping run") >= 6, output
    for name in ("pretrain/model.pth", "evaluate/nlvr2/metrics.json"):
        assert (laptop.root / "artifacts" / name).read_bytes() == (tree.root / "artifacts" / name).read_bytes()
