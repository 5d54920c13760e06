"""`dashboard`: a sweep's W&B workspace and report, written there if that can be reached, and as a file always."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from gmu_lightning.experiment.loggers import wandb_library, wandb_of
from gmu_lightning.files import write_json
from gmu_lightning.movie import UserError
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.dashboard import Dashboard
from gmu_lightning.report.found import readable_runs_in

MODES = ("online", "offline")


def write_dashboard(folder: Path, output: Path, metric: str, mode: str, entity: str | None, project: str | None) -> None:
    """dashboard.json, and with `mode` online both in W&B, whose addresses are printed.

    Raises:
        UserError: the folder holds no runs, a word is none, or W&B cannot be reached.
    """
    if mode not in MODES:
        raise UserError(f"mode={mode} is none of online and offline: choose one of them")
    wandb_library()
    runs, damaged = readable_runs_in([folder])
    for _, why in damaged:
        print(f"left out: {why}", file=sys.stderr)
    node = wandb_of(run for run in runs if run.status.get("state") == "finished") or {}
    found = Dashboard(
        entity or node.get("entity") or "",
        project or node.get("project") or "gmu_lightning",
        folder.resolve().name,
        compare(runs, metric, left=damaged),
    )
    path = output / "dashboard.json"
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_json(path, found.definition())
    except (SyntaxError, ValueError) as error:  # the library reads filters as Python
        why = " ".join(str(error).split())
        raise UserError(f"W&B's library takes no sweep of the name {folder.resolve().name} ({why}): rename the folder") from error
    except OSError as error:
        raise UserError(f"output={output} cannot be written to ({error}): give another folder") from error
    print(path)
    if mode == "online":
        print("\n".join(_saved(found, path)))


def _saved(dashboard: Dashboard, path: Path) -> Sequence[str]:
    try:
        return dashboard.save()
    except Exception as error:  # the library raises Exception itself
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"W&B could not be reached ({said}): run `wandb login`; what would be written is in {path}") from error
