"""PyTorch Lightning, imported in half the time: every room that needs it takes `pl` from here.

Lightning imports torchmetrics, and that imports whatever it could use for scores of pictures, sound and texts: torchvision,
transformers, SciPy and matplotlib are half of what importing Lightning costs, and nothing here uses them.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

EXTRAS = ("torchvision", "transformers", "scipy", "matplotlib", "librosa", "torchaudio", "onnxruntime")


@contextmanager
def hidden(packages: tuple[str, ...]) -> Iterator[None]:
    """While inside, these packages look as if they were not installed, but for those that are imported already.

    What asks for one inside may remember that it is not there (torchmetrics does: its scores that need one of `EXTRAS` say
    so when they are made); everybody else finds and imports it as ever afterwards.
    """
    from lightning_utilities.core import imports as asked

    absent = [name for name in packages if name not in sys.modules]
    from_name = metadata.Distribution.__dict__["from_name"]

    def found(cls: type[metadata.Distribution], name: str) -> metadata.Distribution:
        if name in absent:
            raise metadata.PackageNotFoundError(name)
        return from_name.__get__(None, cls)(name)

    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: importing it is a ModuleNotFoundError
    metadata.Distribution.from_name = classmethod(found)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        metadata.Distribution.from_name = from_name  # type: ignore[method-assign]
        for name in absent:
            del sys.modules[name]
        asked.package_available.cache_clear()
        asked.module_available.cache_clear()


@contextmanager
def _without_collections() -> Iterator[None]:
    """What is imported stays: looking through it for garbage, again and again while it grows, is a quarter of its cost."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


with _without_collections():
    import torch  # noqa: F401  # before the extras are hidden: it asks for some of them itself

    with hidden(EXTRAS):
        from torchmetrics import MeanMetric
    import pytorch_lightning as pl

__all__ = ["EXTRAS", "MeanMetric", "hidden", "pl"]
