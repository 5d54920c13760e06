"""Which runs can be trained as a stack, and when each of them would stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from gmu_lightning.experiment.train import Opened
from gmu_lightning.features import FeatureColumn

EARLY_STOPPING = "pytorch_lightning.callbacks.EarlyStopping"
SCALES = ("none", "layer", "standardise")  # those that know nothing of batch mates


def why_not(opened: Opened) -> str | None:
    """Why a run cannot be part of a stack; None where it can."""
    config, model = opened.config, opened.model
    trainer = config["trainer"]
    extra = [node for node in (config.get("callbacks") or {}).values() if node]
    reasons = {
        "its fusion reads sequences": model.fusion.needs != "vector",
        "an encoder is trained": not all(isinstance(c, FeatureColumn) and c.lengths is None for c in opened.columns.values()),
        "modality_dropout is drawn inside the model": any(model.modality_dropout),
        "its encoders' normalise looks at the whole batch": any(e["normalise"] not in SCALES for e in config["encoder"].values()),
        "its fusion or head draws or keeps something in training": any(
            isinstance(module, (nn.Dropout, nn.modules.batchnorm._BatchNorm))
            for part in (model.fusion, model.head)
            for module in part.modules()
        ),
        "trainer.precision is not 32-true": str(trainer["precision"]) not in ("32-true", "32"),
        "trainer.accumulate_grad_batches is not 1": trainer["accumulate_grad_batches"] != 1,
        "scheduler=plateau looks at its own scores": "plateau" in str(config["scheduler"]["_target_"]),
        "it has callbacks of its own": any(not _is_patience(node, config["monitor"]) for node in extra),
        "trainer.compile=true": bool(trainer["compile"]),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _is_patience(node: Mapping[str, Any], monitor: str) -> bool:
    usual = {"_target_": EARLY_STOPPING, "monitor": monitor, "mode": "max"}
    return {key: value for key, value in node.items() if key not in ("patience", "min_delta")} == usual


class Patience:
    """When Lightning's early stopping would end a run: after `patience` epochs without a score above the best."""

    def __init__(self, config: Mapping[str, Any]):
        nodes = [node for node in (config.get("callbacks") or {}).values() if node]
        self.patience = int(nodes[0].get("patience", 3)) if nodes else None
        self.least = float(nodes[0].get("min_delta", 0.0)) if nodes else 0.0
        self.best, self.waited = float("-inf"), 0

    def over(self, score: float) -> bool:
        """Whether the epoch with this score is the last."""
        if self.patience is None:
            return False
        self.waited = 0 if score - self.least > self.best else self.waited + 1
        self.best = max(self.best, score) if self.waited == 0 else self.best
        return self.waited >= self.patience
