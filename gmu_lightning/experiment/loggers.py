"""Loggers, opened for a run and closed with its outcome. history.csv and metrics.json are written whatever is chosen here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from gmu_lightning.movie import UserError
from gmu_lightning.report.search import is_trial
from gmu_lightning.run import Run


def open_loggers(config: Mapping[str, Any], run: Run, group: str | None) -> list[Any]:
    """One Lightning logger per choice of `logger=`; where one cannot be opened, those before it are closed as failed."""
    opened: list[Any] = []
    try:
        for node in (config.get("logger") or {}).values():
            if node:
                opened.append(instantiate(dict(node), _convert_="all")(config=dict(config), run=run, group=group))
    except BaseException:
        close_loggers(opened, None, [])
        raise
    return opened


def wandb_logger(
    config: dict[str, Any], run: Run, group: str | None, project: str, entity: str | None, mode: str, tags: Sequence[str]
) -> Any:
    """A W&B run of its own for this job: named as its folder, grouped by its sweep, tagged by what it is made of."""
    wandb = wandb_library()
    from pytorch_lightning.loggers import WandbLogger

    if mode not in ("online", "offline", "disabled"):
        raise UserError(
            f"logger.wandb.mode={mode} is none of online, offline and disabled: choose one of them, or change WANDB_MODE"
        )
    made_of = [
        str(config["modalities"]),
        *(v for k, v in config["choices"].items() if k in ("data", "fusion") or k.startswith("encoder/")),
    ]
    logger = WandbLogger(
        name=run.folder.name,
        project=project,
        entity=entity,
        group=group,
        job_type="trial" if is_trial(run) else None,
        tags=list(dict.fromkeys([*tags, *made_of])),
        config=config,
        save_dir=str(run.folder),
        mode=mode,
        settings=wandb.Settings(silent=True, console="off"),
    )
    try:
        logger.experiment  # noqa: B018  opens it now, so that a missing account is said before training
    except wandb.errors.Error as error:
        raise UserError(
            f"W&B could not start ({str(error).splitlines()[0]}): "
            "run `wandb login`, or choose logger.wandb.mode=offline, or logger=csv"
        ) from error
    return logger


def wandb_library() -> Any:
    """Import wandb with its reports of errors and usage off, for these need a name look-up in every mode, offline too."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb


def wandb_of(runs: Iterable[Run]) -> dict[str, Any] | None:
    """What `logger.wandb` says in the first of these runs that has it; None where none has."""
    nodes = ((run.config.get("logger") or {}).get("wandb") for run in runs)
    return next((node for node in nodes if node and node.get("mode") != "disabled"), None)


def log_comparison(node: Mapping[str, Any], folder: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A W&B run of the sweep itself: its leaderboard as a table, and its files as an artifact.

    Args:
        node: `logger.wandb` of its jobs, which are of one group with it.
        folder: the sweep's.
        columns, rows: the leaderboard.
    """
    wandb = wandb_library()
    if node["mode"] == "offline":  # what waits for `wandb sync` waits beside the sweep, not in this user's home
        os.environ.setdefault("WANDB_DATA_DIR", str((folder / "wandb").absolute()))
    run = wandb.init(
        project=node["project"],
        entity=node["entity"],
        group=folder.name,
        name=f"{folder.name} comparison",
        job_type="comparison",
        mode=node["mode"],
        dir=str(folder),
        settings=wandb.Settings(silent=True, console="off"),
    )
    try:
        run.log({"leaderboard": wandb.Table(columns=list(columns), data=[list(row) for row in rows])})
        artifact = wandb.Artifact("comparison", type="comparison")
        for name in ("leaderboard.csv", "leaderboard.md", "leaderboard.tex", "comparison.json", "comparison.md", "report.html"):
            if (folder / name).exists():
                artifact.add_file(str(folder / name))
        run.log_artifact(artifact)
    finally:
        run.finish()


def tensorboard_logger(config: dict[str, Any], run: Run, group: str | None) -> Any:
    """TensorBoard event files in the run's folder."""
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        raise UserError("logger=tensorboard needs the package tensorboard: pip install 'gmu-lightning[tensorboard]'") from None
    from pytorch_lightning.loggers import TensorBoardLogger

    return TensorBoardLogger(save_dir=str(run.folder), name="", version="tensorboard")


def close_loggers(loggers: Sequence[Any], metrics: Mapping[str, Any] | None, figures: Sequence[Path]) -> None:
    """metrics.json into the summary, each key under its own name, and the figures as images; then closed.

    `metrics` is None for a run that failed, and its loggers are told so.
    """
    for logger in loggers:
        kind = type(logger).__name__
        if kind == "WandbLogger":
            import wandb

            if metrics is not None:
                logger.experiment.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in figures})
                logger.experiment.summary.update(dict(metrics))
            logger.experiment.finish(exit_code=0 if metrics is not None else 1)
        elif kind == "TensorBoardLogger":
            if metrics is not None:
                logger.log_metrics({key: float(value) for key, value in metrics.items() if isinstance(value, (int, float))})
            logger.finalize("success" if metrics is not None else "failed")
