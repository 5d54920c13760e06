"""What a run leaves that was trained without a Trainer: the same files, written by the same code."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from gmu_lightning import callbacks
from gmu_lightning.experiment.heads import Trained
from gmu_lightning.experiment.loggers import close_loggers, open_loggers
from gmu_lightning.experiment.results import Fitted
from gmu_lightning.experiment.settle import modalities_of
from gmu_lightning.experiment.train import Opened, about, close_run, device_of, warn_of_learning
from gmu_lightning.lightning import pl


def finish(opened: Opened, trained: Trained, group: str | None) -> dict[str, Any]:
    """All that a run leaves, by the code that every run leaves it with; metrics.json."""
    config, run, data, model = opened.config, opened.run, opened.data, opened.model
    own = opened.ready - opened.started + trained.seconds  # without what the others of the stack took meanwhile
    opened = opened._replace(started=time.perf_counter() - own)
    model.about = about(config, data, model)
    checkpoints = callbacks.AtomicCheckpointIO()
    for name, state, epoch in (("best", trained.best, trained.best_epoch), ("last", trained.last, len(trained.epochs.rows) - 1)):
        content = {
            "epoch": epoch,
            "global_step": trained.epochs.rows[epoch]["step"],
            "pytorch-lightning_version": pl.__version__,
            "state_dict": state,
            "gmu_lightning": model.about,
        }
        if name == "last":
            content["optimizer_states"] = [trained.optimizer]
        checkpoints.save_checkpoint(content, run / f"checkpoints/{name}.ckpt")
    trained.epochs.write()
    model.load_state_dict(trained.best)
    warn_of_learning(run, trained.epochs, data, config["monitor"])
    predictions = callbacks.SplitPredictions(
        data.vocabulary.names, modalities_of(config["modalities"]), data.ids, data.fingerprint
    )
    loggers = open_loggers(config, run, group)
    metrics: dict[str, Any] | None = None
    figures: list[Path] = []
    try:
        for row, found in zip(trained.epochs.rows, trained.epochs.scores, strict=True):
            for logger in loggers:
                logger.log_metrics({**found, "train/loss": row["train/loss"], "epoch": row["epoch"]}, step=row["step"])
        epochs = len(trained.epochs.rows)
        fitted = Fitted(None, predictions, device_of(config), trained.best_epoch, epochs, trained.seconds)
        metrics, figures = close_run(opened, fitted)
    finally:
        close_loggers(loggers, metrics, figures)
    return metrics
