"""NLVR2: is a sentence about two pictures true (paper section 5)? Starts from text assignment."""

from __future__ import annotations

from typing import ClassVar

from albef.tasks.classification import Classification


class Nlvr2(Classification):
    """Two classes over two pictures; the fusion encoder has its layers in pairs."""

    name: ClassVar[str] = "nlvr2"
    prefix: ClassVar[str] = "nlvr"
    lists: ClassVar[tuple[str, ...]] = ("nlvr_train", "nlvr_val")


TASK = Nlvr2
