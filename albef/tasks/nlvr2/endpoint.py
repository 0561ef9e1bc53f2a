"""NLVR2 endpoint: two images and a statement in, probabilities of false and true out."""

from __future__ import annotations

from albef.serving import protocol
from albef.tasks.classification_endpoint import ClassifierEndpoint
from albef.tasks.nlvr2 import spec


class TritonPythonModel(ClassifierEndpoint):
    """NLVR2 endpoint."""

    task = spec.SPEC
    images = (protocol.IMAGE, protocol.SECOND_IMAGE)
