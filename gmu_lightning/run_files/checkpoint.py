"""best.ckpt: a zip of stored tensors, read without running anything in it, and held against the run's configuration."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gmu_lightning.movie import MODALITIES
from gmu_lightning.run_files.content import Damaged, check_regular
from gmu_lightning.run_files.shapes import (
    Unexpected,
    anything,
    mapping,
    one_of,
    record,
    same_keys,
    sequence,
    unexpected,
    whole,
    word,
)

MOST_BYTES = 64 * 10**9
MOST_PICKLED = 256 * 10**6  # bytes of everything but the tensors
MOST_GENRES = 10**4
HINT = "give a run whose best.ckpt is as train wrote it"
# Where weights were found: a folder may have moved since, and the values in the checkpoint are what counts.
PLACES = ("name", "weights", "vectors", "preparation")


def checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint of plain tensors and containers. Raises FileNotFoundError or Damaged."""
    import torch

    size = check_regular(path, MOST_BYTES, HINT)
    _check_archive(path, size)
    try:
        found = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        why = f"it names {named[1][:80]}" if named else type(error).__name__
        raise NoCheckpoint(path, why) from error
    try:
        _check_content(found, size)
    except Unexpected as error:
        raise Damaged(path, str(error), HINT) from error
    return found


class NoCheckpoint(Damaged):
    """A checkpoint holds more than plain tensors and containers, or cannot be read at all."""

    def __init__(self, path: Path, why: str):
        Exception.__init__(self, f"{path} is not a checkpoint of plain tensors and containers, so it is not read ({why}): {HINT}")
        self.path = path


def _check_archive(path: Path, size: int) -> None:
    """Refuse what is not a zip of stored files: a compressed one may be a thousand times as large in memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise NoCheckpoint(path, "it is no zip archive, or is cut off") from error
    pickled = sum(member.file_size for member in members if member.filename.endswith(".pkl"))
    compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if compressed or sum(member.file_size for member in members) > size or pickled > MOST_PICKLED:
        raise NoCheckpoint(path, "its members are compressed or too large")


def _tensor(size: int) -> Any:
    def check(value: Any, place: str) -> None:
        import torch

        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise unexpected(value, place, "a dense tensor")
        if value.numel() * value.element_size() > size:
            raise Unexpected(f"{place} has more values than the file can hold")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise Unexpected(f"the weights {place} hold NaN or infinity")

    return check


def _check_content(found: Any, size: int) -> None:
    record(
        {
            "state_dict": anything,
            "gmu_lightning": record(
                {
                    "genres": sequence(word, least=1, most=MOST_GENRES, unique=True),
                    "modalities": sequence(one_of(*MODALITIES), least=1, most=len(MODALITIES), unique=True),
                    "sizes": mapping(whole(1)),
                    "preparations": mapping(mapping(anything)),
                },
            ),
        }
    )(found, "")
    about = found["gmu_lightning"]
    for part in ("sizes", "preparations"):
        same_keys(about[part], about["modalities"], part)
    weights = found["state_dict"]
    if not isinstance(weights, dict) or not weights:
        raise unexpected(weights, "state_dict", "a mapping of tensors")
    check = _tensor(size)
    for name, value in weights.items():
        word(name, "a name in state_dict")
        check(value, name)
    head, count = [value for name, value in weights.items() if name.startswith("head.")], len(about["genres"])
    if head and not any(count in value.shape for value in head):
        raise Unexpected(f"it names {count:,} genres, and its weights are of another number of genres")


def check_agreement(about: Mapping[str, Any], config: Mapping[str, Any], run: Path) -> None:
    """Check that a run's configuration is the one that its weights were trained with. Raises Damaged.

    Args:
        about: what the checkpoint holds beside the weights.
        config: the configuration in config.yaml.
    """
    path = run / "config.yaml"
    hint = "restore it, or evaluate a run whose files belong together"
    modalities = config["modalities"].split("+")
    if modalities != about["modalities"]:
        raise Damaged(
            path, f"it names the modalities {'+'.join(modalities)} and best.ckpt those of {'+'.join(about['modalities'])}", hint
        )
    trained = about.get("config")
    if not isinstance(trained, dict):
        return
    for part in ("fusion", "encoder"):
        key = _first_difference(trained.get(part), config.get(part), part)
        if key:
            raise Damaged(path, f"its {key[:80]} is not the one that best.ckpt was trained with", hint)


def _first_difference(a: Any, b: Any, place: str) -> str | None:
    """Return the key of the first difference between two nodes; places of weights do not count."""
    if not isinstance(a, dict) or not isinstance(b, dict):
        return None if a == b else place
    for key in [*a, *(key for key in b if key not in a)]:
        if key in PLACES:
            continue
        if key not in a or key not in b:
            return f"{place}.{key}"
        found = _first_difference(a[key], b[key], f"{place}.{key}")
        if found:
            return found
    return None


def check_weights(weights: Mapping[str, Any], expected: Mapping[str, Any], path: Path) -> None:
    """Check names and shapes of a checkpoint's weights. Raises Damaged.

    Args:
        weights: the checkpoint's.
        expected: those of the model that the run's configuration gives.
    """
    for name in [*expected, *(name for name in weights if name not in expected)]:
        if name not in weights:
            raise Damaged(path, f"it lacks the weights {name[:80]}", HINT)
        if name not in expected:
            raise Damaged(path, f"it has weights {name[:80]}, which the run's configuration has not", HINT)
        ours, theirs = expected[name], weights[name]
        if ours.shape != theirs.shape or ours.is_floating_point() != theirs.is_floating_point():
            raise Damaged(
                path,
                f"its weights {name[:80]} have the shape {list(theirs.shape)} and type {theirs.dtype}, "
                f"and {list(ours.shape)} and {ours.dtype} are expected",
                HINT,
            )
