"""The plain configuration of an exported model: what its classes need, without any place on the machine that exported it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gmu_lightning.encoders.weights import named_in
from gmu_lightning.files import is_place
from gmu_lightning.prediction.trained import TrainedRun
from gmu_lightning.run_files.exported import FOLDERS

KEPT = ("modalities", "seed", "monitor", "fusion", "loss", "optimizer", "scheduler", "choices")
OF_TRAINER = ("precision", "max_epochs", "accumulate_grad_batches")


def plain_config(run: TrainedRun) -> dict[str, Any]:
    """Return the plain configuration of a run, from which an equal model is built.

    Networks of pretrained weights are named by their folder in the export. Word vectors count as trained from scratch, since the
    model's weights hold them. A network with adapters counts as trained in whole, since they are merged into it.
    """
    whole = run.config.mapping
    data = {key: value for key, value in whole["data"].items() if key != "root"}
    kept = {
        **{key: whole[key] for key in KEPT if key in whole},
        "data": {**data, "root": None, "workers": 0},
        "encoder": {m: _encoder(whole["encoder"][m], m) for m in run.modalities},
        "trainer": {"accelerator": "auto", "devices": 1, **{key: whole["trainer"][key] for key in OF_TRAINER}},
        "encode": dict(whole.get("encode") or {}),
    }
    return _without_places(kept)


def described_networks(run: TrainedRun) -> dict[str, dict[str, bytes]]:
    """Return {folder in the export: {name: content}} of the pretrained networks of a run. Raises UserError."""
    found: dict[str, dict[str, bytes]] = {}
    for m, encoder in run.model.encoders.items():
        describe: Callable[[], dict[str, bytes]] = getattr(run.sources[m].preparation, "description", dict)
        for folder, files in ((FOLDERS[0], encoder.description()), (FOLDERS[1], describe())):  # type: ignore[operator]
            if files:
                found[f"{folder}/{m}"] = files
    return found


def pretrained_names(run: TrainedRun) -> dict[str, str]:
    """Return {modality: the hub's name of its pretrained weights}, or `a local copy` for weights from a folder."""
    found = {}
    for m in run.modalities:
        named = named_in(run.config.mapping["encoder"][m], f"encoder.{m}")
        if named is not None:
            found[m] = named[0]
    return {m: "a local copy" if is_place(name.removeprefix("timm/")) else name for m, name in found.items()}


def _encoder(node: Mapping[str, Any], modality: str, depth: int = 0) -> dict[str, Any]:
    found = dict(node)
    if isinstance(node.get("preparation"), Mapping):
        found["preparation"] = _encoder(node["preparation"], modality, depth + 1)
    if named_in({**node, "preparation": None}, "") is not None:
        found["name"] = f"{FOLDERS[depth]}/{modality}"
        if "weights" in node:
            found["weights"] = None
    if node.get("vectors") is not None:
        found |= {"vectors": None, "freeze": "none", "unfreeze_at_epoch": None}
    if node.get("lora") is not None:
        found |= {"lora": None, "freeze": "none"}
    if "device" in node:
        found["device"] = "cpu"
    return found


def _without_places(node: Any) -> Any:
    """Return a copy of plain data in which every path of this machine is null."""
    if isinstance(node, Mapping):
        return {key: _without_places(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_without_places(value) for value in node]
    return None if is_place(node) else node
