"""Tests of text encoders of transformers by name, and of MiniLM's real weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from albef.config import Config, ConfigError, InitConfig, TokenizerConfig
from albef.data import tokenizer
from albef.data.tokenizer import Encoder, special_tokens
from albef.models.albef import ALBEF
from albef.models.bert import key_mask
from albef.models.encoders import TEXT_FAMILIES, resolve
from albef.weights import init_info, init_weights
from albef.weights.official import CheckpointError
from tests.errors import refuses
from tests.minilm import minilm
from tests.worlds import tiny_config

SENTENCES = ["A red ball lies left of two small, green boxes.", "Nobody is here", "the dog's 3rd hat is half-eaten"]


def named(source: str | Path, **text: Any) -> Config:
    """The tiny configuration with the text encoder of ``source`` and its weights."""
    base = tiny_config()
    sizes = dict.fromkeys(("width", "layers", "fusion_layers", "heads", "ffn", "max_positions"))
    section = dataclasses.replace(base.model.text, **{**sizes, "name": str(source), **text})
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, text=section),
        tokenizer=TokenizerConfig(kind="bert", vocab_size=1, source=str(source)),
        init=InitConfig(vision=None, text=str(source)),
    )


def states_of(model: ALBEF, ids: Tensor, mask: Tensor) -> Tensor:
    """States after all layers; fusion layers skip their attention to an image."""
    states: Tensor = model.student.text(ids, mask)
    for layer in model.student.fusion.layers:
        states = layer.feed_forward(layer.attention(states, key_mask(mask)))
    return states


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """The encoder of the tokenizer stage, from MiniLM's own vocabulary."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.run(TokenizerConfig(kind="bert", vocab_size=1, source=str(minilm())), folder, folder / "out")
    return Encoder.from_file(folder / "out/tokenizer.json")


@pytest.fixture(scope="module")
def model(encoder: Encoder) -> ALBEF:
    config = named(minilm())
    built = ALBEF(config.model, encoder.vocab_size, "retrieval").eval()
    init_weights.initialize(built, config)
    return built


