"""Tokenizer: WordPiece trained on the training lists, or the vocabulary of a BERT-like model.

Ids of special tokens are read from the vocabulary, never assumed.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tqdm import tqdm

from albef.config import TokenizerConfig
from albef.data.files import new_folder
from albef.data.text import clean, pre_caption

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Tokens for padding, unknown characters, start, end and masked tokens, as named by BERT."""
_ROBERTA = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
_UNK = SPECIAL[1]
FILE = "tokenizer.json"

_TEXT_KEYS = ("caption", "question", "answer", "sentence", "text")


class TokenizerError(ValueError):
    """A tokenizer file or source that ALBEF cannot use."""


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a WordPiece tokenizer.

    The result does not depend on the order of ``texts``.

    Args:
        vocab_size: Upper bound of the vocabulary, special tokens included.

    Raises:
        TokenizerError: If there is no text, or ``vocab_size`` is too small for the alphabet.
    """
    tokenizer = _bare(models.WordPiece(unk_token=_UNK))
    counts = Counter(text for text in map(clean, texts) if text)
    if not counts:
        raise TokenizerError("tokenizer: no text in the training lists, expected at least one caption")
    characters = Counter[str]()
    for text, count in counts.items():
        for character in text.replace(" ", ""):
            characters[character] += count
    # Rare characters of a web crawl stay unknown, as they would fill the vocabulary.
    alphabet = sorted(sorted(characters, key=lambda c: (-characters[c], c))[: max(vocab_size // 4, 1)])
    # The trainer numbers "##x" pieces in hash-map order and breaks ties by number. Passing them as special tokens fixes
    # their numbers, so equal texts give equal files.
    suffixes = [f"##{character}" for character in alphabet]
    if len(SPECIAL) + 2 * len(alphabet) > vocab_size:
        raise TokenizerError(
            f"tokenizer.vocab_size: {vocab_size} is too small, expected at least {len(SPECIAL) + 2 * len(alphabet)}"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL, *suffixes],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator((t for t, n in sorted(counts.items()) for _ in range(n)), trainer)
    pieces = sorted(set(tokenizer.get_vocab()) - set(SPECIAL))
    vocab = {token: i for i, token in enumerate((*SPECIAL, *pieces))}
    return _finish(_bare(models.WordPiece(vocab=vocab, unk_token=_UNK)))


def from_bert(source: str) -> Tokenizer:
    """Load the vocabulary of a BERT-like model.

    Args:
        source: Local folder or name on the hub.

    Raises:
        TokenizerError: If it cannot be loaded or lacks a special token.
    """
    from transformers import AutoTokenizer

    try:
        backend = AutoTokenizer.from_pretrained(source).backend_tokenizer
    except Exception as error:  # missing folder, no network and no fast tokenizer raise different types
        raise TokenizerError(f"tokenizer.source: cannot load a fast tokenizer from {source!r} ({error})") from error
    return _finish(Tokenizer.from_str(backend.to_str()))


def load(path: str | Path) -> Tokenizer:
    """Read a tokenizer file, or ``tokenizer.json`` of a folder.

    Raises:
        TokenizerError: If the file is missing, is not a tokenizer or lacks a special token.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise TokenizerError(f"{path}: no such file, expected a tokenizer written by `albef tokenizer`")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"{path}: not a tokenizer file ({error})") from error
    special_tokens(tokenizer, str(path))
    return tokenizer


def resolve(source: str | Path) -> Tokenizer:
    """Load a tokenizer file, a folder with one, or the vocabulary of a BERT-like model (`from_bert`).

    Raises:
        TokenizerError: If it cannot be loaded or lacks a special token.
    """
    path = Path(source)
    file = path / FILE if path.is_dir() else path
    return _finish(load(file)) if file.is_file() else from_bert(str(source))


