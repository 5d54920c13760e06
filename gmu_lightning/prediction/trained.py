"""Restore a finished run as a model and the ways to read its modalities, without its data."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from gmu_lightning import __version__
from gmu_lightning.config.schema import EncodeConfig, RunConfig
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.metadata import Table, TablePreparation
from gmu_lightning.experiment.build import assembled, build_encoders
from gmu_lightning.experiment.environment import device_of
from gmu_lightning.experiment.restore import BEST, check_sizes, recorded, restored_encoders, with_weights
from gmu_lightning.features.columns import is_cacheable, keeps_tokens, network_of, passes_through
from gmu_lightning.files import digest, file_digest
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import Features, MovieBatch, Preparation, UserError
from gmu_lightning.prediction.exported import check_preprocessing, checkpoint_of, recorded_export
from gmu_lightning.run import Run
from gmu_lightning.run_files.exported import HINT, PREPARATION, WEIGHTS, ExportFolder, is_export

logger = logging.getLogger(__name__)
BACKENDS: dict[str, Literal["auto", "torch"]] = {"openvino": "auto", "auto": "torch", "torch": "torch"}  # {of the run: here}
LONG = {"32": "32-true", "64": "64-true", "16": "16-mixed", "bf16": "bf16-mixed"}  # Lightning's names of a precision


class Source(NamedTuple):
    """The way in which a run reads one modality.

    Attributes:
        modality: its name.
        preparation: fitted, of the encoder's inputs.
        stored: key of the preparation. Equal keys store equal arrays.
        network: a built encoder, which computes the features apart from the model; None if the model encodes in every batch.
        tokens: whether the tokens of `network` are read beside its vectors.
        encoding: backend and precision of `network`.
        key: hash of preparation, weights and backend. Equal keys give equal columns.
    """

    modality: str
    preparation: Preparation
    stored: str
    network: Encoder | None
    tokens: bool
    encoding: EncodeConfig
    key: str


@dataclass(frozen=True)
class TrainedRun:
    """The model of a finished run in evaluation mode, with everything that it needs to read raw contents.

    Attributes:
        run: its folder.
        config: its configuration.
        genres: C names.
        model: on `device`, in the run's precision. Adapters are merged into their network.
        sources: {modality: way to read it}, in the order of the axis M.
        device: of the model and of the encoders.
        precision: Lightning's plugin for the run's precision.
        exact: whether logits are split into contributions of the modalities.
        exported: content of the folder if it is that of an exported model, else None.
    """

    run: Run
    config: RunConfig
    genres: tuple[str, ...]
    model: MovieGenreClassifier
    sources: Mapping[str, Source]
    device: torch.device
    precision: Any = field(repr=False)
    exact: bool = False
    exported: ExportFolder | None = field(default=None, repr=False)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the axis M."""
        return self.config.modalities

    @property
    def batch_size(self) -> int:
        """The number of movies in a batch of the model."""
        return self.config.data.batch_size

    @property
    def metadata(self) -> tuple[str, ...]:
        """The columns of metadata that the run has learned; () if it reads none, or arrays."""
        preparation = self.sources["metadata"].preparation if "metadata" in self.sources else None
        table = preparation.learned if isinstance(preparation, TablePreparation) else None
        return (*table.medians, *table.words) if isinstance(table, Table) else ()

    @property
    def bias(self) -> np.ndarray:
        """The bias of the head, (C,)."""
        return self.model.head.bias.detach().cpu().double().numpy()  # type: ignore[operator]

    def state(self) -> list[str]:
        """Return hashes of everything that determines the run's predictions, pretrained weights included."""
        files = self.exported.files if self.exported else [self.run / name for name in (BEST, "config.yaml")]
        hashes = map(file_digest, files)
        return [__version__, torch.__version__, self.device.type, *hashes, *(source.key for source in self.sources.values())]


def trained_run(
    run: Run, config_dir: str | None = None, backend: str | None = None, known: Mapping[str, Source] = MappingProxyType({})
) -> TrainedRun:
    """Return a run's model and the ways to read its modalities. Its data are not read, and no code in its files is run.

    Args:
        run: has a best checkpoint, or its folder is that of an exported model.
        config_dir: a folder whose classes the run may name; None accepts the package's classes alone.
        backend: runs frozen encoders. None takes `auto` if the run was trained with encode.backend=openvino, else torch.
        known: {key: way to read a modality} of other runs. An equal one is shared, so that no network is loaded twice.

    Raises:
        UserError: a file of the run is damaged or missing, weights are missing, or the precision is not possible here.
    """
    if run.status.get("state") not in (None, "finished"):
        logger.warning("%s did not finish: its best checkpoint so far predicts", run.folder)
    exported = None
    if is_export(run.folder):
        exported, config = recorded_export(run.folder, backend, config_dir)
        checkpoint = checkpoint_of(exported, build_encoders(config.encoder))
    else:
        config, checkpoint = recorded(run, backend=backend, config_dir=config_dir)
    if backend is None:  # a conversion is worth its time for many rows only, which `auto` decides
        config = replace(config, encode=EncodeConfig(backend=BACKENDS[config.encode.backend], precision=config.encode.precision))
    about = checkpoint["gmu_lightning"]
    device = device_of(config.trainer)
    with torch.random.fork_rng(devices=[]):
        encoders = restored_encoders(config, checkpoint, run / (PREPARATION if exported else BEST))
        check_sizes(encoders, about["sizes"])
        if exported is not None:
            check_preprocessing(exported, encoders)
        sources = {m: source_of(encoder, config, known) for m, encoder in encoders.items()}
        for modality, source in sources.items():
            if source.network is None:
                encoders[modality].build()
        model = assembled(config, encoders, np.ones((1, len(about["genres"])), dtype=bool))
    model = with_weights(model, checkpoint, *((run / WEIGHTS, HINT) if exported else (run / BEST,)))
    for encoder in encoders.values():
        encoder.merge()
    precision = precision_plugin(config.trainer.precision, device, run.folder)
    model = precision.convert_module(model).to(device).requires_grad_(False)
    found = TrainedRun(run, config, tuple(about["genres"]), model, sources, device, precision, exported=exported)
    return replace(found, exact=without_content(found)[1] is not None)


