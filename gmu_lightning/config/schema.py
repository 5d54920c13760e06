"""The typed configuration of a run, with every range and every choice.

Only `RunConfig.of(resolved)` parses a configuration. It raises UserError with one sentence that names the setting. A part whose
class can be chosen keeps the arguments of that class in `node`, and `check_arguments` checks them against the class's signature.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from annotated_types import Ge, Le
from hydra.errors import InstantiationException
from pydantic import AfterValidator, BeforeValidator, ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from gmu_lightning.config.checks import check_part, near, refusal, refuse_endless, shown
from gmu_lightning.config.classes import class_of
from gmu_lightning.config.groups import checked_as_data, choices_of
from gmu_lightning.config.hydra_versions import instantiate
from gmu_lightning.config.identity import identity, setting
from gmu_lightning.config.missing import MissingConfig
from gmu_lightning.config.ranges import Count, Few, FromZero, NotNegative, Positive, Probability, Seed, Share
from gmu_lightning.config.resolve import fine_tuned, modalities_of
from gmu_lightning.decisions import Task
from gmu_lightning.movie import UserError

STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True, defer_build=True)
OF_ONE_LABEL = ("accuracy",)  # further scores of data.task=multiclass
SCORES = ("f1_micro", "f1_macro", "f1_weighted", "f1_samples", "ap_micro", "ap_macro", "ap_samples")
# Options of Lightning's Trainer that a run sets itself, since history, checkpoints and scores rely on them.
OWN_OPTIONS = (
    *("callbacks", "logger", "plugins", "default_root_dir", "num_sanity_val_steps", "log_every_n_steps"),
    *("use_distributed_sampler", "reload_dataloaders_every_n_epochs", "enable_checkpointing", "enable_progress_bar"),
    *("enable_model_summary", "check_val_every_n_epoch", "limit_val_batches", "limit_predict_batches"),
    "fast_dev_run",
)
PLAIN = {"_target_": "gmu_lightning.balance.PlainTraining"}  # training of older runs, which do not name it
REMOVED = ("store.max_gb", "store.blocks", "store.precision")  # settings of older runs that no longer exist


def _word(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _path(value: str) -> str:
    if len(os.fsencode(value)) > 4096 or any(len(os.fsencode(part)) > 255 for part in value.split("/")):
        raise ValueError
    return value


def _freeze(value: Any) -> str | int:
    if value in ("all", "none") or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ValueError


def _limit(value: Any) -> int | str | None:
    if value is None or re.fullmatch(r"[1-9]\d{0,8}(/[1-9]\d{0,8}/[1-9]\d{0,8})?", str(value)):
        return value
    raise ValueError


def _missing(value: Any) -> MissingConfig:
    if value is None or isinstance(value, Mapping):
        return read_part(MissingConfig, value or {}, "data.missing")
    raise ValueError


def _devices(value: Any) -> Any:
    whole = [isinstance(one, int) and not isinstance(one, bool) for one in (value if isinstance(value, list) else [value])]
    if value == "auto" or (whole and all(whole)) or (isinstance(value, str) and re.fullmatch(r"-?\d{1,3}(,\d{1,3})*", value)):
        return value
    raise ValueError


Part = TypeVar("Part")
Precision = Literal[
    "32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", "16-true",
    "32", "bf16", "16", "64", "transformer-engine", "transformer-engine-float16",
]  # fmt: skip
PathText = Annotated[str, AfterValidator(_path), "a path of at most 4,096 bytes, and 255 for each folder in it"]
Limit = Annotated[Any, BeforeValidator(_limit), "a number of movies for every split, as 100, or for each, as 400/100/100"]
Freeze = Annotated[Any, BeforeValidator(_freeze), "all, none, or a number of first layers"]
Missing = Annotated[Any, BeforeValidator(_missing), "rates by modality, such as data.missing.image=0.7"]
Devices = Annotated[Any, BeforeValidator(_devices), "a number of devices, a list of their numbers, or auto"]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class PartConfig:
    """A part whose class can be chosen.

    Attributes:
        node: the resolved mapping: `_target_` and the arguments of the class.
        place: dotted name in the configuration, such as `encoder.text`.
    """

    node: dict[str, Any]
    place: str

    @property
    def target(self) -> Any:
        """The class or function. Raises UserError if it cannot be imported."""
        return class_of(str(self.node["_target_"]))

    def check_arguments(self) -> None:
        """Check the arguments, and those of the parts inside, against the types in their classes. Raises UserError."""
        check_part(self.node, self.place)

    def make(self, **arguments: Any) -> Any:
        """Return the object, made with further arguments such as modules or labels.

        Raises:
            UserError: the class cannot be imported, or takes no such arguments.
        """
        self.check_arguments()
        try:
            return instantiate(self.node, _convert_="all", _partial_=True)(**arguments)
        except (TypeError, ValueError, InstantiationException) as error:
            if isinstance(error.__cause__, UserError):  # of a part inside it
                raise error.__cause__ from None
            why = " ".join(str(error).split())
            target = self.node["_target_"]
            raise UserError(f"{target} does not take the arguments it was given ({why}): look at {self.place}.*") from error


@dataclass(frozen=True, config=STRICT, kw_only=True)
class DataConfig(PartConfig):
    """A data set and its batches."""

    root: PathText | None = None
    limit: Limit = None
    seed: Seed = 0
    strict: bool = False
    task: Task = "multilabel"
    absent: Literal["keep", "drop"] = "keep"
    batch_size: Count = 64
    token_budget: Count | None = None
    workers: Annotated[int, Ge(0), Le(256)] = 0
    split_seed: Seed | None = None
    train_share: Share = 1.0
    missing: Missing = MissingConfig()

    @property
    def drawn(self) -> str:
        """The drawn split, share of train and missing modalities as they are typed; "" if there are none."""
        words = [f"split=random split_seed={self.split_seed}"] if self.node.get("split") == "random" else []
        words += [f"train_share={self.train_share:g}"] if self.train_share != 1 else []
        words += [str(self.missing)] if self.missing.rates else []
        return ", ".join(words)

    @classmethod
    def recorded(cls, config: Mapping[str, Any], where: Path, config_dir: str | None = None) -> DataConfig:
        """Return the data of a run's config.yaml; arguments and errors as in `RunConfig.recorded`, for this part alone."""
        found = checked_as_data({"config_dir": config.get("config_dir"), "data": config["data"]}, where, config_dir)
        return read_part(cls, found["data"], "data")


