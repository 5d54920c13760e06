"""The encoder of posters with a pretrained vision transformer of the transformers library, preprocessed as its processor says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gmu_lightning.config.ranges import Count
from gmu_lightning.encoders import weights
from gmu_lightning.encoders.image import PosterEncoder, pooled_tokens
from gmu_lightning.encoders.posters import PosterPreparation
from gmu_lightning.encoders.pretrained import LOCAL, TOWERS, TransformersEncoder, described, two_towers
from gmu_lightning.files import digest
from gmu_lightning.movie import Features, Preparation, UserError

PROCESSORS = ("preprocessor_config.json", "processor_config.json")  # either holds the settings of the image processor
LEVELS = 1 / 255  # factor of the pixels' values


class HuggingFaceImage(TransformersEncoder, PosterEncoder):
    """Encode posters with any vision transformer of the transformers library, in float32.

    Args:
        name: a local folder, or a repository of the hub.
        pool: `pooler` (the network's own pooled output, such as DINOv3's normalised class token), `projection` (of networks with
            a tower for texts, as CLIP and SigLIP: the vector in the space of both towers), `cls` (the first token) or `mean`
            (over the patches).
        num_tokens: number of tokens pooled from the patches for `Features.sequence`; None gives no sequence.
        augment: in training, mirror, zoom and shift each poster at random.
        common: `freeze`, `unfreeze_at_epoch`, `lr`, `normalise`, `dropout`, `modality_dropout` of `Encoder`.

    Raises:
        UserError: in `check` and `build`, weights are missing or do not fit, or the network lacks the requested output.
    """

    def __init__(
        self,
        name: str,
        pool: Literal["pooler", "projection", "cls", "mean"] = "pooler",
        num_tokens: Count | None = None,
        augment: bool = False,
        **common: Any,
    ):
        super().__init__("image", name, **common)
        self.pool, self.num_tokens, self.augment = pool, num_tokens, augment
        self._preparation: Preparation | None = None

    @property
    def preparation(self) -> Preparation:
        """Return the fitted preparation, or the one that the weights were trained with. The weights are found on first use.

        Raises UserError if they are missing.
        """
        return self._preparation or _recipe(self.folder).preparation

    @preparation.setter
    def preparation(self, fitted: Preparation) -> None:
        self._preparation = fitted

    @property
    def sequences(self) -> bool:  # type: ignore[override]
        """Return whether `Features.sequence` is filled."""
        return self.num_tokens is not None

    def check(self) -> None:
        """Check that the weights are found, and the settings of their image processor beside them. Raises UserError."""
        folder = weights.find(self.name, self.option).path
        if folder is not None:
            processor_file(folder, self._chosen)

    def description(self) -> dict[str, bytes]:
        return described(self.folder, ["config.json", processor_file(self.folder, self._chosen).name])

    def _readout(self) -> list[Any]:
        recipe = _recipe(self.folder)
        return [self.pool, self.num_tokens, recipe.mean, recipe.std]

    def forward(self, inputs: Tensor) -> Features:
        """Return the `Features` of posters, uint8 (B, 3, H, W)."""
        pixels = self._pixels(inputs)
        run = self.network.get_image_features if self.pool == "projection" else self.network
        out = run(pixel_values=pixels)
        hidden = out.last_hidden_state  # (B, special tokens + h w, d)
        if self.pool == "mean" or self.num_tokens:
            rows, columns = self._grid_of(pixels)
            patches = hidden[:, -rows * columns :]
        vector = {"cls": lambda: hidden[:, 0], "mean": lambda: patches.mean(dim=1)}.get(self.pool, lambda: out.pooler_output)()
        if not self.num_tokens:
            return Features(vector)
        maps = self._projected(patches).unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
        return Features(vector, pooled_tokens(maps, self.num_tokens))

    def _grid_of(self, pixels: Tensor) -> tuple[int, int]:
        """Return the rows and columns of patches in posters (B, 3, H, W). Raises UserError for a network without patches."""
        patch = getattr(self.tower.config, "patch_size", None)
        if not isinstance(patch, int):
            raise UserError(
                f"{self._chosen}: {self.tower.config.model_type} has no square patches, which encoder.image.pool=mean and "
                "num_tokens need; give pool=pooler and num_tokens=null"
            )
        return pixels.shape[2] // patch, pixels.shape[3] // patch

    def _projected(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, T, d) in the space of the vector, as the network itself projects its class token."""
        project = getattr(self.network, TOWERS["image"][2], None) if self.pool == "projection" else None
        return tokens if project is None else project(self.tower.post_layernorm(tokens))

    def _load(self) -> nn.Module:
        self.check()
        config = self._config()
        if (self.pool == "projection") != two_towers(config.to_dict()):
            raise UserError(
                f"encoder.image.pool={self.pool}: {self.name} ({config.model_type}) has "
                + ("no tower for texts; give pool=pooler" if self.pool == "projection" else "two; give pool=projection")
            )
        network, report = self._pretrained(config)
        if self.pool != "projection" and network.main_input_name != "pixel_values":
            raise UserError(f"{self._chosen}: {config.model_type} is no encoder of images; choose one like CLIP or DINOv3")
        self._refuse_missing({name for name in report["missing_keys"] if not name.endswith("mask_token")})  # of pretraining alone
        recipe = _recipe(self.folder)
        self._scale_by(torch.tensor(recipe.mean), torch.tensor(recipe.std))
        return network


