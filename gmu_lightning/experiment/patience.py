"""Early stopping without a Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gmu_lightning.config.schema import RunConfig

EARLY_STOPPING = "pytorch_lightning.callbacks.EarlyStopping"


def is_patience(node: Mapping[str, Any], monitor: str) -> bool:
    """Return whether a callback is EarlyStopping on the monitored score, with no other options than those of `Patience`."""
    usual = {"_target_": EARLY_STOPPING, "monitor": monitor, "mode": "max"}
    return {key: value for key, value in node.items() if key not in ("patience", "min_delta")} == usual


class Patience:
    """Stop as Lightning's EarlyStopping does: after `patience` epochs without a better score.

    Args:
        config: of the run; without callbacks, it never stops early.
    """

    def __init__(self, config: RunConfig):
        nodes = [part.node for part in config.callbacks.values()]
        self.patience = int(nodes[0].get("patience", 3)) if nodes else None
        self.least = float(nodes[0].get("min_delta", 0.0)) if nodes else 0.0
        self.best, self.waited = float("-inf"), 0

    def over(self, score: float) -> bool:
        """Return whether the epoch with this score is the last. Call it once for each epoch, in order."""
        if self.patience is None:
            return False
        self.waited = 0 if score - self.least > self.best else self.waited + 1
        self.best = max(self.best, score) if self.waited == 0 else self.best
        return self.waited >= self.patience
