"""A trailer's sound through a pretrained transformer, a window at a time."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gmu_lightning.encoders import decoding, weights
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.preparing import OfTrailers, check_positive, trailer
from gmu_lightning.encoders.sequences import DTYPES, SequenceInputs, padded_steps
from gmu_lightning.encoders.sound import waveform
from gmu_lightning.encoders.tokens import masked_mean
from gmu_lightning.files import digest
from gmu_lightning.movie import Features, UserError

OPTION = "encoder.audio.name"
EXTRACTOR = "preprocessor_config.json"
AT_ONCE = 16  # windows


class HuggingFaceAudio(Encoder):
    """Any audio encoder of the transformers library (AST, Wav2Vec2, HuBERT, Whisper's encoder, ...), in float32.

    The sound is cut into windows as long as those the network was trained on, the last filled up with silence. Each window
    becomes a token of the sequence, the network's pooled output if it has one, otherwise the mean of its own; the tokens' mean is
    the vector.

    Args:
        name: a local folder, or a repository of the hub.
        window: seconds. A last window that would be less than half full is left out, unless it is the only one.
        seconds: what lies beyond is not read.
        dtype: what the network reads is kept on disk as `float32`, or as `float16` in half the space.
        common: `freeze`, `unfreeze_at_epoch`, `lr`, `normalise`, `dropout`, `modality_dropout` of `Encoder`.

    Raises:
        UserError: an argument is out of its range; in `check` and `build`, weights are missing or do not fit.
    """

    sequences = True

    def __init__(
        self,
        name: str,
        window: float = 10.0,
        seconds: float = 200.0,
        dtype: str = "float32",
        **common: Any,
    ):
        super().__init__("audio", pretrained=True, **common)
        if dtype not in DTYPES:
            raise UserError(f"encoder.audio.dtype={dtype}: give one of {', '.join(DTYPES)}")
        check_positive("encoder.audio", window=window, seconds=seconds)
        if window > seconds:
            raise UserError(f"encoder.audio.window={window} seconds={seconds}: give a window that fits into the seconds")
        self.name = name
        self.preparation = WindowPreparation(name, window, seconds, dtype)

    @property
    def dim(self) -> int:
        config = json.loads((_folder(self.name) / "config.json").read_text(encoding="utf-8"))
        return int(config.get("hidden_size") or config["d_model"])

    @property
    def fingerprint(self) -> str:
        found = weights.find(self.name, OPTION)
        return digest(["transformers", weights.sha256(found.file), weights.sha256(found.fetched() / "config.json")])

    def check(self) -> None:
        """Whether weights are found, and beside them what says how they want their sound."""
        folder = weights.find(self.name, OPTION).path
        if folder is not None and not (folder / EXTRACTOR).is_file():
            raise UserError(
                f"{OPTION}={self.name}: this folder holds no {EXTRACTOR}; save the feature extractor beside the weights"
            )

    def blocks(self) -> list[nn.Module]:
        depth = self.network.config.num_hidden_layers
        layers = [m for m in self.network.modules() if isinstance(m, nn.ModuleList) and len(m) == depth][-1]
        before = takewhile(lambda child: all(module is not layers for module in child.modules()), self.network.children())
        return [nn.ModuleList(before), *layers]

    def forward(self, inputs: SequenceInputs) -> Features:
        """Windows (B, W, *shape) -> `Features` with a token per window."""
        real = inputs.values[inputs.mask]  # (N, *shape)
        tokens = torch.cat([self._tokens(windows) for windows in real.split(AT_ONCE)])  # (N, d)
        sequence = tokens.new_zeros(*inputs.mask.shape, tokens.shape[-1]).masked_scatter(inputs.mask[..., None], tokens)
        return Features(masked_mean(sequence, inputs.mask), sequence, inputs.mask)

    def _tokens(self, windows: Tensor) -> Tensor:
        out = self.network(**{self.network.main_input_name: windows})
        pooled = getattr(out, "pooler_output", None)
        return out.last_hidden_state.mean(dim=1) if pooled is None else pooled

    def _load(self) -> nn.Module:
        from transformers import AutoConfig

        self.check()
        config = AutoConfig.from_pretrained(_folder(self.name), local_files_only=True, trust_remote_code=False)
        if hasattr(config, "apply_spec_augment"):
            config.apply_spec_augment = False  # it draws from NumPy's generator, which no run seeds
        network, report = _loaded(f"{OPTION}={self.name}", _folder(self.name), config)
        missing = sorted(report["missing_keys"] - {"masked_spec_embed"})
        if missing:
            raise UserError(
                f"{OPTION}={self.name}: {len(missing)} weights are missing ({', '.join(missing[:3])}); "
                "these are the weights of another network"
            )
        return network.get_encoder() if config.is_encoder_decoder else network


@dataclass(frozen=True)
class WindowPreparation(OfTrailers):
    """A trailer's sound is stored as what the network reads of each window: (W, *shape), W >= 1."""

    name: str
    window: float
    seconds: float
    dtype: str = "float32"

    @property
    def fingerprint(self) -> str:
        """The feature extractor's settings, the lengths and the dtype."""
        extractor = weights.sha256(_folder(self.name) / EXTRACTOR)
        return digest(["windows", decoding.VERSION, extractor, self.window, self.seconds, self.dtype])

    def store(self, content: Any) -> np.ndarray:
        """One trailer -> (W, *shape). Raises BadContent where it has no sound."""
        folder = _folder(self.name)
        rate = _extractor(folder).sampling_rate
        sound = waveform(trailer(content, "audio"), rate, self.seconds)
        return _read(folder, windows(sound, round(self.window * rate))).astype(self.dtype)

    def batch(self, rows: Sequence[np.ndarray | None], training: bool) -> SequenceInputs:
        """Windows padded to the row that has most."""
        return padded_steps(rows, _shape(_folder(self.name), self.window))


def windows(sound: np.ndarray, size: int) -> np.ndarray:
    """(samples,) -> (W, size); the last is filled up with zeros, or left out where less than half full and not the only one."""
    count = max(1, (len(sound) + size // 2) // size)
    whole = np.zeros(count * size, dtype=np.float32)
    whole[: len(sound)] = sound[: len(whole)]
    return whole.reshape(count, size)


def _folder(name: str) -> Path:
    return weights.find(name, OPTION).fetched()


def _loaded(what: str, folder: Path, config: Any) -> tuple[Any, Mapping[str, set[str]]]:
    """The network, quietly, and the report of which weights it found."""
    from transformers import AutoModel
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options = {"config": config, "dtype": torch.float32, "local_files_only": True, "output_loading_info": True}
    options |= {"trust_remote_code": False, "weights_only": True}
    try:
        return weights.loading(what, lambda: AutoModel.from_pretrained(folder, **options))
    finally:
        logging.set_verbosity(verbosity)


_LOADING = threading.Lock()


def _extractor(folder: Path) -> Any:
    with _LOADING:  # preparing runs in threads
        return _loaded_extractor(folder)


@lru_cache(maxsize=8)
def _loaded_extractor(folder: Path) -> Any:
    from transformers import AutoFeatureExtractor

    return AutoFeatureExtractor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _read(folder: Path, sounds: np.ndarray) -> np.ndarray:
    """Windows (W, samples) -> what the network reads of each, (W, *shape) float32."""
    extractor = _extractor(folder)
    features = extractor(list(sounds), sampling_rate=extractor.sampling_rate, return_tensors="np")
    return features[extractor.model_input_names[0]].astype(np.float32)


@lru_cache(maxsize=8)
def _shape(folder: Path, window: float) -> tuple[int, ...]:
    silence = np.zeros((1, round(window * _extractor(folder).sampling_rate)), dtype=np.float32)
    return _read(folder, silence).shape[1:]