def source_of(encoder: Encoder, config: RunConfig, known: Mapping[str, Source]) -> Source:
    """Return the way to read an encoder's modality. A frozen encoder gets a built copy, and stays unbuilt itself.

    Args:
        encoder: with its fitted preparation.
        config: of the run; its fusion decides whether features are computed apart from the model.
        known: {key: way to read a modality} of other runs.
    """
    preparation, fusion = encoder.preparation, config.fusion.target
    apart, tokens = is_cacheable(encoder, fusion), keeps_tokens(encoder, fusion)
    stored = digest([encoder.modality, preparation.fingerprint, preparation.state()])
    how = [tokens, config.encode.backend, config.encode.precision] if apart else None
    key = digest([stored, encoder.fingerprint, how])
    if key in known:
        return known[key]
    network = network_of(encoder) if apart else None
    if network is not None and passes_through(network, tokens):
        network = None
    return Source(encoder.modality, preparation, stored, network, tokens, config.encode, key)


def without_content(run: TrainedRun) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the logits (1, C) and exact contributions (1, M, C) of a movie without any modality, as `logits_of` does."""
    inputs: dict[str, Any] = {}
    for modality, source in run.sources.items():
        vector = None if source.network is None else torch.zeros(1, source.network.dim)
        inputs[modality] = source.preparation.batch([None], False) if vector is None else Features(vector)
    batch = MovieBatch(("",), inputs, torch.zeros(1, len(run.sources), dtype=torch.bool), None)
    return logits_of(run.model, batch, run)


def precision_plugin(precision: str, device: torch.device, folder: Path) -> Any:
    """Return Lightning's plugin for a precision, as its Trainer chooses it for one device.

    Raises:
        UserError: the precision needs NVIDIA's transformer engine.
    """
    from pytorch_lightning.plugins import DoublePrecision, HalfPrecision, MixedPrecision, Precision

    name = LONG.get(precision, precision)
    if name.startswith("transformer-engine"):
        raise UserError(
            f"{folder} was trained with trainer.precision={precision}, which predicts nowhere but inside its own trainer: "
            "score its data with evaluate, or train a run with another precision"
        )
    if name.endswith("-mixed"):  # a CPU computes in bfloat16 where a GPU computes in float16
        return MixedPrecision("bf16-mixed" if device.type == "cpu" else name, device.type)  # type: ignore[arg-type]
    return {"32-true": Precision, "64-true": DoublePrecision}.get(name, lambda: HalfPrecision(name))()  # type: ignore[arg-type]


@torch.inference_mode()
def logits_of(model: MovieGenreClassifier, batch: MovieBatch, trained: TrainedRun) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the logits (B, C) and the exact contributions (B, M, C) of a batch, as float64; None if they are not exact.

    Args:
        model: of the run, or a replica of it.
        batch: inputs or features, on the CPU.
        trained: the run.
    """
    batch = trained.precision.convert_input(model.transfer_batch_to_device(batch, trained.device, 0))
    with trained.precision.forward_context():
        found = model(batch)
    parts = None if found.contributions is None else found.contributions.cpu().double().numpy()
    return found.logits.cpu().double().numpy(), parts


def check_alike(runs: Sequence[TrainedRun]) -> None:
    """Check that the mean of several runs has a meaning. Raises UserError that names two runs that differ."""
    first = runs[0]
    for other in runs[1:]:
        for what, a, b in (
            ("genres", set(first.genres), set(other.genres)),
            ("modalities", set(first.modalities), set(other.modalities)),
            ("tasks", {first.config.data.task}, {other.config.data.task}),
        ):
            if a != b:
                differ = ", ".join(sorted(a ^ b)[:5])
                raise UserError(
                    f"{first.run.folder} and {other.run.folder} have other {what} ({differ}), so they have no mean: "
                    "give runs that differ in their seed, or in parts such as the fusion"
                )