def _bare(model: models.WordPiece) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _finish(tokenizer: Tokenizer) -> Tokenizer:
    """Configure ALBEF's encoding.

    Texts start with [CLS] and have no [SEP]; they are neither truncated nor padded.
    """
    special = special_tokens(tokenizer)
    cls = special[2]
    tokenizer.add_special_tokens(list(special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A", pair=f"{cls} $A $B", special_tokens=[(cls, tokenizer.token_to_id(cls))]
    )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def special_tokens(tokenizer: Tokenizer, where: str = "tokenizer") -> tuple[str, ...]:
    """Return the names of the tokens of `SPECIAL`, which are those of BERT or RoBERTa.

    Args:
        where: Name of the tokenizer in error messages.

    Raises:
        TokenizerError: If one of them is not in the vocabulary.
    """
    for names in (SPECIAL, _ROBERTA):
        if all(tokenizer.token_to_id(name) is not None for name in names):
            return names
    missing = [name for name in SPECIAL if tokenizer.token_to_id(name) is None]
    raise TokenizerError(
        f"{where}: the vocabulary lacks {', '.join(missing)}, expected {' '.join(SPECIAL)} or {' '.join(_ROBERTA)}"
    )


class Encoder:
    """Text encoder that cleans and tokenizes batches."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        self.pad, self.unk, self.cls, self.sep, self.mask = (vocabulary[name] for name in special_tokens(tokenizer))
        self.vocab_size = int(tokenizer.get_vocab_size())

    @classmethod
    def from_file(cls, path: str | Path) -> Encoder:
        """Read a tokenizer file; see `load` for the errors."""
        return cls(load(path))

    def encode_batch(
        self,
        texts: Sequence[str],
        *,
        max_tokens: int | None = None,
        max_words: int | None = None,
        end: bool = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return token ids and mask of a batch, padded to equal length.

        Args:
            max_tokens: Maximum length, [CLS] and the end token included.
            max_words: Clean the texts and keep this many words; None leaves them unchanged.
            end: Append [SEP] to every text, as for the decoder's answers.

        Returns:
            Ids and mask, each of shape (B, L).
        """
        if max_words is not None:
            texts = [pre_caption(t, max_words) for t in texts]
        encoded = [e.ids for e in self.tokenizer.encode_batch_fast(list(texts))]
        if max_tokens is not None:
            limit = max_tokens - end
            encoded = [row[:limit] for row in encoded]
        if end:
            encoded = [[*row, self.sep] for row in encoded]
        length = max((len(row) for row in encoded), default=0)
        ids = np.full((len(encoded), length), self.pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(encoded):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        return ids, mask


def texts_of(record: Any) -> list[str]:
    """Return every text of a record of any list."""
    texts: list[str] = []
    for key in _TEXT_KEYS:
        value = record.get(key)
        texts.extend([value] if isinstance(value, str) else value or [])
    return texts


def run(config: TokenizerConfig, lists: Path, out: Path) -> None:
    """Run the `tokenizer` stage and write ``tokenizer.json``.

    Args:
        lists: Folder of the validated lists, of which only pretraining and train lists are read.

    Raises:
        TokenizerError: If there is nothing to train on or the source does not load.
    """
    if config.kind == "bert":
        if config.source is None:
            raise TokenizerError("tokenizer.source: missing, expected a local folder or hub name for the kind 'bert'")
        tokenizer = from_bert(config.source)
    else:
        from albef.data.lists import file_of, names_in, records_of  # serving needs no tables

        names = sorted(name for name in names_in(lists) if name == "pretrain" or name.endswith("_train"))
        if not names:
            raise TokenizerError(f"{lists}: no list such as pretrain, expected the lists of `albef validate`")
        texts = (
            text
            for name in tqdm(names, desc="tokenizer", unit="list", disable=None)
            for record in records_of(file_of(lists, name))
            for text in texts_of(record)
        )
        tokenizer = train(texts, config.vocab_size)
    with new_folder(out) as folder:
        tokenizer.save(str(folder / FILE))
        summary = {
            "kind": config.kind,
            "vocab_size": tokenizer.get_vocab_size(),
            "special": list(special_tokens(tokenizer)),
        }
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + os.linesep, encoding="utf-8")