@dataclass(frozen=True, config=STRICT, kw_only=True)
class EncoderConfig(PartConfig):
    """An encoder and the treatment of its features."""

    freeze: Freeze = "none"
    unfreeze_at_epoch: FromZero | None = None
    lr: Positive | None = None
    normalise: Literal["none", "layer", "batch", "standardise"] = "layer"
    dropout: Probability = 0.0
    modality_dropout: Probability = 0.0


@dataclass(frozen=True, config=STRICT, kw_only=True)
class OptimConfig(PartConfig):
    """An optimizer."""

    lr: NotNegative = 1e-3
    weight_decay: NotNegative = 0.0


@dataclass(frozen=True, config=STRICT, kw_only=True)
class TrainerConfig:
    """The training loop and its share of the machine.

    Attributes:
        node: the resolved mapping; its other keys are options of Lightning's Trainer.
    """

    node: dict[str, Any]
    max_epochs: Annotated[int, Ge(1), Le(10**6)] = 25
    precision: Annotated[Precision, BeforeValidator(_word)] = "32-true"
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: Devices = 1
    strategy: str = "auto"
    accumulate_grad_batches: Count = 1
    gradient_clip_val: NotNegative | None = None
    val_check_interval: Share = 1.0
    save_every: NotNegative = 300.0
    compile: bool = False
    threads: Few | None = None
    profiler: Literal["simple", "advanced", "pytorch"] | None = None
    progress: Literal["auto", "bar", "lines", "none"] = "auto"

    @property
    def on_one_device(self) -> bool:
        """Whether the run trains on a single device."""
        return self.devices in (1, "1") or (isinstance(self.devices, list) and len(self.devices) == 1)

    @property
    def in_float32(self) -> bool:
        """Whether the network computes in single precision."""
        return self.precision in ("32-true", "32")

    @property
    def options(self) -> dict[str, Any]:
        """The options of Lightning's Trainer."""
        own = ("threads", "compile", "profiler", "progress", "save_every")
        rest = {key: value for key, value in self.node.items() if key not in own}
        return {**rest, "val_check_interval": float(self.val_check_interval)}  # Lightning takes 1 for a number of batches


@dataclass(frozen=True, config=STRICT, kw_only=True)
class StoreConfig:
    """The folder of prepared and encoded contents."""

    dir: PathText = "outputs/store"
    workers: Few | None = None


@dataclass(frozen=True, config=STRICT, kw_only=True)
class EncodeConfig:
    """The encoding by frozen encoders.

    Attributes:
        backend: `auto` takes OpenVINO on a CPU if it is installed and saves more time than its conversion takes, torch otherwise.
        precision: of the network's arithmetic. The features are always float32.
    """

    backend: Literal["auto", "torch", "openvino"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True, config=STRICT, kw_only=True)
