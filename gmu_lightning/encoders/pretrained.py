"""The base class of encoders with a pretrained network of the transformers library."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gmu_lightning.encoders import weights
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.files import digest, is_place
from gmu_lightning.movie import UserError

NOTHING_ODD: Mapping[str, set[str]] = {"missing_keys": set(), "unexpected_keys": set()}
NOT_EXPORTED = ("_name_or_path", "name_or_path", "auto_map", "_attn_implementation", "attn_implementation")
LOCAL: dict[str, bool] = {"local_files_only": True, "trust_remote_code": False}  # how every file of a folder is read
# {modality: (its part of a two-tower network's settings, the tower, the tower's projection)}, as in CLIP and SigLIP
TOWERS = {
    "text": ("text_config", "text_model", "text_projection"),
    "image": ("vision_config", "vision_model", "visual_projection"),
}


class TransformersEncoder(Encoder):
    """Base class of encoders with a pretrained network of the transformers library, in float32.

    Args:
        modality: name of the modality.
        name: a local folder, or a repository of the hub.
        common: `freeze`, `unfreeze_at_epoch`, `lr`, `normalise`, `dropout`, `modality_dropout` of `Encoder`.

    Attributes:
        option: the setting that holds `name`, for error sentences.
    """

    def __init__(self, modality: str, name: str, **common: Any):
        super().__init__(modality, pretrained=True, **common)
        self.name, self.option = name, f"encoder.{modality}.name"

    @property
    def folder(self) -> Path:
        """Return the folder of weights, downloaded first if needed. Raises UserError."""
        return weights.find(self.name, self.option).fetched()

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return the network's settings. Those of two towers are completed by the library's defaults, which files leave out."""
        config = config_of(self.folder)
        if not two_towers(config):
            return config
        question = ["settings", metadata.version("transformers"), config]
        return weights.remembered(question, lambda: json.loads(self._config().to_json_string(use_diff=False)))

    @property
    def tower(self) -> Any:
        """Return the part of the built network that reads this modality: one of two towers, or the whole network."""
        return getattr(self.network, TOWERS[self.modality][1]) if two_towers(self.settings) else self.network

    @property
    def dim(self) -> int:
        config = self.settings
        if two_towers(config):
            own = config[TOWERS[self.modality][0]]
            return int(config.get("projection_dim") or own.get("projection_size") or own["hidden_size"])
        return int(config.get("hidden_size") or config.get("dim") or config["d_model"])

    @property
    def fingerprint(self) -> str:
        file = weights.find(self.name, self.option).file
        return digest(["transformers", weights.sha256(file), weights.sha256(self.folder / "config.json"), *self._readout()])

    def _readout(self) -> list[str]:
        """Return the settings besides the weights that determine the features."""
        return []

    def _config(self) -> Any:
        """Return the network's configuration, read by the transformers library. Raises UserError."""
        from transformers import AutoConfig

        if odd := next(keys_that_load_code(config_of(self.folder)), None):
            raise UserError(f"{self.folder / 'config.json'} holds {odd}, by which a network loads code: give a folder without it")
        return weights.loading(self._chosen, lambda: AutoConfig.from_pretrained(self.folder, **LOCAL))

    def _pretrained(self, config: Any, **options: Any) -> tuple[Any, Mapping[str, set[str]]]:
        """Return the network, loaded without output, and the report of missing and unused weights. Raises UserError."""
        from transformers import AutoModel
        from transformers.utils import logging

        made = dict(options)
        options |= {"config": config, "dtype": torch.float32, "weights_only": True, "output_loading_info": True, **LOCAL}
        verbosity, progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        found = weights.find(self.name, self.option)
        try:
            if found.kind == "export":
                return weights.loading(self._chosen, lambda: self._of_export(found, config, made)), NOTHING_ODD
            network, report = weights.loading(self._chosen, lambda: AutoModel.from_pretrained(self.folder, **options))
            return self._own_part(network), report
        finally:
            logging.set_verbosity(verbosity)
            if progress:
                logging.enable_progress_bar()

    def _of_export(self, found: weights.Found, config: Any, options: Mapping[str, Any]) -> Any:
        """Return a network with the weights of an exported model. Raises UserError if they do not fit."""
        from transformers import AutoModel

        network = self._own_part(AutoModel.from_config(config, dtype=torch.float32, **options))
        weights.load_exported(network, found)
        return network

    def _own_part(self, network: Any) -> Any:
        """Return the part of a network that reads this modality: the encoder without its decoder, or one of two towers."""
        if network.config.is_encoder_decoder:
            return network.get_encoder()
        if two_towers(network.config.to_dict()):
            for name in [name for name, _ in network.named_children() if name not in TOWERS[self.modality]]:
                delattr(network, name)
            for name in [name for name, _ in network.named_parameters(recurse=False)]:  # the scale of their similarity
                delattr(network, name)
        return network

    def blocks(self) -> list[nn.Module]:
        tower = self.tower
        embeddings = getattr(tower, "embeddings", None) or tower.get_input_embeddings()
        layers = max((m for m in tower.modules() if isinstance(m, nn.ModuleList)), key=len)
        return [embeddings, *layers]

    def _refuse_missing(self, missing: Collection[str], remedy: str = "these are the weights of another network") -> None:
        """Raise UserError if a weight of the network is missing."""
        if missing:
            some = ", ".join(sorted(missing)[:3])
            raise UserError(f"{self._chosen}: {len(missing)} weights are missing ({some}); {remedy}")

    @property
    def _chosen(self) -> str:
        return f"{self.option}={self.name}"


def two_towers(settings: Mapping[str, Any]) -> bool:
    """Return whether settings are those of a network with a tower for texts and one for images."""
    return all(part in settings for part, *_ in TOWERS.values())


def keys_that_load_code(settings: Mapping[str, Any], names: Collection[str] = ()) -> Iterator[str]:
    """Yield the keys in the settings of a network, at any depth, by which transformers loads code from the hub.

    `auto_map` is none, since every file is read with `trust_remote_code=False`.

    Args:
        settings: of the network.
        names: further keys to yield.
    """
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from keys_that_load_code(value, names)
        if ("attn_implementation" in key and "/" in str(value)) or (key == "use_kernels" and value) or key in names:
            yield key


def described(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Return {name: content} of files in a folder. Configurations lack the keys that name places on this machine, or code."""
    found = {}
    for name in names:
        content = (folder / name).read_bytes()
        if name.endswith("config.json"):
            content = (
                json.dumps(_without_places(json.loads(content)), indent=1, ensure_ascii=False, sort_keys=True).encode() + b"\n"
            )
        found[name] = content
    return found


def _without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in settings.items() if key not in NOT_EXPORTED and not is_place(value)}
    parts = {part for part, *_ in TOWERS.values()}
    return {key: _without_places(value) if key in parts else value for key, value in kept.items()}


@lru_cache(maxsize=8)
def config_of(folder: Path) -> dict[str, Any]:
    """Return the config.json of a folder. It is cached: do not change it. Raises UserError if it is missing or no JSON object."""
    path = folder / "config.json"
    found = weights.loading(str(path), lambda: json.loads(path.read_text(encoding="utf-8")))
    if not isinstance(found, dict):
        raise UserError(f"{path} is no JSON object: give a folder as save_pretrained writes it")
    return found
