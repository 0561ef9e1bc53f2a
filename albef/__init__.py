"""ALBEF (Li et al., NeurIPS 2021): vision-language pretraining with momentum distillation as a system.

``albef.load`` returns a trained model for use from Python; see `albef.api`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from albef.api import Albef as Albef
    from albef.api import load as load

__version__ = "0.1.0"
__all__ = ["Albef", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the API at its first use, because it imports torch."""
    if name in ("Albef", "load"):
        return getattr(import_module("albef.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