def test_real_weights_give_the_states_they_gave(model: ALBEF, encoder: Encoder) -> None:
    from transformers import BertModel

    assert (len(model.student.text.layers), len(model.student.fusion.layers)) == (3, 3)
    reference = BertModel.from_pretrained(minilm()).eval()
    ids, mask = (torch.from_numpy(array) for array in encoder.encode_batch(SENTENCES))
    real = mask.bool()
    with torch.no_grad():
        expected = reference(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        torch.testing.assert_close(model.student.text(ids, mask)[real], expected[3][real], rtol=0, atol=1e-5)
        torch.testing.assert_close(states_of(model, ids, mask)[real], expected[6][real], rtol=0, atol=1e-5)
    assert torch.equal(model.teacher.text.embeddings.word.weight, reference.embeddings.word_embeddings.weight)


def test_the_vocabulary_of_the_weights_is_taken(encoder: Encoder) -> None:
    from transformers import AutoTokenizer

    original = AutoTokenizer.from_pretrained(minilm())
    ids, _ = encoder.encode_batch([SENTENCES[0]])
    assert ids[0].tolist() == original(SENTENCES[0]).input_ids[:-1]  # ALBEF's texts do not end with [SEP]


def test_info_of_weights_that_fit() -> None:
    info = init_info.inspect(named(minilm()), str(minilm()))
    assert (info.kind, info.fits, info.problems) == ("text", True, [])
    assert info.parameters == 22_565_376
    assert {"pooler.dense.weight", "pooler.dense.bias"} == set(info.ignored)
    assert "student.fusion.layers.0.cross_attention.query.weight" in info.left
    assert not [name for name in info.left if name.startswith("student.text.")]
    assert json.loads(info.to_json())["fits"] is True


def test_info_of_weights_that_do_not_fit() -> None:
    info = init_info.inspect(named(minilm(), width=192, layers=2, fusion_layers=2), str(minilm()))
    assert not info.fits
    assert any(text.startswith("model.text.width is 192 and 384") for text in info.problems)
    assert any("(1536, 384)" in text and "(1536, 192)" in text for text in info.problems)
    assert not [name for name in info.loaded if name.endswith(".word.weight")]


def random_model(folder: Path, kind: str, **changes: Any) -> Any:
    """A random model of transformers with an MLM head, saved in ``folder``."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 34, "pad_token_id": 1, "type_vocab_size": 1}
    sizes |= {"embedding_size": 32} if kind == "electra" else {}
    config = AutoConfig.for_model(kind, **{**sizes, "layer_norm_eps": 1e-5, **changes})
    torch.manual_seed(3)
    model = AutoModelForMaskedLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("kind", [kind for kind in TEXT_FAMILIES if kind != "camembert"])
def test_every_family_gives_the_states_it_gave(tmp_path: Path, kind: str) -> None:
    reference = random_model(tmp_path, kind)
    config = named(tmp_path, layers=1)
    model = ALBEF(config.model, 60).eval()
    text = model.config.text
    offset = 2 if TEXT_FAMILIES[kind].padded_positions else 0
    assert (text.layers, text.fusion_layers, text.max_positions, text.layer_norm_eps) == (1, 2, 34 - offset, 1e-5)
    fresh = init_weights.initialize(model, config)
    ids, mask = torch.randint(2, 60, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask[1, 5:], ids[1, 5:] = 0, 1
    real = mask.bool()
    with torch.no_grad():
        result = reference(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        states = states_of(model, ids, mask)
        torch.testing.assert_close(states[real], result.hidden_states[-1][real], rtol=0, atol=1e-5)
        if TEXT_FAMILIES[kind].head:
            torch.testing.assert_close(model.student.word_logits(states)[real], result.logits[real], rtol=0, atol=1e-4)
    assert any(name.startswith("student.mlm_head.") for name in fresh) != bool(TEXT_FAMILIES[kind].head)


def test_a_name_of_a_type_has_its_default_sizes() -> None:
    text = resolve(named("roberta").model).text
    assert (text.width, text.layers, text.fusion_layers, text.max_positions, text.layer_norm_eps) == (
        768,
        6,
        6,
        510,
        1e-12,
    )


@pytest.mark.parametrize(
    "content",
    [
        {"model_type": "deberta-v2", "hidden_size": 32},
        {"model_type": "bert", "hidden_size": 32, "hidden_act": "relu"},
        {"model_type": "electra", "hidden_size": 32, "embedding_size": 16},
        None,
    ],
)
def test_a_text_encoder_that_does_not_fit(tmp_path: Path, content: dict[str, Any] | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError) as error:
        resolve(named(tmp_path).model)
    assert "model.text.name" in str(error.value)
    if content is None or content["model_type"] == "deberta-v2":
        assert all(kind in str(error.value) for kind in TEXT_FAMILIES)


def test_epsilons_are_compared(tmp_path: Path) -> None:
    random_model(tmp_path, "roberta")
    config = named(tmp_path, norm_eps=1e-12)
    with refuses(CheckpointError, "model.text.norm_eps", 1e-12, 1e-05):
        init_weights.initialize(ALBEF(config.model, 60), config)


def test_special_tokens_of_roberta(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {name: i for i, name in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "Ġ"])}
    pieces = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    encoder = Encoder(tokenizer.from_bert(str(tmp_path)))
    assert special_tokens(encoder.tokenizer)[2] == "<s>"
    assert (encoder.pad, encoder.unk, encoder.cls, encoder.sep, encoder.mask) == (1, 3, 0, 2, 4)
    ids, mask = encoder.encode_batch(["a a", "a"], end=True)
    assert ids.tolist() == [[0, 5, 6, 5, 2], [0, 5, 2, 1, 1]]
    assert mask.tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
