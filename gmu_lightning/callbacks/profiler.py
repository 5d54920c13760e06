"""Where the time of a training step went, and how much of what the machine can do it was: profile.json and profile.md."""

from __future__ import annotations

import os
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gmu_lightning.callbacks.flops import ModelFlops, Work, measured_peak, work_of
from gmu_lightning.callbacks.profile_page import (
    BACKWARD,
    BETWEEN,
    CHECKPOINTS,
    DATA,
    FORWARD,
    FUSION,
    HEAD,
    OPTIMIZER,
    OUTSIDE,
    REST,
    TRANSFER,
    VALIDATION,
    as_markdown,
)
from gmu_lightning.callbacks.timeline import LoopTimes, Timeline
from gmu_lightning.data.progress import QUIET
from gmu_lightning.files import write_json, write_text
from gmu_lightning.lightning import pl
from gmu_lightning.movie import MovieBatch, UserError

ACTIONS = {  # Lightning's words for what it does
    "train_dataloader_next": DATA,
    "batch_to_device": TRANSFER,
    "backward": BACKWARD,
    "optimizer_step": OPTIMIZER,
    "save_checkpoint": CHECKPOINTS,
}

DTYPES = {  # of the products, by the trainer's precision
    "64-true": torch.float64,
    "32-true": torch.float32,
    **dict.fromkeys(("16-mixed", "16-true", "transformer-engine-float16"), torch.float16),
    **dict.fromkeys(("bf16-mixed", "bf16-true", "transformer-engine"), torch.bfloat16),
}


