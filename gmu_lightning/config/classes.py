"""Import the classes that a configuration names, those in the folder of `--config-dir` included."""

from __future__ import annotations

import difflib
import inspect
import sys
import traceback
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from gmu_lightning.movie import UserError


def class_of(name: str) -> Any:
    """Return the class or function of a dotted name. Raises UserError if it cannot be imported."""
    try:
        return resolve_name(name)
    except (Exception, SystemExit) as error:  # the module may raise anything while it is imported
        raise UserError(f"_target_={name} cannot be imported: {_problem(name)}") from error


def own_class(name: str, folder: str) -> Any:
    """Return the class of a dotted name if a module in the user's folder defines it, and None for any other object.

    A module is imported only if it stands in the folder. A class that such a module imports from elsewhere counts as another.

    Args:
        name: such as `my_fusions.MyFusion`.
        folder: of `--config-dir`, absolute.

    Raises:
        UserError: the module is in the folder, and the class cannot be imported.
    """
    if name.startswith("gmu_lightning.") or _file(name.rpartition(".")[0], folder) is None:
        return None
    found = class_of(name)
    if not isinstance(found, type):
        return None
    defined = _file(found.__module__, folder)
    loaded = getattr(sys.modules.get(found.__module__), "__file__", None)
    return found if defined is not None and loaded is not None and defined.samefile(loaded) else None


def _file(module: str, folder: str) -> Path | None:
    """Return the file of a module in a folder, without importing it; None if the folder has no such module."""
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    place = Path(folder, *parts)
    return next((file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()), None)


def _problem(name: str) -> str:
    """Return why a dotted name cannot be imported, and the remedy."""
    module, _, attribute = name.rpartition(".")
    if not module:
        return "it names no module, so write MODULE.CLASS"
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        lacking = error.name or module
        if lacking == module or module.startswith(f"{lacking}."):
            file = lacking.replace(".", "/")
            return f"Python finds no module {lacking}; correct the name, or type --config-dir FOLDER with the folder of {file}.py"
        return f"module {module} imports {lacking}, which is not installed; install it, or remove the import{_place(error)}"
    except SyntaxError as error:
        return f"line {error.lineno} of {error.filename} is no valid Python ({error.msg}); mend that line"
    except (Exception, SystemExit) as error:
        why = " ".join(str(error).split())
        return f"module {module} raises {type(error).__name__}{why and f' ({why})'} as it is imported{_place(error)}"
    classes = [one for one, value in vars(found).items() if inspect.isclass(value) and value.__module__ == module]
    close = difflib.get_close_matches(attribute, classes, n=1, cutoff=0.5)
    known = f"did you mean {close[0]}?" if close else f"its classes are {', '.join(classes)}" if classes else "it has no class"
    return f"module {module} ({getattr(found, '__file__', None)}) has no {attribute}; {known}"


def _place(error: BaseException) -> str:
    """Return the last line of a module's own code in a traceback, as `, in line 3 of FILE`."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    own = [frame for frame in frames if frame.filename != __file__]
    return f", in line {own[-1].lineno} of {own[-1].filename}" if own else ""
