"""Train and sweep from Python, and look at the results.

`train` and `sweep` run the commands `python -m gmu_lightning.train` and `... -m` in a process of their own. So options, folders,
messages and results are those of the shell, and no state of Hydra or torch stays in this process.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from gmu_lightning.api.arguments import arguments_of, check_arguments
from gmu_lightning.api.process import Ended, perform
from gmu_lightning.api.results import Compared, Leaderboard, Run, Sweep
from gmu_lightning.config.groups import conf_folder
from gmu_lightning.files import file_state
from gmu_lightning.movie import UserError

__all__ = ["Compared", "Leaderboard", "Run", "Sweep", "sweep", "train"]
PlainPath = str | Path


def train(
    *typed: str,
    folder: PlainPath | None = None,
    root: PlainPath | None = None,
    config_dir: PlainPath | None = None,
    **options: Any,
) -> Run | None:
    """Train one run, and return it; None if the command only prints, as with `check=True`.

    Ctrl-C, or the interruption of a notebook, interrupts the run. Its state is then `interrupted`.

    Args:
        typed: arguments as in a shell, such as `trainer.max_epochs=3`.
        folder: of the run, `hydra.run.dir` in a shell; None for a new folder in outputs/runs.
        root: of the data, `data.root` in a shell.
        config_dir: a folder with choices and classes of your own, `--config-dir` in a shell.
        options: `fusion="mean"`, `trainer={"max_epochs": 3}`, `encoder={"text": "minilm"}`, `**{"encoder/text": "minilm"}`. Text
            and paths arrive unchanged, and need no quotes. A list is one value, the list.

    Raises:
        UserError: the request was wrong, or the training failed. The sentence is that of the shell.
        KeyboardInterrupt: the training was interrupted, and has ended.
    """
    arguments = _arguments(typed, options, root, config_dir)
    default = _default_folder("run")
    found = _folder(arguments, "hydra.run.dir", folder, default)
    ended = perform("train", arguments)
    if ended.code:
        raise UserError(ended.reason)
    if folder is None:  # the command has put the run's words into the name
        found = next(iter(Path.cwd().glob(default.replace("${words:}", "*"))), found)
    return Run(found) if found.exists() and not _is_check(arguments) else None


def sweep(
    *typed: str,
    folder: PlainPath | None = None,
    root: PlainPath | None = None,
    config_dir: PlainPath | None = None,
    launcher: str | None = None,
    **options: Any,
) -> Sweep | None:
    """Train a run for each combination of the values in lists, and return the sweep.

    Return None if the command only prints, as with `check=True`.

    Failed jobs leave the others alone: a warning lists them. With the folder of an earlier sweep, only its missing jobs are
    trained. Ctrl-C, or the interruption of a notebook, interrupts the sweep, and what finished stays.

    Args:
        typed: arguments as in a shell, such as `seed=1,2,3`.
        folder: of the sweep, `hydra.sweep.dir` in a shell; None for a new folder in outputs/sweeps.
        root, config_dir: as in `train`.
        launcher: `stacked`, `processes`, `ray`, or `basic`, one job after the other. None takes `stacked`, unlike the shell: it
            starts and reads the data once for all jobs.
        options: as in `train`, but a list, a tuple, a range or an array holds the values of a sweep. A list inside a list is one
            value.

    Raises:
        UserError: the request was wrong, or no job finished. The sentence is that of the shell.
        KeyboardInterrupt: the sweep was interrupted, and has ended.
    """
    arguments = _arguments(typed, options, root, config_dir, swept=True)
    if launcher is not None or not any(argument.startswith("hydra/launcher=") for argument in arguments):
        arguments.append(f"hydra/launcher={launcher or 'stacked'}")
    found = _folder(arguments, "hydra.sweep.dir", folder, _default_folder("sweep"))
    before = _state(found / "status.json")
    ended = perform("train", ["-m", *arguments])
    if _state(found / "status.json") != before:
        return _judged(Sweep(found), ended)
    if ended.code:
        raise UserError(ended.reason)
    return None


def _arguments(
    typed: tuple[str, ...], options: Mapping[str, Any], root: PlainPath | None, config_dir: PlainPath | None, swept: bool = False
) -> list[str]:
    if root is not None:
        options = {"data.root": root, **options}
    own = [] if config_dir is None else [f"--config-dir={config_dir}"]
    arguments = [*own, *typed, *arguments_of(options, swept)]
    check_arguments(arguments)
    return arguments


def _is_check(arguments: list[str]) -> bool:
    return "check=true" in (argument.lower() for argument in arguments)


def _default_folder(kind: str) -> str:
    """Return the default folder of a run or a sweep with the time of now. A run's holds `${words:}` for Hydra to resolve."""
    pattern = yaml.safe_load((conf_folder() / "sweep/default.yaml").read_text(encoding="utf-8"))[kind]["dir"]
    return re.sub(r"\$\{now:([^}]*)\}", lambda found: datetime.now().strftime(found[1]), pattern)


def _folder(arguments: list[str], key: str, folder: PlainPath | None, default: str) -> Path:
    """Add the folder to the arguments, and return its absolute path.

    Raises:
        UserError: the arguments hold the key already, or the folder is an interpolation.
    """
    if any(argument.startswith(f"{key}=") for argument in arguments):
        raise UserError(f"{key} is given by folder= in Python: write folder=FOLDER")
    if "${" in str(folder):
        raise UserError(f"folder={folder} holds an interpolation, which only a shell's {key} can: give a plain path")
    arguments.append(f"{key}={default if folder is None else folder}")
    return Path(default if folder is None else folder).expanduser().absolute()


def _state(path: Path) -> tuple[int, ...] | None:
    return file_state(path) if path.exists() else None


def _judged(found: Sweep, ended: Ended) -> Sweep:
    """Return the sweep, with a warning that lists its failed jobs. Raises UserError if no job finished, or an error ended it."""
    status, failed = found.status, found.failed
    if ended.code and (not failed or status.get("not_begun")):
        raise UserError(ended.reason)
    if not status["finished"]:
        reasons = list(dict.fromkeys(str(job["why"]) for job in status["jobs"]))
        raise UserError(f"no job of {len(status['jobs'])} finished: {reasons[0] if reasons else ended.reason}")
    if ended.code:
        listed = "; ".join(f"{job['folder']}: {job['why']}" for job in failed)
        warnings.warn(f"{len(failed)} of {len(status['jobs'])} jobs failed: {listed}", stacklevel=4)
    return found