class StepProfiler(pl.Callback):
    """Measures the training steps of a fit, and changes no number of it.

    A step is a batch, from where the loop begins to wait for it to where it begins to wait for the next; validation, checkpoints
    and what lies between epochs are no part of it. The parts of a step overlap nowhere and sum to it. On a GPU times are between
    CUDA events on its stream, read as the epoch ends: no step waits for the GPU, and `data` is what the GPU stood still for.
    With trainer.compile=true the forward pass is one piece, and its parts are not told apart.

    When the fit has ended a few movies of train are replayed to count the model's operations (`ModelFlops`), and a few seconds go
    into the machine's peak (`measured_peak`); metrics.json's seconds/fit has both in it. The share of the peak is the model's
    operations, those of real tokens alone, per second of a step, over the peak in the precision of the step.

    Args:
        skip_steps: the first steps of the run, which are slower than all others and left out.

    Raises:
        UserError: `skip_steps` is no number of steps.
    """

    def __init__(self, skip_steps: int = 3):
        if not isinstance(skip_steps, int) or isinstance(skip_steps, bool) or skip_steps < 0:
            raise UserError(f"callbacks.profiler.skip_steps={skip_steps} is no number of steps: give a whole number from 0 on")
        self.skip_steps = skip_steps
        self._timeline: Timeline | None = None
        self._handles: list[Any] = []
        self._forward: tuple[str, ...] = (FORWARD,)  # its parts
        self._begun = 0  # steps whose batch was given to the model
        self._waited = 0  # steps whose time has been read
        self._steps: list[dict[str, float]] = []
        self._outside = dict.fromkeys(OUTSIDE, 0.0)
        self._movies = 0
        self._works: list[Tensor] = []
        self._work = np.zeros((4, 0), dtype=np.int64)
        self._read_positions: int | None = None  # of the step's texts, by their network

    def on_train_start(self, trainer: Any, model: Any) -> None:
        """From here on the loop is on the clock."""
        self._modalities = list(model.encoders)
        self._work = np.zeros((4, len(self._modalities)), dtype=np.int64)
        self._timeline = Timeline(BETWEEN, trainer.strategy.root_device)
        compiled = getattr(model, "_compiled_call_impl", None) is not None
        actions = ACTIONS | {"training_step": FORWARD if compiled else HEAD}
        trainer.profiler = LoopTimes(self._timeline, actions, VALIDATION, CHECKPOINTS, trainer.profiler)
        if compiled:
            print("profiler: the model is compiled, so the parts of its forward pass are not told apart", file=sys.stderr)
            return
        self._forward = (*(f"encoder/{m}" for m in self._modalities), FUSION, HEAD)
        for modality, encoder in model.encoders.items():
            self._watch(encoder, f"encoder/{modality}")
        self._watch(model.fusion, FUSION)
        network: Any = model.encoders["text"].network if "text" in model.encoders else None
        if hasattr(network, "get_input_embeddings"):
            self._watch_positions(network.get_input_embeddings())

    def on_train_batch_start(self, trainer: pl.Trainer, model: Any, batch: MovieBatch, batch_idx: int) -> None:
        """What the step is about to work on."""
        self._clock.rebase(REST)
        self._begun += 1
        self._read_positions = None
        if self._begun > self.skip_steps:
            self._movies += len(batch.ids)
            self._works.append(work_of(batch, self._modalities))

    def on_train_batch_end(self, trainer: pl.Trainer, model: Any, outputs: Any, batch: MovieBatch, batch_idx: int) -> None:
        """What its network read, where that is not what the batch held; and what follows the epoch's last step is none."""
        if self._begun > self.skip_steps and self._read_positions is not None:
            self._works[-1][3, self._modalities.index("text")] = self._read_positions
        if trainer.is_last_batch:
            self._clock.rebase(BETWEEN)

    def on_validation_start(self, trainer: pl.Trainer, model: Any) -> None:
        """Whatever happens within validation is validation."""
        if self._timeline is not None:
            self._timeline.enter(VALIDATION)

    def on_validation_end(self, trainer: pl.Trainer, model: Any) -> None:
        """It has ended."""
        if self._timeline is not None:
            self._timeline.leave()

    def on_train_epoch_end(self, trainer: pl.Trainer, model: Any) -> None:
        """Read the clock."""
        self._read()

    def on_exception(self, trainer: pl.Trainer, model: Any, exception: BaseException) -> None:
        """A fit that failed has no profile."""
        self._detach(trainer)

    def on_fit_end(self, trainer: pl.Trainer, model: Any) -> None:
        """Count, measure, say and write."""
        self._read()
        self._detach(trainer)
        if not trainer.is_global_zero:
            return
        if not self._steps:
            print(
                f"profiler: the run had {self._begun} steps and the first {self.skip_steps} are left out: there is no profile; "
                "train longer, or set callbacks.profiler.skip_steps=0",
                file=sys.stderr,
            )
            return
        profile = self._profile(trainer, model)
        folder = Path(trainer.default_root_dir)
        text = as_markdown(profile)
        write_json(folder / "profile.json", profile)
        write_text(folder / "profile.md", text)
        if not os.environ.get(QUIET):
            print(text, file=sys.stderr)

    @property
    def _clock(self) -> Timeline:
        assert self._timeline is not None
        return self._timeline

    def _watch(self, module: nn.Module, label: str) -> None:
        """The module's forward pass within a training step is a part of its own."""

        def begin(*_: Any) -> None:
            if self._clock.now == HEAD:
                self._clock.enter(label)

        def end(*_: Any) -> None:
            if self._clock.now == label:
                self._clock.leave()

        self._handles += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]

    def _watch_positions(self, embeddings: nn.Module) -> None:
        """How many positions a text transformer reads: fewer than the batch holds, where it packs them."""

        def note(_module: nn.Module, inputs: tuple[Any, ...], _output: Any) -> None:
            if inputs and self._clock.now == "encoder/text":
                self._read_positions = inputs[0].numel()

        self._handles.append(embeddings.register_forward_hook(note))

    def _read(self) -> None:
        for label, seconds in self._clock.take():
            if label in OUTSIDE:
                self._outside[label] += seconds
                continue
            if label == DATA:
                self._waited += 1
                if self._waited > self.skip_steps:
                    self._steps.append(defaultdict(float))
            if self._waited > self.skip_steps:
                self._steps[-1][label] += seconds
        if self._works:
            self._work += torch.stack(self._works).sum(dim=0).cpu().numpy()
            self._works = []

    def _detach(self, trainer: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if isinstance(trainer.profiler, LoopTimes):
            trainer.profiler = trainer.profiler.before
        self._timeline = None

    def _profile(self, trainer: pl.Trainer, model: Any) -> dict[str, Any]:
        totals = [sum(step.values()) for step in self._steps]
        seconds, steps = sum(totals), len(totals)
        labels = (DATA, TRANSFER, *self._forward, BACKWARD, OPTIMIZER, REST)
        parts = {label: sum(step[label] for step in self._steps) for label in labels}
        device = trainer.strategy.root_device
        work = Work(self._movies, *self._work)
        sequences = {
            modality: {"tokens_per_second": tokens / seconds, "padding": 1 - tokens / positions}
            for modality, tokens, positions in zip(self._modalities, work.tokens.tolist(), work.positions.tolist(), strict=True)
            if positions
        }
        return {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "threads": torch.get_num_threads(),
            "precision": str(trainer.precision),
            "steps": steps,
            "skipped_steps": self.skip_steps,
            "seconds_per_step": seconds / steps,
            "seconds_per_step_median": statistics.median(totals),
            "parts": {label: {"seconds": part / steps, "share": part / seconds} for label, part in parts.items()},
            "outside_of_steps": self._outside,
            "movies_per_second": self._movies / seconds,
            "sequences": sequences,
            "flops": arithmetic(trainer, model, work, seconds),
        }


def arithmetic(trainer: pl.Trainer, model: Any, work: Work, seconds: float) -> dict[str, Any] | None:
    """The model's operations in so many seconds of steps beside the machine's peak; None where they cannot be counted."""
    device, dtype = trainer.strategy.root_device, DTYPES[str(trainer.precision)]
    try:
        operations = ModelFlops(model, trainer)(work)
        peak = measured_peak(device, dtype)
    except Exception as error:  # of any kind: a run that took days is not lost to its profile
        print(f"profiler: the model's operations could not be counted ({type(error).__name__}: {error})", file=sys.stderr)
        return None
    return {
        "per_movie": operations / work.movies,
        "per_second": operations / seconds,
        "peak_per_second": peak.flops_per_second,
        "peak_dtype": str(dtype).removeprefix("torch."),
        "peak_size": peak.size,
        "share_of_peak": operations / seconds / peak.flops_per_second,
    }
