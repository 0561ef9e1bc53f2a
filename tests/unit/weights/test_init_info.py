"""Tests of `albef init-info` for complete models, image encoders and the command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import timm
import torch

from albef import cli
from albef.models.albef import ALBEF
from albef.weights import checkpoint, init_info
from albef.weights.official import to_official
from tests.worlds import tiny_config, write_params


@pytest.fixture(scope="module")
def model() -> ALBEF:
    torch.manual_seed(0)
    return ALBEF(tiny_config().model, 60, "pretrain")


@pytest.mark.parametrize("official", [False, True])
def test_a_complete_model(tmp_path: Path, model: ALBEF, official: bool) -> None:
    source = tmp_path / "model.pth"
    if official:
        state = to_official(model.state_dict(), model.config.text.layers, model.task)
        torch.save({"model": {**state, "extra": torch.zeros(1)}}, source)
    else:
        checkpoint.save(model, source)
    same = init_info.inspect(tiny_config(), str(source))
    assert (same.kind, same.task, same.problems, same.left) == ("checkpoint", "pretrain", [], [])
    assert same.ignored == (["extra"] if official else [])
    assert {name for name in model.state_dict() if name.startswith("student.")} <= {*same.loaded}
    vqa = init_info.inspect(tiny_config(), str(tmp_path), task="vqa")
    assert vqa.fits
    assert vqa.left == []  # the decoder starts from the fusion encoder

    other = tiny_config()
    text = dataclasses.replace(other.model.text, ffn=80)
    other = dataclasses.replace(other, model=dataclasses.replace(other.model, text=text))
    info = init_info.inspect(other, str(source))
    assert not info.fits
    assert any("ffn" in text or "(80, 32)" in text for text in info.problems)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}
    torch.save(timm.create_model("vit_tiny_patch16_224", **sizes).state_dict(), tmp_path / "vit.pth")
    config = tiny_config()
    for depth, code in ((2, 0), (3, 1)):
        vision = dataclasses.replace(config.model.vision, stem="patch", depth=depth)
        changed = dataclasses.replace(config, model=dataclasses.replace(config.model, vision=vision))
        params = write_params(changed, tmp_path / "params.json")
        arguments = ["init-info", str(tmp_path / "vit.pth"), "--params", str(params)]
        if code:
            with pytest.raises(SystemExit) as stopped:
                cli.main([*arguments, "--json"])
            assert stopped.value.code == code
            info = json.loads(capsys.readouterr().out)
            assert not info["fits"]
            assert {*info["ignored"]} == {"head.weight", "head.bias"}
        else:
            assert cli.main(arguments) == 0
            assert str(tmp_path / "vit.pth") in capsys.readouterr().out
    assert cli.main(["init-info", str(tmp_path / "params.json"), "--params", str(params)]) == 2
