"""Visual entailment endpoint: an image and a hypothesis in, three probabilities out."""

from __future__ import annotations

from albef.tasks.classification_endpoint import ClassifierEndpoint
from albef.tasks.entailment import spec


class TritonPythonModel(ClassifierEndpoint):
    """Visual entailment endpoint."""

    task = spec.SPEC
