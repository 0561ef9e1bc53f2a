"""The torch-free description of a task: what it is called, which parts its model has, how it is served."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from albef.models.architecture import Architecture
from albef.serving.protocol import GraphSizes, ModelSpec, Settings


def image_and_text(parser: argparse.ArgumentParser, text: str = "text") -> None:
    """Add the arguments of an endpoint that is asked about an image with a text."""
    parser.add_argument("--image", type=Path, required=True, help="image file")
    parser.add_argument("text", help=text)


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """Description of a task, read without importing torch.

    Args:
        name: Name of the task; also that of its folder, its section of ``params.yaml`` and its endpoint.
        title: Heading of its section in the report.
        architecture: Parts of its model besides the encoders.
        config: Dataclass of its section in ``params.yaml``.
        fine_tuning: Whether the section is below ``tasks``, as opposed to a pretraining stage with one of its own.
        trained: Whether there is anything to train; otherwise ``albef finetune`` adapts the initial model and saves it.
        headline: Metric of the evaluation that stands for the task in summaries.
        release_metrics: Metrics of the evaluation that may decide over a release.
        lists: Schemas of the lists that only this task has, by list name (`albef.data.schema.Field` by key).
        test_list: List that the evaluation reads, without ``.json``.
        request_lists: Lists whose rows resemble requests to the endpoint; drift compares with the first one present.
        graphs: Signatures of the exported graphs for the sizes of a model; None for a task that is not exported.
        endpoint: Signature of the Triton endpoint; None for a task that is not served.
        settings: Dataclass of the endpoint's settings.
        ask_help: Help text of ``albef ask NAME``.
        add_arguments: Adds the arguments of ``albef ask NAME``; the ``client`` module turns them into a request.
    """

    name: str
    title: str
    architecture: Architecture
    config: type
    fine_tuning: bool = True
    trained: bool = True
    headline: str = "accuracy"
    release_metrics: tuple[str, ...] = ("accuracy",)
    lists: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    test_list: str | None = None
    request_lists: tuple[str, ...] = ()
    graphs: Callable[[GraphSizes], dict[str, ModelSpec]] | None = None
    endpoint: ModelSpec | None = None
    settings: type[Settings] = Settings
    ask_help: str = ""
    add_arguments: Callable[[argparse.ArgumentParser], None] = image_and_text
