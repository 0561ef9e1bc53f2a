"""Specification of the endpoint that embeds images and texts.

P = projection width.
"""

from __future__ import annotations

from albef.serving import protocol
from albef.serving.protocol import ANY, ModelSpec, TensorSpec
from albef.tasks.retrieval.spec import encoders
from albef.tasks.spec import EndpointSpec, text_or_image

EMBEDDING = "embedding"

ENDPOINT = ModelSpec(
    "embed",
    (protocol.optional(protocol.ONE_TEXT), protocol.optional(protocol.ONE_IMAGE)),
    (TensorSpec(EMBEDDING, "FP32", (ANY,)),),
)
"""Embedding endpoint. Each row is a text or an image; all rows of a request have the same kind.

``embedding`` ``(P,)`` are ITC features of unit length, the same as those in the index of retrieval: the dot product of
an image and a text is their cosine similarity.
"""

SPEC = EndpointSpec(
    name="embed",
    graphs_of="retrieval",
    graphs=encoders,
    endpoint=ENDPOINT,
    ask_help="print the features of a text or an image",
    add_arguments=text_or_image,
)
