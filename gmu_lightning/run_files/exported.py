"""Read the folder of an exported model as data: JSON files of limited sizes, and weights in one safetensors file.

The folder may come from a stranger. A file that can hold code is refused, and every JSON file passes a check of its shape.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmu_lightning.run_files.arrays import MOST_TRAINED, NAMES, SCORE
from gmu_lightning.run_files.plain import Damaged, check_regular, checking, json_object
from gmu_lightning.run_files.records import EVALUATED
from gmu_lightning.run_files.shapes import (
    Unexpected,
    anything,
    mapping,
    maybe,
    number,
    record,
    same_keys,
    sequence,
    whole,
    word,
)

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1  # of the folder
WEIGHTS, CONFIG, PREPARATION, GENRES, THRESHOLDS, PROBE, METRICS, CARD = (
    *("model.safetensors", "config.json", "preparation.json", "genres.json", "thresholds.json", "probe.json"),
    *("metrics.json", "README.md"),
)
READ = (WEIGHTS, CONFIG, PREPARATION, GENRES, THRESHOLDS, PROBE)  # files that a load needs
FOLDERS = ("encoders", "preparations")  # each holds a folder for a modality, which describes a pretrained network
CAN_RUN_CODE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".py")  # suffixes
MOST_FILES = 1000
MOST_JSON = 256 * 10**6  # bytes
HINT = "export the run again, or load a copy that is complete"
CHECK_CONFIG = record({"format": whole(1, FORMAT), "version": word, "config": EVALUATED})
CHECK_PREPARATION = record(
    {
        "versions": mapping(word),
        "modalities": NAMES["modalities"],
        "sizes": mapping(whole(1)),
        "preprocessing": mapping(mapping(anything)),
        "learned": mapping(mapping(anything)),
    }
)
CHECK_GENRES = record({"genres": NAMES["genres"]})
CHECK_THRESHOLDS = record({"0.5": maybe(SCORE), "val": maybe(SCORE), "val_per_genre": maybe(mapping(SCORE))})
CHECK_PROBE = record(
    {"tolerance": number(0, 1), "movies": sequence(mapping(anything), 1, 100), "logits": sequence(mapping(number()), 1, 100)}
)


@dataclass(frozen=True)
class ExportFolder:
    """The content of an exported model's folder, except its weights.

    Attributes:
        folder: of the model.
        version: of gmu_lightning, by which it was written.
        config: the plain configuration.
        versions: {library: version} of the machine that exported.
        sizes: {modality: size of its vector}, in the order of the axis M.
        preprocessing: {modality: settings of its preparation}.
        learned: {modality: state of its preparation}.
        genres: C names.
        thresholds: {rule: threshold, one or {genre: threshold}}; None for a task without thresholds.
        probe: content of probe.json.
    """

    folder: Path
    version: str
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    sizes: Mapping[str, int]
    preprocessing: Mapping[str, Mapping[str, Any]]
    learned: Mapping[str, Mapping[str, Any]]
    genres: tuple[str, ...]
    thresholds: Mapping[str, Any]
    probe: Mapping[str, Any]

    def threshold(self, rule: str) -> float | list[float]:
        """Return the threshold of a rule, one or one per genre. Raises Damaged if the model has none."""
        known = self.thresholds.get(rule)
        if known is None:
            raise Damaged(self.folder / THRESHOLDS, f"it has no threshold {rule}", HINT)
        return [float(known[genre]) for genre in self.genres] if isinstance(known, dict) else float(known)

    @property
    def files(self) -> list[Path]:
        """The files that determine the model's predictions."""
        described = sorted(path for name in FOLDERS for path in (self.folder / name).glob("*/*") if path.is_file())
        return [*(self.folder / name for name in READ), *described]


def is_export(folder: Path) -> bool:
    """Return whether a folder is meant as an exported model: it has a config.json, and no config.yaml of a run."""
    return (folder / CONFIG).is_file() and not (folder / "config.yaml").exists()


def read_export(folder: Path) -> ExportFolder:
    """Return the content of an exported model's folder, except its weights. No code in it is run.

    Raises:
        UserError: a file is missing, damaged or too large, files do not belong together, or one of them can hold code.
    """
    refuse_code(folder)
    for name in READ:
        if not (folder / name).exists():
            raise Damaged(folder / name, "it is not there", HINT)
    check_regular(folder / WEIGHTS, MOST_TRAINED, HINT)
    about = json_object(folder / CONFIG, MOST_JSON, CHECK_CONFIG)
    prepared = json_object(folder / PREPARATION, MOST_JSON, CHECK_PREPARATION)
    genres = json_object(folder / GENRES, MOST_JSON, CHECK_GENRES)["genres"]
    thresholds = json_object(folder / THRESHOLDS, MOST_JSON, CHECK_THRESHOLDS)
    probe = json_object(folder / PROBE, MOST_JSON, CHECK_PROBE)
    with checking(folder / PREPARATION, HINT):
        if "+".join(prepared["modalities"]) != about["config"]["modalities"]:
            raise Unexpected(f"it names the modalities {'+'.join(prepared['modalities'])}, and {CONFIG} names others")
        for part in ("sizes", "preprocessing", "learned"):
            same_keys(prepared[part], prepared["modalities"], part)
    if thresholds["val_per_genre"] is not None:
        with checking(folder / THRESHOLDS, HINT):
            same_keys(thresholds["val_per_genre"], genres, "val_per_genre")
    with checking(folder / PROBE, HINT):
        if len(probe["logits"]) != len(probe["movies"]):
            raise Unexpected("it has not as many logits as movies")
        for n, logits in enumerate(probe["logits"]):
            same_keys(logits, genres, f"logits[{n}]")
    sizes = {modality: prepared["sizes"][modality] for modality in prepared["modalities"]}
    return ExportFolder(
        *(folder, about["version"], about["config"], prepared["versions"], sizes),
        *(prepared["preprocessing"], prepared["learned"], tuple(genres), thresholds, probe),
    )


def refuse_code(folder: Path) -> None:
    """Raise UserError if a folder holds a file that can hold code, such as a pickle, or has too many files."""
    count = 0
    for place, _, names in os.walk(folder):
        for name in sorted(names):
            count += 1
            if Path(name).suffix.lower() in CAN_RUN_CODE:
                why = "a file of this kind can run code, and no export holds one"
                raise Damaged(Path(place, name), why, "remove it, or export the run again")
        if count > MOST_FILES:
            raise Damaged(folder, f"it holds more than {MOST_FILES:,} files", "give the folder of one exported model")


def read_weights(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """Return {name without the prefix: tensor} of the weights whose names begin with a prefix, on the CPU.

    Raises:
        Damaged: the file is missing or no safetensors file, or a weight is not finite.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS
    try:
        check_regular(path, MOST_TRAINED, HINT)
        with safe_open(path, "pt", device="cpu") as file:
            found = {name.removeprefix(prefix): file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    except FileNotFoundError:
        raise Damaged(path, "it is not there", HINT) from None
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        why = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise Damaged(path, f"it is no safetensors file that can be read ({why})", HINT) from error
    with checking(path, HINT):
        for name, value in found.items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise Unexpected(f"the weights {prefix}{name} hold NaN or infinity")
    return found
