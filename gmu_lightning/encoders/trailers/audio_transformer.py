"""The encoder of a trailer's sound with a pretrained transformer, which reads one window of sound at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gmu_lightning.config.ranges import Positive
from gmu_lightning.encoders import weights
from gmu_lightning.encoders.pretrained import LOCAL, TransformersEncoder, described
from gmu_lightning.encoders.temporal import Dtype, SequenceInputs
from gmu_lightning.encoders.trailers import decoder_pool
from gmu_lightning.encoders.trailers.preparations import TrailerPreparation, trailer, waveform
from gmu_lightning.files import digest
from gmu_lightning.movie import Features, UserError
from gmu_lightning.nn.transformer import masked_mean

OPTION = "encoder.audio.name"
EXTRACTOR = "preprocessor_config.json"
AT_ONCE = 16  # windows


class HuggingFaceAudio(TransformersEncoder):
    """Encode sound with any audio encoder of the transformers library (AST, Wav2Vec2, HuBERT, Whisper's, ...), in float32.

    The sound is cut into windows, and the last window is padded with silence. Each window becomes a token of the sequence: the
    network's pooled output if it has one, otherwise the mean of its output. The vector is the mean of the tokens.

    Args:
        name: a local folder, or a repository of the hub.
        window: length of a window in seconds, as in the network's training. A last window that is less than half full is left
            out, unless it is the only one.
        seconds: sound after this time is not read.
        dtype: of stored network inputs, `float32`, or `float16` in half the space.
        common: `freeze`, `unfreeze_at_epoch`, `lr`, `normalise`, `dropout`, `modality_dropout` of `Encoder`.

    Raises:
        UserError: `window` is longer than `seconds`; in `check` and `build`, weights are missing or do not fit.
    """

    sequences = True

    def __init__(self, name: str, window: Positive = 10.0, seconds: Positive = 200.0, dtype: Dtype = "float32", **common: Any):
        super().__init__("audio", name, **common)
        if window > seconds:
            raise UserError(f"encoder.audio.window={window} seconds={seconds}: give a window that fits into the seconds")
        self.preparation = WindowPreparation(name, window, seconds, dtype)

    def check(self) -> None:
        """Check that the weights are found, and the settings of their feature extractor beside them. Raises UserError."""
        folder = weights.find(self.name, OPTION).path
        if folder is not None and not (folder / EXTRACTOR).is_file():
            raise UserError(f"{self._chosen}: this folder holds no {EXTRACTOR}; save the feature extractor beside the weights")

    def description(self) -> dict[str, bytes]:
        return described(self.folder, ["config.json", EXTRACTOR])

    def blocks(self) -> list[nn.Module]:
        depth = self.network.config.num_hidden_layers
        layers = [m for m in self.network.modules() if isinstance(m, nn.ModuleList) and len(m) == depth][-1]
        before = takewhile(lambda child: all(module is not layers for module in child.modules()), self.network.children())
        return [nn.ModuleList(before), *layers]

    def forward(self, inputs: SequenceInputs) -> Features:
        """Return the `Features` of windows (B, W, *shape), with one token per window."""
        real = inputs.values[inputs.mask]  # (N, *shape)
        tokens = torch.cat([self._tokens(windows) for windows in real.split(AT_ONCE)])  # (N, d)
        sequence = tokens.new_zeros(*inputs.mask.shape, tokens.shape[-1]).masked_scatter(inputs.mask[..., None], tokens)
        return Features(masked_mean(sequence, inputs.mask), sequence, inputs.mask)

    def _tokens(self, windows: Tensor) -> Tensor:
        out = self.network(**{self.network.main_input_name: windows})
        pooled = getattr(out, "pooler_output", None)
        return out.last_hidden_state.mean(dim=1) if pooled is None else pooled

    def _load(self) -> nn.Module:
        self.check()
        config = self._config()
        if hasattr(config, "apply_spec_augment"):
            config.apply_spec_augment = False  # it would draw from NumPy's generator, which runs do not seed
        network, report = self._pretrained(config)
        self._refuse_missing(report["missing_keys"] - {"masked_spec_embed"})
        return network


@dataclass(frozen=True)
class WindowPreparation(TrailerPreparation):
    """Store a trailer's sound as the network's inputs for W windows, (W, *shape) with W >= 1."""

    name: str
    window: float
    seconds: float
    dtype: str = "float32"

    @property
    def fingerprint(self) -> str:
        """Return the hash of the feature extractor's settings, `window`, `seconds` and the dtype."""
        extractor = weights.sha256(self._folder / EXTRACTOR)
        return digest(["windows", decoder_pool.VERSION, extractor, self.window, self.seconds, self.dtype])

    @property
    def per_second(self) -> float:
        """Return the number of windows in a second."""
        return 1 / self.window

    @cached_property
    def step(self) -> tuple[int, ...]:
        """Return the shape of one window's network inputs."""
        return self._read(np.zeros(1, dtype=np.float32)).shape[1:]

    def store(self, content: Any) -> np.ndarray:
        """Return the windows of one trailer, (W, *shape) in `dtype`.

        Raises:
            BadContent: the sound is missing, silent or undecodable.
            UserError: `content` is no path.
        """
        return self._read(waveform(trailer(content, "audio"), _extractor(self._folder).sampling_rate, self.seconds))

    @property
    def _folder(self) -> Path:
        return weights.find(self.name, OPTION).fetched()

    def _read(self, sound: np.ndarray) -> np.ndarray:
        """Return the network's inputs for the windows of a sound (samples,): (W, *shape)."""
        extractor = _extractor(self._folder)
        rate = extractor.sampling_rate
        cut = windows(sound, round(self.window * rate))
        features = extractor(list(cut), sampling_rate=rate, return_tensors="np")
        return features[extractor.model_input_names[0]].astype(np.float32).astype(self.dtype)


def windows(sound: np.ndarray, size: int) -> np.ndarray:
    """Cut a sound (samples,) into windows, float32 (W, size).

    The last window is padded with zeros. It is left out if it is less than half full and not the only one.
    """
    count = max(1, (len(sound) + size // 2) // size)
    whole = np.zeros(count * size, dtype=np.float32)
    whole[: len(sound)] = sound[: len(whole)]
    return whole.reshape(count, size)


@weights.loaded_once
def _extractor(folder: Path) -> Any:
    from transformers import AutoFeatureExtractor

    return AutoFeatureExtractor.from_pretrained(folder, **LOCAL)
