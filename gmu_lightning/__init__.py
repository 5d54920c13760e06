"""gmu_lightning: which modalities, fused how, tell a movie's genres?

`load` returns the classifier of a finished run. It is imported when it is first used, so `import gmu_lightning` loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gmu_lightning.prediction.classifier import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

_LAZY = {"load": "gmu_lightning.prediction.classifier"}  # {name: its module}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(_LAZY[name]), name)
