"""Pretraining on shards of an S3 server: killed and resumed, prepared by the pipeline's commands."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import boto3
import pytest
import torch
from moto.server import ThreadedMotoServer

from albef import cli
from albef.config import Config, PairsConfig, StreamConfig
from albef.data.faults import LIST
from albef.data.shards import place_of
from albef.serving.server import free_ports
from tests.shards import WORDS, cut_within, pairs, write_tar
from tests.trainings import command, wait_for, weights
from tests.worlds import tiny_config, write_params

SHARDS, ROWS = 10, 12
HELD_OUT = 0.2
"""Fraction of each of val and test."""
BAD = next(row for row, (key, _, _) in enumerate(pairs(4, ROWS)) if place_of(key) > 2 * HELD_OUT)
"""Damaged image, one that is trained on."""


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", free_ports(1)[0])
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret"), ("DEFAULT_REGION", "us-east-1")):
            patch.setenv(f"AWS_{name}", value)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def shards(storage: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Upload ten shards, of which one is cut off and one has a damaged image.

    Returns:
        The pattern of the first six.
    """
    client = boto3.client("s3", endpoint_url=storage)
    client.create_bucket(Bucket="pairs")
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(SHARDS):
        path = folder / f"{shard:05}.tar"
        content = pairs(shard, ROWS)
        if shard == 4:
            content[BAD] = (content[BAD][0], b"no image", content[BAD][2])
        write_tar(path, content)
        if shard == 7:
            cut_within(path, 24)
        client.upload_file(str(path), "pairs", path.name)
    return "s3://pairs/{00000..00005}.tar"


def _config(shards: str, workers: int) -> Config:
    config = tiny_config(epochs=3, num_workers=workers, augment="randaugment", max_bad_share=0.2, checkpoint_every=2)
    train = dataclasses.replace(config.pretrain, mixing_temperature=2.0)
    sources = {shards: 90, "s3://pairs/{00006..00009}.tar": 10}
    prepare = dataclasses.replace(
        config.prepare,
        source="stream",
        pairs=PairsConfig(path=shards, val=HELD_OUT, test=HELD_OUT),
        stream=StreamConfig(rows=64, sources=sources, open_shards=2, window=3, sample=40),
    )
    gate = dataclasses.replace(config.validate, on_bad_record="quarantine", max_bad_share=0.2)
    return dataclasses.replace(config, prepare=prepare, validate=gate, pretrain=train)


@pytest.fixture(scope="module")
def world(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set after all stages before pretraining, as folders of `command`."""
    folder = tmp_path_factory.mktemp("world")
    params = ["--params", str(write_params(_config(shards, 0), folder / "params.yaml"))]
    out = [str(folder / name) for name in ("raw", "prepared", "validated", "tokenizer")]
    assert cli.main(["inspect", *params, "--raw", str(folder), "--out", out[0]]) == 0
    assert cli.main(["prepare", *params, "--raw", str(folder), "--out", out[1]]) == 0
    assert cli.main(["validate", *params, "--data", out[1], "--out", out[2]]) == 0
    (folder / "lists").symlink_to(folder / "validated" / "lists")
    assert cli.main(["tokenizer", *params, "--lists", str(folder / "lists"), "--out", out[3]]) == 0
    for path in (folder / "prepared").iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def test_a_sample_is_prepared(world: Path) -> None:
    manifest = json.loads((world / "manifest.json").read_text())
    assert manifest["stream"]["shards"] == [f"s3://pairs/{shard:05}.tar" for shard in range(SHARDS)]
    assert manifest["images"]["count"] == 40
    assert {"pretrain", "retrieval_train", "retrieval_val", "retrieval_test"} <= set(manifest["lists"])
    assert set(WORDS) & set(json.loads((world / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"])


def test_killed_and_resumed_equals_undisturbed(world: Path, shards: str, tmp_path: Path) -> None:
    write_params(_config(shards, workers=2), world / "params.yaml")
    whole, killed, scratch = tmp_path / "whole", tmp_path / "killed", tmp_path / "scratch"
    run = partial(subprocess.run, check=True, timeout=300, capture_output=True, text=True)
    run(command(world, whole, tmp_path / "scratch-whole", "pretrain"))
    process = subprocess.Popen(command(world, killed, scratch, "pretrain"), stderr=subprocess.PIPE, text=True)
    wait_for(scratch / "run" / "checkpoint.pt", process, 3)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (killed / "model.pth").exists()
    assert "resuming at step" in run(command(world, killed, scratch, "pretrain")).stderr
    first, second = weights(whole), weights(killed)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert (whole / "history.csv").read_text() == (killed / "history.csv").read_text()
    listed = (whole / LIST).read_text()
    assert listed == (killed / LIST).read_text()
    assert f"00004.tar, sample {BAD}" in listed
    assert "00007.tar, sample 8" in listed
