"""All checks, in the order of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from gmu_lightning.cli.doctor import accounts, machine, places, software
from gmu_lightning.cli.doctor.check import WRONG, Check, table

__all__ = ["WRONG", "all_checks", "table"]


def all_checks(store: Path, output: Path, hub: bool) -> list[Check]:
    """Return the results of all checks. A check that fails itself is a result too.

    Args:
        store: folder of the store.
        output: folder of runs and sweeps.
        hub: whether to ask the Hugging Face hub, the only check that opens a connection.
    """
    steps: dict[str, Callable[[], Check | Iterable[Check]]] = {
        "python": software.python,
        "packages": software.versions,
        "releases": software.bad_releases,
        "choices": software.further_choices,
        "gpu": machine.gpu,
        "threads": machine.threads,
        "memory": machine.memory,
        "shared": machine.shared_memory,
        "files": machine.open_files,
        "store": lambda: places.room("store", store, "store.dir"),
        "locks": lambda: places.locks(store),
        "output": lambda: places.room("output", output, "output"),
        "temporary": places.temporary,
        "home": places.home,
        "weights": accounts.default_weights,
        "cache": accounts.cache,
        "hub": lambda: accounts.hub(hub),
        "wandb": accounts.wandb,
    }
    return [check for name, step in steps.items() for check in _done(name, step)]


def _done(name: str, step: Callable[[], Check | Iterable[Check]]) -> list[Check]:
    try:
        found = step()
        return [found] if isinstance(found, Check) else list(found)
    except Exception as error:  # the machine may be broken in any way
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return [Check(name, WRONG, f"the check itself failed ({why})", "report this line as a bug")]
