"""Restore an exported model from its folder, without a hub, a package of weights or a store, and without trust in its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from gmu_lightning.config.schema import RunConfig
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.pretrained import keys_that_load_code
from gmu_lightning.encoders.timm_network import argument_that_loads_files, library
from gmu_lightning.encoders.weights import named_in
from gmu_lightning.experiment.choices import check_kinds
from gmu_lightning.movie import UserError
from gmu_lightning.run_files.exported import CONFIG, FOLDERS, HINT, PREPARATION, ExportFolder, read_export, read_weights
from gmu_lightning.run_files.plain import Damaged, text

REFUSED = (  # keys by which a network's settings load code
    *("auto_map", "quantization_config", "use_kernels", "custom_pipelines", "attn_implementation", "_attn_implementation"),
)
NOT_SETTINGS = ("name", "weights", "words", "learned", "device", "_loaded")
MOST = 10**6  # bytes of a network's settings


def recorded_export(folder: Path, backend: str | None, config_dir: str | None) -> tuple[ExportFolder, RunConfig]:
    """Return the content of an exported model's folder, and its typed configuration. No code in the folder is run.

    Args:
        folder: of the model.
        backend, config_dir: as in `RunConfig.recorded`.

    Raises:
        UserError: a file is missing, damaged or can hold code, or the configuration names a class or weights from elsewhere.
    """
    found = read_export(folder)
    _check_networks(folder)
    config = {**found.config, "encoder": _placed(found.config["encoder"], folder)}
    typed = RunConfig.recorded(config, folder / CONFIG, backend=backend, config_dir=config_dir)
    if typed.modalities != tuple(found.sizes):
        raise Damaged(folder / CONFIG, f"it names other modalities than {'+'.join(found.sizes)}", HINT)
    check_kinds(typed)
    return found, typed


def checkpoint_of(found: ExportFolder, encoders: Mapping[str, Encoder]) -> dict[str, Any]:
    """Return the content of an exported model as that of a checkpoint. Weights of constant encoders are left to these.

    Raises:
        UserError: the file of weights is damaged.
    """
    others = tuple([f"encoders.{m}." for m, encoder in encoders.items() if encoder.constant] + [f"{FOLDERS[1]}."])
    state = {name: value for name, value in read_weights(found.folder).items() if not name.startswith(others)}
    about = {"genres": list(found.genres), "modalities": list(found.sizes), "sizes": dict(found.sizes)}
    return {"state_dict": state, "gmu_lightning": {**about, "preparations": found.learned}}


def preprocessing_of(preparation: Any) -> dict[str, Any]:
    """Return the settings of a preparation as plain JSON: the name of its class, and the fields that are numbers or words.

    Its learned state and the places of weights are left out.
    """
    known = [(one.name, getattr(preparation, one.name)) for one in fields(preparation)] if is_dataclass(preparation) else []
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in known if name not in NOT_SETTINGS}
    kept = {name: value for name, value in plain.items() if isinstance(value, bool | int | float | str | list | None)}
    return {"kind": type(preparation).__name__, **kept}


def check_preprocessing(found: ExportFolder, encoders: Mapping[str, Encoder]) -> None:
    """Raise Damaged unless the encoders prepare their inputs by the settings that an exported model names.

    A setting that an older export lacks counts as the default.
    """
    for modality, encoder in encoders.items():
        preparation: Any = encoder.preparation
        own = preprocessing_of(preparation)
        known = fields(preparation) if is_dataclass(preparation) else ()
        defaults = {one.name: one.default for one in known if one.name in own and one.default is not MISSING}
        named = {**defaults, **found.preprocessing[modality]}
        odd = sorted(key for key in named.keys() | own.keys() if named.get(key) != own.get(key))
        if odd:
            raise Damaged(
                found.folder / PREPARATION,
                f"its preprocessing of {modality} has {odd[0]}={named.get(odd[0])}, and {CONFIG} gives {own.get(odd[0])}",
                HINT,
            )


def _placed(encoders: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the encoders' settings with the places of networks in the folder. Raises Damaged for any other place of weights."""
    return {modality: _with_place(node, f"encoder.{modality}", modality, folder, 0) for modality, node in encoders.items()}


def _with_place(node: Mapping[str, Any], place: str, modality: str, folder: Path, depth: int) -> dict[str, Any]:
    own = f"{FOLDERS[depth]}/{modality}"
    found = dict(node)
    inner = node.get("preparation")
    if isinstance(inner, Mapping):
        if depth:
            raise Damaged(folder / CONFIG, f"{place} holds a preparation within a preparation", HINT)
        found["preparation"] = _with_place(inner, f"{place}.preparation", modality, folder, 1)
    elsewhere = [key for key in ("weights", "vectors") if node.get(key) is not None]
    if elsewhere or (node.get("name") != own and named_in({**node, "preparation": None}, place)):
        raise Damaged(folder / CONFIG, f"{place}.{[*elsewhere, 'name'][0]} names weights outside of the folder", HINT)
    if node.get("name") == own:
        if not (folder / own / "config.json").is_file():
            raise Damaged(folder / own / "config.json", "it is not there", HINT)
        found["name"] = str((folder / own).absolute())
    return found


def _check_networks(folder: Path) -> None:
    """Check the settings of the networks in an exported model. Raises UserError for one that could load code or other files."""
    for name in FOLDERS:
        for path in sorted((folder / name).glob("*/*config.json")):
            try:
                settings = json.loads(text(path, MOST, HINT))
            except (ValueError, RecursionError):
                settings = None
            if not isinstance(settings, dict):
                raise Damaged(path, "it is no JSON object", HINT)
            odd = next(keys_that_load_code(settings, REFUSED), None)
            if odd:
                raise Damaged(path, f"it holds {odd}, by which a network loads code", HINT)
            if path.name == "config.json" and "architecture" in settings:
                _check_timm(settings, path)


def _check_timm(settings: Mapping[str, Any], path: Path) -> None:
    architecture, arguments = settings["architecture"], settings.get("model_args") or {}
    if not isinstance(architecture, str) or not library().is_model(architecture):
        raise Damaged(path, f"timm has no network {str(architecture)[:80]}", HINT)
    odd = argument_that_loads_files(arguments) if isinstance(arguments, dict) else "model_args"
    if odd:
        raise Damaged(path, f"it holds {odd}, by which a network loads other files", HINT)


def refuse_rule(rule: str, folder: Path) -> UserError:
    """Return the error for a tuned threshold of several models, whose predictions of val are not in their folders."""
    return UserError(
        f"threshold={rule} is tuned on the mean over val, and {folder} is an exported model without predictions of val: "
        "give a number, or one model"
    )
