"""Import PyTorch Lightning in half the time. All modules import `pl` from here.

Lightning imports torchmetrics, which imports every installed package that its image, audio and text scores could use.
Torchvision, transformers, SciPy and matplotlib take half of the import time, and this package uses no such score.
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
    """Make packages look absent inside the context, except those that are imported already.

    A module that is imported inside may remember the absence. Torchmetrics does: constructing one of its scores that needs a
    package of `EXTRAS` raises. Modules imported afterwards find the packages again.
    """
    from lightning_utilities.core import imports as availability

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
        availability.package_available.cache_clear()
        availability.module_available.cache_clear()


@contextmanager
def _without_collections() -> Iterator[None]:
    """Import without garbage collections, which take a quarter of the import time and find no garbage in modules."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


with _without_collections():
    import torch  # noqa: F401  # before the extras are hidden, because torch looks for some of them

    with hidden(EXTRAS):
        from torchmetrics import MeanMetric
    import pytorch_lightning as pl

__all__ = ["EXTRAS", "MeanMetric", "hidden", "pl"]
