"""Images, captions, answers and examples of the page, and the words of the training texts."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path, PurePosixPath

from albef.data.images import SUFFIXES
from albef.data.lists import file_of, names_in, records_of
from albef.data.schema import images_of
from albef.data.text import clean
from albef.data.tokenizer import texts_of

_EXAMPLES = 4
"""Most examples of a tab."""


class Data:
    """Data beside the models, each part empty where it is missing."""

    def __init__(self, images: Path, lists: Path) -> None:
        self.folder, self.lists = images, lists
        self.images = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        self._known = frozenset(self.images)

    def find(self, name: str) -> Path | None:
        """Return the file of an image of a list or an index.

        The folder may be any of those in its path.
        """
        parts = PurePosixPath(name).parts
        files = (self.folder.joinpath(*parts[start:]) for start in range(len(parts)))
        return next((file for file in files if file in self._known), None)

    def rows(self, name: str) -> list[tuple[list[Path], str]]:
        """Return examples from a list, evenly spaced: images and the first text of a record."""
        path = file_of(self.lists, name)
        if not path.is_file():
            return []
        records = records_of(path)
        found = []
        for number in range(0, len(records), max(1, len(records) // _EXAMPLES)):
            files = [self.find(image) for image in images_of(records[number])]
            if None not in files:
                found.append(([file for file in files if file], texts_of(records[number])[0]))
        return found[:_EXAMPLES]

    @cached_property
    def captions(self) -> list[str]:
        """Distinct captions of the test list of retrieval."""
        path = file_of(self.lists, "retrieval_test")
        records = records_of(path) if path.is_file() else []
        return list(dict.fromkeys(text for record in records for text in texts_of(record)))

    @cached_property
    def answers(self) -> list[str] | None:
        """Answers of the training set, None if unknown."""
        path = self.lists / "answer_list.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    @cached_property
    def words(self) -> frozenset[str]:
        """Words of the training texts of all tasks, cleaned as before tokenization."""
        names = [name for name in names_in(self.lists) if name == "pretrain" or name.endswith("_train")]
        texts = (
            text for name in names for record in records_of(file_of(self.lists, name)) for text in texts_of(record)
        )
        return frozenset(word for text in texts for word in clean(text).split())

    def unknown(self, text: str) -> list[str]:
        """Return the words of a text that no training text contains.

        A model has not learned what such a word means, though its tokenizer reads any word in pieces. Without training
        texts, no word is unknown.
        """
        words = dict.fromkeys(clean(text).split()) if self.words else {}
        return [word for word in words if word not in self.words and any(map(str.isalnum, word))]
