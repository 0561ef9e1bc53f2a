"""Torch-free specifications of tasks and of endpoints."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from albef.models.architecture import Architecture
from albef.serving.protocol import GraphSizes, ModelSpec, Settings


def image_and_text(parser: argparse.ArgumentParser, text: str = "text") -> None:
    """Add the command-line arguments of a request with image and text."""
    parser.add_argument("--image", type=Path, required=True, help="image file")
    parser.add_argument("text", help=text)


def text_or_image(parser: argparse.ArgumentParser) -> None:
    """Add the command-line arguments of a request with either a text or an image."""
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("text", nargs="?", help="text")
    query.add_argument("--image", type=Path, help="image file")


@dataclass(frozen=True, kw_only=True)
class EndpointSpec:
    """Specification of an endpoint, importable without torch.

    An endpoint that answers with the graphs of another task needs no more than this: no training and no export of its
    own. It is served whenever that task is exported.

    Args:
        name: Name of its package.
        graphs_of: Task whose graphs answer; None for the task of the same name.
        graphs: Returns the signatures of the graphs, given the sizes of a model; None if there are none.
        endpoint: Signature of the Triton endpoint; None if not served.
        settings: Dataclass of the endpoint's settings.
        ask_help: Help text of ``albef ask ENDPOINT``.
        add_arguments: Adds the arguments of ``albef ask ENDPOINT``; the ``client`` module converts them to a request.
    """

    name: str
    graphs_of: str | None = None
    graphs: Callable[[GraphSizes], dict[str, ModelSpec]] | None = None
    endpoint: ModelSpec | None = None
    settings: type[Settings] = Settings
    ask_help: str = ""
    add_arguments: Callable[[argparse.ArgumentParser], None] = image_and_text

    @property
    def task(self) -> str:
        """Task whose graphs answer."""
        return self.graphs_of or self.name


@dataclass(frozen=True, kw_only=True)
class TaskSpec(EndpointSpec):
    """Specification of a task and of its endpoint.

    Args:
        title: Heading of the task's section in the report.
        architecture: Modules of the model besides the encoders.
        config: Dataclass of the task's section in ``params.yaml``.
        fine_tuning: Whether the section is under ``tasks``; pretraining stages have a top-level section.
        headline: Evaluation metric shown in summaries.
        release_metrics: Evaluation metrics that a release gate may use.
        lists: Schemas of the lists that only this task uses, by list name (`albef.data.schema.Field` by key).
        test_list: List used for evaluation, without ``.json``.
        request_lists: Lists whose rows resemble requests to the endpoint; the first one present is the drift reference.
    """

    title: str
    architecture: Architecture
    config: type
    fine_tuning: bool = True
    headline: str = "accuracy"
    release_metrics: tuple[str, ...] = ("accuracy",)
    lists: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    test_list: str | None = None
    request_lists: tuple[str, ...] = ()
