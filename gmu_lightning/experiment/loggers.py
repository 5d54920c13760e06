"""Open the loggers of a run, and close them with its outcome. Every run also writes history.csv and metrics.json."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gmu_lightning.callbacks import Epochs
from gmu_lightning.config.hydra_versions import instantiate
from gmu_lightning.config.schema import RunConfig
from gmu_lightning.movie import UserError
from gmu_lightning.report.search import is_trial
from gmu_lightning.run import Run
from gmu_lightning.visible import first_line


def open_loggers(config: RunConfig, run: Run, group: str | None) -> list[Any]:
    """Return one Lightning logger per choice of `logger=`. If one cannot be opened, those before it are closed as failed.

    Args:
        config: its `logger` nodes name the functions that make the loggers.
        run: receives the loggers' files.
        group: name of the sweep, or None.

    Raises:
        UserError: a package, an account or a valid mode is missing.
    """
    opened: list[Any] = []
    try:
        for part in config.logger.values():
            opened.append(instantiate(part.node, _convert_="all")(config=config, run=run, group=group))
    except BaseException:
        close_loggers(opened, None, [])
        raise
    return opened


def wandb_logger(
    config: RunConfig, run: Run, group: str | None, project: str, entity: str | None, mode: str, tags: Sequence[str]
) -> Any:
    """Return a W&B logger for one job: named like its folder, grouped by its sweep, tagged with its modalities and choices.

    Args:
        config: of the run; W&B records its mapping.
        run: receives W&B's files.
        group: name of the sweep, or None.
        project, entity: where W&B keeps the run.
        mode: `online`, `offline` or `disabled`.
        tags: further tags.

    Raises:
        UserError: the mode does not exist, or W&B cannot start.
    """
    wandb = wandb_library()
    from pytorch_lightning.loggers import WandbLogger

    if mode not in ("online", "offline", "disabled"):
        raise UserError(
            f"logger.wandb.mode={mode} is none of online, offline and disabled: choose one of them, or change WANDB_MODE"
        )
    chosen = [choice for group, choice in config.choices.items() if group in ("data", "fusion") or group.startswith("encoder/")]
    logger = WandbLogger(
        name=run.folder.name,
        project=project,
        entity=entity,
        group=group,
        job_type="trial" if is_trial(run) else None,
        tags=list(dict.fromkeys([*tags, "+".join(config.modalities), *chosen])),
        config=config.mapping,
        save_dir=str(run.folder),
        mode=mode,
        settings=wandb.Settings(silent=True, console="off"),
    )
    try:
        logger.experiment  # noqa: B018  opens it now, so that a missing account is reported before training
    except wandb.errors.Error as error:
        raise UserError(
            f"W&B could not start ({first_line(error)}): run `wandb login`, or choose logger.wandb.mode=offline, or logger=csv"
        ) from error
    return logger


def log_epochs(loggers: Iterable[Any], epochs: Epochs) -> None:
    """Give loggers the losses and scores of epochs that ended before they could log."""
    for row, found in zip(epochs.rows, epochs.scores, strict=True):
        for logger in loggers:
            logger.log_metrics({**found, "train/loss": row["train/loss"], "epoch": row["epoch"]}, step=row["step"])


def wandb_library() -> Any:
    """Return the module wandb, imported without its reports of errors and usage. Raises ImportError if it is not installed.

    The reports look up a host name in every mode, even offline. `WANDB_ERROR_REPORTING` stays false in this process, unless the
    environment sets it.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb


def wandb_of(runs: Iterable[Run]) -> dict[str, Any] | None:
    """Return the node `logger.wandb` of the first run that has one whose mode is not `disabled`, or None.

    Raises:
        UserError: the config.yaml of a run is missing or damaged.
    """
    nodes = ((run.config.get("logger") or {}).get("wandb") for run in runs)
    return next((node for node in nodes if node and node.get("mode") != "disabled"), None)


def log_comparison(node: Mapping[str, Any], folder: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Record a sweep as a W&B run of its own: the leaderboard as a table, and the report's files as an artifact.

    Args:
        node: `logger.wandb` of its jobs, which join the same W&B group.
        folder: of the sweep.
        columns, rows: of the leaderboard.
    """
    wandb = wandb_library()
    if node["mode"] == "offline":  # artifacts wait for `wandb sync` beside the sweep, not in the user's home
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


def tensorboard_logger(config: RunConfig, run: Run, group: str | None) -> Any:
    """Return a logger that writes TensorBoard event files to the run's folder. Raises UserError without tensorboard."""
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        raise UserError("logger=tensorboard needs the package tensorboard: pip install 'gmu-lightning[tensorboard]'") from None
    from pytorch_lightning.loggers import TensorBoardLogger

    return TensorBoardLogger(save_dir=str(run.folder), name="", version="tensorboard")


def close_loggers(loggers: Sequence[Any], metrics: Mapping[str, Any] | None, figures: Sequence[Path]) -> None:
    """Log the final scores and the figures, then close every logger.

    Args:
        loggers: of one run.
        metrics: content of metrics.json, or None for a failed run, which is closed as failed.
        figures: PNG files, logged as images by W&B.
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
