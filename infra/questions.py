"""Questions of ``make demo``.

Each line has an endpoint, an image file or "-", and a text, separated by tabs. They are about the built-in scenes, or
about the first test record of each task on own data.
"""

from __future__ import annotations

import sys
from pathlib import Path

from albef import config
from albef.data.commands import export
from albef.data.lists import Lists
from albef.data.schema import images_of
from albef.tasks import registry

EXPORTED = Path("artifacts/exported")
_IMAGE = "images/test/000000.png"
_BUILT_IN = (
    ("vqa", _IMAGE, "what is right of the banana"),
    ("entailment", _IMAGE, "a green book is left of a banana"),
    ("grounding", _IMAGE, "the green book on the right"),
)
_TEXTS = {"retrieval": "caption", "vqa": "question", "entailment": "sentence", "grounding": "text"}


def main(first: str) -> None:
    """Export the test images that questions are about, and print the questions.

    Args:
        first: Query of the built-in scenes.
    """
    params = config.load(Path("params.yaml"))
    tasks = [name for name, task in vars(params.tasks).items() if task is not None and name in _TEXTS]
    lists = Lists(Path("artifacts/validated/lists"), Path("artifacts/data"))
    built_in = params.prepare.source == "emoji"
    names = ["retrieval_test"] if built_in else [str(registry.spec(task).test_list) for task in tasks]
    names = [name for name in names if name in lists]
    if names:
        export(lists.folder, lists.images.folder, EXPORTED, names, None if built_in else 1)
    if built_in:
        questions = [("retrieval", "", first), *_BUILT_IN]
    else:
        questions = []
        for task in tasks:
            if (name := str(registry.spec(task).test_list)) in lists:
                record = next(iter(lists[name]))
                text = record[_TEXTS[task]]
                image = "" if task == "retrieval" else images_of(record)[0]
                questions.append((task, image, text if isinstance(text, str) else text[0]))
    for task, image, text in questions:
        if task in tasks:
            print(task, EXPORTED / image if image else "-", text, sep="\t")


if __name__ == "__main__":
    main(sys.argv[1])
