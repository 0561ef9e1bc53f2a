"""Tests of initializing models from pretrained parts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from albef.config import Config, ConfigError, InitConfig
from albef.models.albef import ALBEF
from albef.models.bert import key_mask
from albef.models.vision import resize_positions
from albef.weights import init_weights
from albef.weights.official import CheckpointError
from tests.errors import refuses
from tests.worlds import tiny_config

VOCABULARY = 60
VIT: dict[str, Any] = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}


def config(text: str | None = None, vision: str | None = None, **model: Any) -> Config:
    base = tiny_config()
    sizes = dataclasses.replace(
        base.model,
        vision=dataclasses.replace(base.model.vision, stem="patch"),
        text=dataclasses.replace(base.model.text, layers=2, fusion_layers=2),
    )
    return dataclasses.replace(
        base,
        model=dataclasses.replace(sizes, **model),
        tokenizer=dataclasses.replace(base.tokenizer, kind="bert"),
        init=InitConfig(vision=vision, text=text),
    )


def built(config: Config) -> ALBEF:
    torch.manual_seed(1)
    return ALBEF(config.model, VOCABULARY).eval()


def vit(**changes: Any) -> nn.Module:
    """A vision transformer of timm with random weights and a class head."""
    torch.manual_seed(2)
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", **{**VIT, **changes})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def bert(folder: Path, mlm: bool = True, **changes: Any) -> Any:
    """A random BERT of transformers, saved in ``folder``."""
    from transformers import BertConfig, BertForMaskedLM, BertModel

    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 64, **changes}
    torch.manual_seed(3)
    model = (BertForMaskedLM if mlm else BertModel)(BertConfig(**sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.eval()


def tokens() -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 5:] = 0
    return torch.randint(VOCABULARY, (3, 9)), mask


@pytest.mark.parametrize("mlm", [True, False], ids=["with MLM head", "without"])
def test_a_bert_cut_in_two_computes_what_it_did(tmp_path: Path, mlm: bool) -> None:
    reference = bert(tmp_path, mlm)
    model = built(given := config(text=str(tmp_path)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fresh = init_weights.initialize(model, given)
    ids, mask = tokens()
    encoder = reference.bert if mlm else reference
    with torch.no_grad():
        states = encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        ours = model.student.text(ids, mask)
        real = mask.bool()
        torch.testing.assert_close(ours[real], states[2][real], rtol=0, atol=1e-5)
        for layer in model.student.fusion.layers:  # as they are but for the look at the image
            ours = layer.feed_forward(layer.attention(ours, key_mask(mask)))
        torch.testing.assert_close(ours[real], states[4][real], rtol=0, atol=1e-5)
        if mlm:
            logits = reference(input_ids=ids, attention_mask=mask).logits
            torch.testing.assert_close(model.student.word_logits(ours)[real], logits[real], rtol=0, atol=1e-4)
    crossing = [name for name in before if ".cross_attention." in name and name.startswith("student.")]
    assert crossing
    for name in crossing:
        assert torch.equal(model.state_dict()[name], before[name])
    assert {*crossing} <= {*fresh}
    assert any(name.startswith("student.mlm_head.") for name in fresh) != mlm
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, model.student.state_dict()[name]), name


def test_names_of_old_checkpoints(tmp_path: Path) -> None:
    reference = bert(tmp_path / "new")
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in reference.state_dict().items()
    }
    torch.save({**state, "bert.embeddings.position_ids": torch.arange(64)[None]}, tmp_path / "pytorch_model.bin")
    one, other = built(config()), built(config())
    init_weights.initialize(one, config(text=str(tmp_path / "new")))
    init_weights.initialize(other, config(text=str(tmp_path / "pytorch_model.bin")))
    for name, value in one.student.state_dict().items():
        assert torch.equal(value, other.student.state_dict()[name]), name


def saved(model: nn.Module, path: Path) -> Path:
    """A state dict in the format of the suffix; a folder gets timm's description beside it."""
    state = model.state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif path.suffix:
        torch.save({"model": state} if path.suffix == ".pth" else state, path)
    else:
        path.mkdir()
        save_file(state, path / "model.safetensors")
        described = {"architecture": "vit_tiny_patch16_224", "model_args": VIT}
        (path / "config.json").write_text(json.dumps(described))
    return path


@pytest.mark.parametrize("name", ["vit.safetensors", "vit.pth", "vit.bin", "folder"])
def test_a_vit_gives_the_tokens_it_gave(tmp_path: Path, name: str) -> None:
    reference = vit()
    model = built(given := config(vision=str(saved(reference, tmp_path / name)), image_size=64))
    fresh = init_weights.initialize(model, given)
    assert not [name for name in fresh if name.startswith("student.vision.")]
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.student.vision(pixels), reference.forward_features(pixels), rtol=0, atol=1e-5)
    for key, value in model.teacher.state_dict().items():
        assert torch.equal(value, model.student.state_dict()[key]), key


