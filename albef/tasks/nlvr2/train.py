"""Training of NLVR2: true or false sentences about two images.

Paper section 5; starts from text assignment.
"""

from __future__ import annotations

from typing import ClassVar

from albef.tasks.classification import Classification


class Nlvr2(Classification):
    """Binary classification with two images.

    Fusion layers form pairs, one layer per image.
    """

    name: ClassVar[str] = "nlvr2"
    prefix: ClassVar[str] = "nlvr"
    lists: ClassVar[tuple[str, ...]] = ("nlvr_train", "nlvr_val")


TASK = Nlvr2
