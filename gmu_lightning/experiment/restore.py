"""Restore the parts of a finished run from its folder: configuration, preparations, weights and thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gmu_lightning.config.schema import RunConfig
from gmu_lightning.decisions import Task
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.experiment import build
from gmu_lightning.experiment.choices import check_kinds
from gmu_lightning.metrics import TUNED
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import UserError
from gmu_lightning.run import Run
from gmu_lightning.run_files import records
from gmu_lightning.run_files.arrays import HINT, check_agreement, check_weights
from gmu_lightning.run_files.arrays import checkpoint as read_checkpoint
from gmu_lightning.run_files.plain import Damaged

BEST = "checkpoints/best.ckpt"


def recorded(
    run: Run, root: str | None = None, backend: str | None = None, config_dir: str | None = None
) -> tuple[RunConfig, dict[str, Any]]:
    """Return the configuration of a run, and the content of its best checkpoint. No code in them is run.

    Args:
        run: has a best checkpoint.
        root, backend, config_dir: as in `RunConfig.recorded`.

    Raises:
        UserError: a file of the run is damaged or missing, the two do not belong together, or a class is refused.
    """
    written = run.config
    records.check_config(written, run / "config.yaml", records.EVALUATED)
    config = RunConfig.recorded(written, run / "config.yaml", root, backend, config_dir)
    check_kinds(config)
    try:
        checkpoint = read_checkpoint(run / BEST)
    except FileNotFoundError:
        raise UserError(f"{run / BEST} does not exist: give the folder of a run that finished") from None
    check_agreement(checkpoint["gmu_lightning"], written, run.folder)
    return config, checkpoint


def restored_encoders(config: RunConfig, checkpoint: Mapping[str, Any], path: Path) -> dict[str, Encoder]:
    """Return {modality: encoder} of a run, not yet built, with the preparations that it learned.

    Args:
        config: of the run.
        checkpoint: its content.
        path: of the checkpoint, for errors.

    Raises:
        UserError: weights are missing, or what a preparation learned is damaged.
    """
    encoders = build.build_encoders(config.encoder)
    for modality, encoder in encoders.items():
        encoder.adopt(_restored_preparation(encoder, checkpoint["gmu_lightning"]["preparations"][modality], path))
    return encoders


def check_sizes(encoders: Mapping[str, Encoder], sizes: Mapping[str, int]) -> None:
    """Raise UserError if an encoder's vectors have another size than {modality: d} of the checkpoint."""
    for modality, encoder in encoders.items():
        if encoder.dim != sizes[modality]:
            raise UserError(
                f"encoder.{modality} gives {encoder.dim} features, the checkpoint was trained on {sizes[modality]}: "
                "its weights are not those of the run"
            )


def with_weights(
    model: MovieGenreClassifier, checkpoint: Mapping[str, Any], path: Path, hint: str = HINT
) -> MovieGenreClassifier:
    """Load a checkpoint's weights into a model, in evaluation mode, and return it. Raises Damaged with `hint` if they misfit."""
    check_weights(checkpoint["state_dict"], model.state_dict(), path, hint)
    model.load_state_dict(checkpoint["state_dict"])
    return model.eval()


def rule_of(threshold: object, task: Task, folder: Path) -> float | str:
    """Return the rule of decision that was typed: a number, `val` or `val_per_genre`.

    Args:
        threshold: as typed.
        task: of the run. A multiclass run has no other rule than 0.5, the option's default.
        folder: of the run, for errors.

    Raises:
        UserError: it is no rule, or not one of the task.
    """
    text = str(threshold)
    if task == "multiclass" and text != "0.5":
        raise UserError(
            f"threshold={text} is not possible: {folder} was trained with data.task=multiclass, which predicts the most "
            "probable label without a threshold; leave threshold out"
        )
    if text in TUNED:
        return text
    try:
        number = float(text)
    except ValueError:
        raise UserError(f"threshold={text} is no rule: give a number in [0, 1], val or val_per_genre") from None
    if not 0 <= number <= 1:
        raise UserError(f"threshold={text} is no probability: give a number in [0, 1], val or val_per_genre")
    return number


def tuned(rule: str, labels: np.ndarray, probabilities: np.ndarray) -> float | list[float]:
    """Return the threshold with the best F1 for `val`, and one for each genre for `val_per_genre`.

    Args:
        rule: one of the two.
        labels: (N, C) bool.
        probabilities: (N, C).
    """
    return np.asarray(TUNED[rule](labels, probabilities)).tolist()


def _restored_preparation(encoder: Encoder, state: Mapping[str, Any], path: Path) -> Any:
    try:
        return encoder.preparation.restored(state)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise Damaged(
            path, f"what its preparation of {encoder.modality} learned cannot be used ({type(error).__name__})"
        ) from error