def test_positions_are_interpolated(tmp_path: Path) -> None:
    reference = vit()
    model = built(given := config(vision=str(saved(reference, tmp_path / "vit.pth")), image_size=96))
    init_weights.initialize(model, given)
    assert torch.equal(model.student.vision.vit.pos_embed, resize_positions(reference.pos_embed, 37))


def test_nothing_named_is_nothing_done() -> None:
    model = built(config())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    init_weights.initialize(model, config())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (
            {"embed_dim": 48, "depth": 3, "num_heads": 3},
            ["model.vision.width", 32, 48, "model.vision.depth", 2, 3],
        ),
        ({"patch_size": 8}, ["model.patch_size", 16, 8]),
        ({"mlp_ratio": 2}, ["blocks.0.mlp.fc1.weight", "(64, 32)", "(128, 32)"]),
        ({"init_values": 0.1}, ["blocks.0.ls1.gamma"]),
        ({"class_token": False, "global_pool": "avg"}, ["cls_token"]),
    ],
)
def test_a_vit_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], names: list[Any]) -> None:
    given = config(vision=str(saved(vit(**changes), tmp_path / "vit.pth")), image_size=64)
    with refuses(CheckpointError, "init.vision", *names):
        init_weights.initialize(built(given), given)


def test_heads_are_compared_where_a_folder_tells_them(tmp_path: Path) -> None:
    path = saved(vit(), tmp_path / "folder")
    (path / "config.json").write_text(
        json.dumps({"architecture": "vit_tiny_patch16_224", "model_args": {**VIT, "num_heads": 4}})
    )
    with refuses(CheckpointError, "model.vision.heads", 2, 4):
        init_weights.initialize(built(given := config(vision=str(path), image_size=64)), given)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (
            {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3},
            ["model.text.width", 32, 48, "model.text.fusion_layers", 4, 3, "model.text.heads", 2],
        ),
        (
            {"intermediate_size": 80, "max_position_embeddings": 40},
            ["model.text.ffn", 64, 80, "model.text.max_positions", 40],
        ),
        ({"vocab_size": 61}, ["vocabulary", 60, 61]),
        ({"hidden_act": "relu"}, ["hidden_act", "'relu'", "config.json", "'gelu'"]),
    ],
)
def test_a_bert_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], names: list[Any]) -> None:
    bert(tmp_path, **changes)
    given = config(text=str(tmp_path))
    with refuses(CheckpointError, *names):
        init_weights.initialize(built(given), given)


def test_a_bert_wants_its_own_vocabulary(tmp_path: Path) -> None:
    given = config(text=str(tmp_path))
    given = dataclasses.replace(given, tokenizer=dataclasses.replace(given.tokenizer, kind="wordpiece"))
    with refuses(ConfigError, "tokenizer.kind", "wordpiece", "bert"):
        init_weights.initialize(built(given), given)


def test_a_convolutional_stem_takes_no_vit(tmp_path: Path) -> None:
    given = config(vision=str(saved(vit(), tmp_path / "vit.pth")))
    vision = dataclasses.replace(given.model.vision, stem="conv")
    given = dataclasses.replace(given, model=dataclasses.replace(given.model, vision=vision))
    with refuses(ConfigError, "model.vision.stem", "conv", "patch"):
        init_weights.initialize(built(given), given)


@pytest.mark.parametrize("content", [None, b"nonsense"])
def test_an_unreadable_part_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "part.pth"
    if content is not None:
        path.write_bytes(content)
    with refuses(CheckpointError, path):
        init_weights.initialize(built(given := config(vision=str(path))), given)


def test_a_name_timm_does_not_know_is_named() -> None:
    with refuses(CheckpointError, "timm:no_such_model"):
        init_weights.initialize(built(given := config(vision="timm:no_such_model")), given)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    path = saved(vit(), tmp_path / "folder")
    (path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    with refuses(CheckpointError, "ResNet", "VisionTransformer"):
        init_weights.initialize(built(given := config(vision=str(path))), given)


def test_a_bert_that_is_nowhere_is_named() -> None:
    with refuses(CheckpointError, "no/such/model"):
        init_weights.initialize(built(given := config(text="no/such/model")), given)


def test_local_files_are_inputs_of_the_run(tmp_path: Path) -> None:
    bert(tmp_path)
    init = InitConfig(vision="timm:vit_tiny_patch16_224", text=str(tmp_path))
    assert init_weights.files(init) == [tmp_path / "model.safetensors"]