class RunConfig:
    """The configuration of one run.

    Attributes:
        mapping: the resolved mapping, which config.yaml stores and the identity hashes.
        choices: {config group: choice}.
    """

    data: DataConfig
    encoder: dict[str, EncoderConfig]
    fusion: PartConfig
    optimizer: OptimConfig
    scheduler: PartConfig
    loss: PartConfig
    training: PartConfig
    trainer: TrainerConfig
    store: StoreConfig
    encode: EncodeConfig
    callbacks: dict[str, PartConfig]
    logger: dict[str, PartConfig]
    choices: dict[str, str]
    modalities: tuple[str, ...]
    seed: Seed
    monitor: str
    mapping: dict[str, Any]

    @classmethod
    def of(cls, resolved: Mapping[str, Any]) -> RunConfig:
        """Return the typed configuration of a resolved mapping. Raises UserError that names the first wrong setting."""
        refuse_endless(resolved)
        monitor = str(resolved.get("monitor"))
        scores = (*SCORES, *(OF_ONE_LABEL if resolved["data"].get("task") == "multiclass" else ()))
        if not re.fullmatch(rf"val/({'|'.join(scores)}|(f1|ap)/.+)", monitor):
            valid = near(monitor, [f"val/{score}" for score in scores])
            raise UserError(f"monitor={monitor} is no score of the val split: give one like val/ap_micro; {valid}")
        modalities = modalities_of(str(resolved["modalities"]))
        encoders = {m: read_part(EncoderConfig, resolved["encoder"].get(m), f"encoder.{m}") for m in modalities}
        nodes, hints = {"encode": {}, "store": {}, "training": PLAIN, **resolved}, get_type_hints(cls)
        read: dict[str, Any] = {
            n: read_part(part, nodes.get(n), n) for n, part in hints.items() if isinstance(part, type) and is_dataclass(part)
        }
        for group in ("callbacks", "logger"):
            chosen = resolved.get(group) or {}
            if not isinstance(chosen, Mapping):
                raise UserError(f"{group}={shown(chosen)} chooses nothing: {near(shown(chosen), choices_of(group))}")
            read[group] = {name: read_part(PartConfig, node, f"{group}.{name}") for name, node in chosen.items() if node}
        rest = {"seed": resolved["seed"], "choices": resolved.get("choices") or {}, "mapping": dict(resolved)}
        try:
            return cls(**read, **rest, encoder=encoders, modalities=modalities, monitor=monitor)
        except ValidationError as error:
            raise UserError(_sentence(error, cls, "")) from None

    @classmethod
    def recorded(
        cls,
        config: Mapping[str, Any],
        where: Path,
        root: str | None = None,
        backend: str | None = None,
        config_dir: str | None = None,
    ) -> RunConfig:
        """Return the configuration in a run's config.yaml, also of an older version. Its content is never executed.

        Args:
            config: as read.
            where: the file, for errors.
            root: folder of other raw data, or None for the run's own.
            backend: another backend for frozen encoders, or None for the run's own.
            config_dir: a folder whose classes are accepted too, or None.

        Raises:
            UserError: it holds a value that this package does not offer, or a class that is neither the package's nor of
                `config_dir`.
        """
        found = checked_as_data(config, where, config_dir)
        if root is not None:
            found["data"] = {**found["data"], "root": root}
        encode = found.get("encode") or {}
        if backend is None and encode.get("backend") == "onnxruntime":  # in older runs; every backend gives torch's features
            backend = "auto"
        if backend is not None:
            found["encode"] = {**encode, "backend": backend}
        return cls.of(found)

    @property
    def fine_tuned(self) -> list[str]:
        """The modalities whose pretrained encoder is trained at least in part."""
        return fine_tuned(self.mapping["encoder"])

    @property
    def identity(self) -> str:
        """The hash of everything that a result depends on."""
        return identity(self.mapping)

    @property
    def setting(self) -> str:
        """The identity without the seed."""
        return setting(self.mapping)

    @property
    def as_published(self) -> RunConfig:
        """The same run on data as they are: with their own splits, all of train, and no modality taken from a movie."""
        drawn = ("split_seed", "train_share", "missing", *(["split"] if self.data.node.get("split") == "random" else []))
        kept = {key: value for key, value in self.data.node.items() if key not in drawn}
        return RunConfig.of({**self.mapping, "data": kept})

    def with_threads(self, threads: int) -> RunConfig:
        """Return the same run on another number of CPU threads."""
        return RunConfig.of({**self.mapping, "trainer": {**self.trainer.node, "threads": threads}})


def read_part(part: type[Part], node: Any, place: str) -> Part:
    """Return one part of the configuration. Raises UserError."""
    if not isinstance(node, Mapping):
        raise UserError(f"{place}={shown(node)} is no group of settings: choose one, as in {place.replace('.', '/')}=CHOICE")
    names = {field.name for field in fields(part)}  # type: ignore[arg-type]
    extra = {name: value for name, value in {"node": dict(node), "place": place}.items() if name in names}
    own = [name for name in names if name not in extra]
    if "place" in extra and not isinstance(node.get("_target_"), str):
        raise UserError(f"{place}._target_={shown(node.get('_target_'))} names no class: give its dotted name")
    for key in node:
        if not extra and key not in own and f"{place}.{key}" not in REMOVED:
            raise UserError(f"{place}.{key} is no setting: {near(key, own)}")
        if part is TrainerConfig and key in OWN_OPTIONS:
            raise UserError(f"trainer.{key} is set by every run itself: leave it out")
    try:
        return part(**{key: value for key, value in node.items() if key in own}, **extra)
    except ValidationError as error:
        raise UserError(_sentence(error, part, place and f"{place}.")) from None


def _sentence(error: ValidationError, part: type, prefix: str) -> str:
    """Return the first problem of a part as a sentence."""
    problem = error.errors(include_url=False, include_context=False)[0]
    name = str(problem["loc"][0])
    return refusal(f"{prefix}{name}", problem["input"], get_type_hints(part, include_extras=True)[name])
