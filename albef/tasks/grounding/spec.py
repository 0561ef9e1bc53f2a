"""Specification of weakly supervised grounding: model, graphs, endpoint."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from albef.config import AlignTrainConfig, ModelConfig, TaskConfig
from albef.models.architecture import Architecture
from albef.serving import protocol
from albef.serving.protocol import ANY, GraphSizes, ModelSpec, TensorSpec
from albef.tasks.spec import TaskSpec, image_and_text

HEAT_GRAPH = "heat"
HEAT_MAP, BOX, BOXES = "heat_map", "box", "boxes"


@dataclass(frozen=True, kw_only=True)
class HeatMapConfig:
    """Grounding by Grad-CAM (paper section 5)."""

    mode: Literal["itm", "itc"]  # attention of the fusion encoder or of the image encoder
    block: int  # layer of that encoder, counted from 0 (official: 2 for itm, 8 for itc)
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class GroundingConfig(TaskConfig):
    """Section ``tasks.grounding`` of the parameters."""

    train: AlignTrainConfig
    evaluate: HeatMapConfig


def default_block(model: ModelConfig, mode: str) -> int:
    """Return the official layer, scaled to the depth of the encoder.

    Officially, it is fusion layer 2 of 6 and image block 8 of 12.
    """
    return model.text.fusion_layers // 3 if mode == "itm" else 2 * model.vision.depth // 3


def graphs(sizes: GraphSizes) -> dict[str, ModelSpec]:
    """Return the signatures of image encoder and heat maps.

    Heat maps are Grad-CAM of the ITM logit.
    """
    task, side = "grounding", math.isqrt(sizes.image_tokens - 1)
    return {
        protocol.VISION: protocol.vision_graph(task, sizes, features=True),
        HEAT_GRAPH: ModelSpec(
            protocol.model_name(task, HEAT_GRAPH),
            (protocol.image_embeds(sizes), *protocol.WORDS),
            (TensorSpec(HEAT_MAP, "FP32", (ANY, side, side)),),
        ),
    }


ENDPOINT = ModelSpec(
    "grounding",
    (protocol.ONE_IMAGE, protocol.ONE_TEXT, TensorSpec(BOXES, "FP32", (ANY, 4), optional=True)),
    (TensorSpec(HEAT_MAP, "FP32", (ANY, ANY)), TensorSpec(BOX, "FP32", (4,))),
)
"""Grounding endpoint. Each row is a referring expression (``text``) about an image file.

``heat_map`` has one value per patch. ``box`` is x, y, width, height in pixels of the image: the best of ``boxes`` or,
without proposals, the area around the maximum of the heat map.
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    image_and_text(parser)
    parser.add_argument("--save-overlay", type=Path, metavar="FILE", help="write the image with heat map and box")


SPEC = TaskSpec(
    name="grounding",
    title="Visual grounding",
    architecture=Architecture(projections="both", align=True),
    config=GroundingConfig,
    release_metrics=("accuracy", "pointing"),
    test_list="grounding_test",
    request_lists=("grounding_train",),
    graphs=graphs,
    endpoint=ENDPOINT,
    ask_help="locate an expression in an image",
    add_arguments=_add_arguments,
)
