"""gmu_lightning: which modalities, fused how, tell a movie's genres?

From Python, `train` and `sweep` do the work of the commands (`gmu_lightning.api`), and `load` returns the classifier of a
finished run. Every name here is imported at its first use.
"""

import sys

__version__ = "0.1.0"

TYPE_CHECKING = False  # as typing's, which takes time to import
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from gmu_lightning.api import Run, Sweep, sweep, train
    from gmu_lightning.movie import UserError
    from gmu_lightning.prediction.classifier import load
else:
    ModuleType = type(sys)

__all__ = ["Run", "Sweep", "UserError", "load", "sweep", "train"]
MODULES = {  # of the names that gmu_lightning.api does not define
    "UserError": "gmu_lightning.movie",
    "load": "gmu_lightning.prediction.classifier",
}
SHARED = ("sweep", "train")  # names that a module has too


def __getattr__(name: str) -> "Any":
    """Return an object of `__all__`, and import its module. Raises AttributeError for another name."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(MODULES.get(name, "gmu_lightning.api")), name)
    globals()[name] = _Function(found) if name in SHARED else found
    return globals()[name]


class _Function:
    """A function with the name of a module. It has the attributes of the module too, once that is imported."""

    def __init__(self, function: "Any"):
        from functools import update_wrapper

        self.__name__ = ""  # update_wrapper replaces it
        update_wrapper(self, function)

    def __call__(self, *arguments: "Any", **options: "Any") -> "Any":
        return vars(self)["__wrapped__"](*arguments, **options)

    def __repr__(self) -> str:
        return repr(vars(self)["__wrapped__"])

    def __getattr__(self, name: str) -> "Any":
        module = sys.modules.get(f"{__name__}.{vars(self)['__name__']}")
        if module is None:
            raise AttributeError(name)
        return getattr(module, name)


class _Package(ModuleType):
    """The type of this package: its functions stay when the import system sets the modules of their names as attributes."""

    def __setattr__(self, name: str, value: "Any") -> None:
        if name not in SHARED or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
