from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from albef.config import TokenizerConfig
from albef.data import tokenizer
from albef.data.tables import RecordTable
from albef.data.tokenizer import SPECIAL, Encoder, TokenizerError
from tests import ROOT
from tests.errors import refuses

WORDPIECE = TokenizerConfig(kind="wordpiece", vocab_size=600)


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokenizer") / "out"
    tokenizer.run(WORDPIECE, prepared, out)
    return out


@pytest.fixture(scope="module")
def encoder(trained: Path) -> Encoder:
    return Encoder.from_file(trained)


def test_encodes_as_albef_does(encoder: Encoder) -> None:
    text = "A Dog, left-of a red apple!"
    ids, mask = encoder.encode_batch([text, "an owl"], max_words=30)
    tokens = [encoder.tokenizer.id_to_token(i) for i in ids[0]]
    assert tokens == ["[CLS]", "a", "dog", "left", "of", "a", "red", "apple"]
    assert (ids.dtype, mask.dtype, ids.shape) == (np.int64, np.int64, (2, 8))
    assert mask.sum(1).tolist() == [8, 3]
    assert set(ids[1, 3:]) == {encoder.pad}
    assert encoder.sep not in ids


def test_cuts_and_closes(encoder: Encoder) -> None:
    ids, mask = encoder.encode_batch(["a dog left of a cat"], max_tokens=4, max_words=30)
    assert ids.shape == (1, 4)
    assert ids[0, 0] == encoder.cls
    ids, mask = encoder.encode_batch(["a dog left of a cat", "a dog"], max_tokens=4, end=True)
    assert ids[0].tolist()[-1] == ids[1].tolist()[-1] == encoder.sep
    assert mask.tolist() == [[1] * 4] * 2
    assert encoder.encode_batch([], max_words=3)[0].shape == (0, 0)
    assert encoder.encode_batch(["one two three four"], max_words=2)[0].shape[1] <= 3


@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=5), most=st.integers(2, 12))
def test_any_text_gives_a_padded_batch(encoder: Encoder, texts: list[str], most: int) -> None:
    ids, mask = encoder.encode_batch(texts, max_tokens=most, max_words=10)
    assert ids.shape == mask.shape == (len(texts), mask.sum(1).max())
    assert ids.shape[1] <= most
    assert (ids[:, 0] == encoder.cls).all()
    assert ((ids == encoder.pad) == (mask == 0)).all()


def test_equal_lists_give_equal_files_in_every_process(prepared: Path, trained: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from albef.config import TokenizerConfig;"
        "from albef.data import tokenizer;"
        "tokenizer.run(TokenizerConfig(kind='wordpiece', vocab_size=600), Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    # Hash maps are seeded by process: only another process can differ.
    subprocess.run([sys.executable, "-c", script, str(prepared), str(tmp_path / "out")], check=True, cwd=ROOT)
    expected = (trained / "tokenizer.json").read_bytes()
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == expected


def test_the_order_of_texts_does_not_matter() -> None:
    texts = ["a dog left of a cat", "two dogs", "three owls above a bus", "two dogs"]
    assert tokenizer.train(texts, 80).to_str() == tokenizer.train(texts[::-1], 80).to_str()


def test_never_reads_evaluation_lists(prepared: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "pretrain.json").write_text(json.dumps([{"image": "a.png", "caption": "a dog"}]))
    (lists / "retrieval_test.json").write_text(json.dumps([{"image": "b.png", "caption": ["a zzyzx"]}]))
    tokenizer.run(WORDPIECE, lists, tmp_path / "out")
    assert "z" not in tokenizer.load(tmp_path / "out").get_vocab()


def test_every_training_word_of_the_demo_is_one_token(prepared: Path, encoder: Encoder) -> None:
    words = Counter(w for r in RecordTable(prepared / "retrieval_train.arrow") for w in r["caption"].split())
    vocab = encoder.tokenizer.get_vocab()
    assert [w for w, n in words.items() if w.strip(",") not in vocab] == []
    assert encoder.vocab_size <= 600


def test_the_vocabulary_is_bounded() -> None:
    crawl = ["".join(chr(0x4E00 + i) for i in range(k, k + 40)) for k in range(0, 4000, 40)]
    trained = tokenizer.train([*crawl, "a dog", "a dog"], 64)
    assert trained.get_vocab_size() <= 64
    assert trained.encode("a dog").tokens[0] == "[CLS]"
    with refuses(TokenizerError, "tokenizer.vocab_size", 6):
        tokenizer.train(["a dog"], 6)


def test_takes_a_bert_vocabulary(tmp_path: Path) -> None:
    from transformers import BertTokenizerFast

    folder = tmp_path / "bert"
    words = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "##gy"]
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizerFast(vocab={w: i for i, w in enumerate(words)}).save_pretrained(folder)
    tokenizer.run(TokenizerConfig(kind="bert", vocab_size=1, source=str(folder)), tmp_path, tmp_path / "out")
    encoder = Encoder.from_file(tmp_path / "out")
    # The ids of the original BERT vocabulary.
    assert (encoder.pad, encoder.unk, encoder.cls, encoder.sep, encoder.mask) == (0, 100, 101, 102, 103)
    assert encoder.encode_batch(["A doggy"])[0].tolist() == [[101, 104, 105, 106]]


def test_refuses_what_is_no_tokenizer(tmp_path: Path) -> None:
    with refuses(TokenizerError, "tokenizer.json"):
        tokenizer.load(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with refuses(TokenizerError, "tokenizer.json"):
        tokenizer.load(tmp_path)
    Tokenizer(models.WordPiece(vocab={"[UNK]": 0, "a": 1}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with refuses(TokenizerError, "[PAD], [CLS], [SEP], [MASK]"):
        tokenizer.load(tmp_path)
    with refuses(TokenizerError, "nowhere", "pretrain"):
        tokenizer.run(WORDPIECE, tmp_path / "nowhere", tmp_path / "out")
    with refuses(TokenizerError, "tokenizer.source", "'bert'"):
        tokenizer.run(TokenizerConfig(kind="bert", vocab_size=1), tmp_path, tmp_path / "out")
    with refuses(TokenizerError, "tokenizer.source", tmp_path / "no"):
        tokenizer.run(TokenizerConfig(kind="bert", vocab_size=1, source=str(tmp_path / "no")), tmp_path, tmp_path / "o")
    with pytest.raises(TokenizerError):
        tokenizer.train(["...", ""], 50)


def test_special_tokens_come_first(encoder: Encoder) -> None:
    assert [encoder.tokenizer.id_to_token(i) for i in range(5)] == list(SPECIAL)
    assert (encoder.pad, encoder.unk, encoder.cls, encoder.sep, encoder.mask) == (0, 1, 2, 3, 4)