@dataclass(frozen=True)
class ProcessorPreparation(PosterPreparation):
    """Store a poster as an image processor of the transformers library resizes and crops it.

    Attributes:
        edge: the shorter edge of the resized poster for `mode=center`, in pixels.
    """

    edge: int = 0

    @property
    def look(self) -> str:
        """Return the hash of size, crop, interpolation and mode, and of the rounding by which it differs from timm's."""
        return digest(["processor", super().look])

    @property
    def _target(self) -> tuple[int, int]:
        return (self.edge, self.edge) if self.mode == "center" else (self.size[1], self.size[0])

    def _corner(self, height: int, width: int) -> tuple[int, int]:
        return (height - self.size[0]) // 2, (width - self.size[1]) // 2


@dataclass(frozen=True)
class _Recipe:
    """The preprocessing that belongs to a network's weights; mean and std of each channel are for values from 0 to 1."""

    preparation: ProcessorPreparation
    mean: list[float]
    std: list[float]


def processor_file(folder: Path, chosen: str) -> Path:
    """Return the file that holds the settings of a folder's image processor. Raises UserError, with the setting `chosen`."""
    found = next((folder / name for name in PROCESSORS if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"{chosen}: {folder} holds no {PROCESSORS[0]}; save the image processor beside the weights")
    return found


@lru_cache(maxsize=8)
def _recipe(folder: Path) -> _Recipe:
    """Return the preprocessing of the weights in a folder. Raises UserError if a poster cannot be prepared so."""
    file = processor_file(folder, "encoder.image.name")
    question = ["image processor", metadata.version("transformers"), weights.sha256(file), weights.sha256(folder / "config.json")]
    found = weights.remembered(question, lambda: _settings(folder, file))
    size, crop = found["size"], found["crop_size"]
    edge = size.get("shortest_edge")
    odd = [key for key in ("do_resize", "do_rescale", "do_normalize") if not found[key]]
    if abs(found["rescale_factor"] - LEVELS) > 1e-9 or not (edge or {"height", "width"} <= size.keys()) or (edge and not crop):
        odd += ["rescale_factor", "size", "crop_size"]
    if edge and crop and max(crop["height"], crop["width"]) > edge:
        odd += ["size", "crop_size"]
    if odd:
        shown = ", ".join(f"{key}={found[key]}" for key in odd)
        raise UserError(
            f"{file} asks for {shown}: expected pixels that are resized to a height and width, or to a shortest edge and then "
            "cut, divided by 255 and normalised; choose another encoder/image"
        )
    chosen = crop if edge else size
    preparation = ProcessorPreparation(
        size=(chosen["height"], chosen["width"]),
        interpolation=found["interpolation"],
        mode="center" if edge else "squash",
        edge=edge or 0,
    )
    return _Recipe(preparation, found["image_mean"], found["image_std"])


def _settings(folder: Path, file: Path) -> dict[str, Any]:
    """Return the settings of an image processor as plain JSON. It imports transformers, which takes some seconds."""
    from PIL import Image
    from transformers import AutoImageProcessor

    processor = weights.loading(str(file), lambda: AutoImageProcessor.from_pretrained(folder, **LOCAL))

    def plain(value: Any) -> Any:
        edges: Mapping[str, Any] = value if isinstance(value, Mapping) else vars(value) if hasattr(value, "__dict__") else {}
        return {key: one for key, one in edges.items() if one is not None}

    found = {key: bool(getattr(processor, key, None)) for key in ("do_resize", "do_rescale", "do_normalize")}
    crop = plain(getattr(processor, "crop_size", None)) if getattr(processor, "do_center_crop", None) else {}
    kept = {"size": plain(processor.size), "crop_size": crop, "rescale_factor": float(processor.rescale_factor or 0)}
    colours = {key: [float(one) for one in getattr(processor, key) or ()] for key in ("image_mean", "image_std")}
    interpolation = Image.Resampling(int(processor.resample)).name.lower()
    return json.loads(json.dumps({**found, **kept, **colours, "interpolation": interpolation}))
