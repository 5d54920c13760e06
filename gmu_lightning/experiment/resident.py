"""What the jobs of one process share: a data set that was read, and its columns, features among them."""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from gmu_lightning.data.module import MovieData
from gmu_lightning.data.store import Store
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.experiment import build
from gmu_lightning.files import digest

# Of an encoder: what the model does with its features, once they are there.
AFTERWARDS = ("dropout", "modality_dropout", "normalise", "lr")


class _Shared(NamedTuple):
    data: MovieData
    columns: dict[str, Any]
    preparations: dict[str, Any]


class Resident:
    """The data of the last few settings, in memory.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int = 4):
        self.most = most
        self._known: OrderedDict[str, _Shared] = OrderedDict()

    def load(
        self, config: Mapping[str, Any], encoders: Mapping[str, Encoder], store: Store, device: torch.device
    ) -> tuple[MovieData, dict[str, Any], dict[str, float]]:
        """Data, columns, and the seconds that reading and preparing them, and encoding, took now.

        The data is the caller's own: another job's order and trainer are not in it.
        """
        key = key_of(config)
        seconds = {"prepare": 0.0, "encode": 0.0}
        if key not in self._known:
            start = time.perf_counter()
            data = build.build_data(config, store)
            reading = time.perf_counter() - start
            needs, encoding = build.needs_of(config), build.encoding_of(config)
            columns, seconds = build.build_columns(data, encoders, needs, store, device, encoding)
            seconds["prepare"] += reading
            self._known[key] = _Shared(data, columns, {m: encoder.preparation for m, encoder in encoders.items()})
            if len(self._known) > self.most:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        shared = self._known[key]
        for modality, encoder in encoders.items():
            encoder.preparation = shared.preparations[modality]
        return copy.copy(shared.data), shared.columns, seconds


def key_of(config: Mapping[str, Any]) -> str:
    """Runs of one key read the same columns of the same data."""
    encoders = {m: {k: v for k, v in node.items() if k not in AFTERWARDS} for m, node in config["encoder"].items()}
    return digest([config["data"], config["modalities"], encoders, build.needs_of(config), config["store"], config.get("encode")])
