"""Read a run's arrays: predictions/<split>.parquet, and best.ckpt, a zip of stored tensors.

Metadata and types are checked before any column is read, and no code in a checkpoint runs.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from gmu_lightning.decisions import Task
from gmu_lightning.movie import MODALITIES, UserError
from gmu_lightning.run_files.plain import Damaged, check_regular, checking, json_of
from gmu_lightning.run_files.shapes import (
    Unexpected,
    anything,
    either,
    mapping,
    maybe,
    number,
    one_of,
    record,
    same_keys,
    sequence,
    unexpected,
    whole,
    word,
)

MOST_PREDICTED = 4 * 10**9  # bytes of predictions, on disk and in memory
MOST_MOVIES = 10**7
KEY = b"gmu_lightning"
SCORE = number(0, 1)
NAMES = {
    "genres": sequence(word, least=1, most=10**4, unique=True),
    "modalities": sequence(one_of(*MODALITIES), least=1, most=len(MODALITIES), unique=True),
}
ABOUT = record(
    {
        **NAMES,
        "modalities": sequence(one_of(*MODALITIES), most=len(MODALITIES), unique=True),  # none where they are unknown
        "threshold": maybe(either(sequence(SCORE), SCORE)),
        "open_threshold": maybe(SCORE),
        "bias": maybe(mapping(number())),
        "data_fingerprint": mapping(word),
    },
    {"task": one_of(*get_args(Task))},
)
MOST_TRAINED = 64 * 10**9  # bytes of a checkpoint
MOST_PICKLED = 256 * 10**6  # bytes of its content except the tensors
CHECKPOINT = record(
    {
        "state_dict": anything,
        "gmu_lightning": record({**NAMES, "sizes": mapping(whole(1)), "preparations": mapping(mapping(anything))}),
    }
)
HINT = "give a run whose best.ckpt is as train wrote it"
# Settings that name the place of pretrained weights. The place may change, because the checkpoint holds the values.
PLACES = ("name", "weights", "vectors", "preparation")


def predictions_table(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the metadata in a file of predictions, and {column: its N values}.

    The metadata are `genres`, `modalities`, `threshold`, `open_threshold`, `bias` ({genre: number} or None),
    `data_fingerprint` and, except in older files, `task`. The columns are named as in `Predictions.columns`, without `prob/G`.
    Those of gates and contributions may be missing.

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: the file is too large or no Parquet file, its metadata or a column is missing or wrong, a cell is empty, a movie
            stands twice or has several labels of a single-label task, or there are several splits.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_regular(path, MOST_PREDICTED)
    with checking(path):
        try:
            with pq.ParquetFile(str(path)) as file:
                schema, rows = file.schema_arrow, file.metadata.num_rows
                about = _about(schema.metadata or {})
                names = _checked_names(schema, about)
                groups = range(file.metadata.num_row_groups)
                _check_size(rows, len(names), sum(file.metadata.row_group(n).total_byte_size for n in groups))
                table = file.read(columns=names)
            columns = {name: _array(table.column(name), name) for name in names}
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
            raise Unexpected("it is no parquet file that can be read") from error
        if about.get("task") == "multiclass" and np.sum([columns[f"label/{g}"] for g in about["genres"]], axis=0).max() > 1:
            raise Unexpected("its task is multiclass, and a movie has several labels")
        return about, columns


def number_table(path: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the N ids in a Parquet file, and {column: its N numbers} of all other columns.

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: the file is too large or no Parquet file, a column holds other values than finite numbers, or an id stands twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    import pyarrow.types as of

    check_regular(path, MOST_PREDICTED)
    with checking(path):
        try:
            with pq.ParquetFile(str(path)) as file:
                schema, rows = file.schema_arrow, file.metadata.num_rows
                names = [name for name in schema.names if name != "id"]
                if len(names) + 1 != len(schema.names) or len(set(names)) < len(names):
                    raise Unexpected("it has not one column id, or has a column twice")
                odd = next((name for name in names if not of.is_floating(schema.field(name).type)), None)
                if odd is not None or not (of.is_string(kind := schema.field("id").type) or of.is_large_string(kind)):
                    raise Unexpected(f"its column {odd or 'id'} has another type than expected")
                groups = range(file.metadata.num_row_groups)
                _check_size(rows, len(schema.names), sum(file.metadata.row_group(n).total_byte_size for n in groups))
                table = file.read()
            columns = {name: _array(table.column(name), name).astype(np.float64) for name in names}
            ids = _array(table.column("id"), "id").tolist()
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
            raise Unexpected("it is no parquet file that can be read") from error
        infinite = next((name for name, values in columns.items() if not np.isfinite(values).all()), None)
        if infinite is not None:
            raise Unexpected(f"its column {infinite} holds NaN or infinity")
        return ids, columns


def _check_size(rows: int, columns: int, written: int) -> None:
    if not 1 <= rows <= MOST_MOVIES or rows * columns * 8 > MOST_PREDICTED:
        raise Unexpected(f"it has {rows:,} rows, and at least one row and at most {MOST_MOVIES:,} are expected")
    if written > MOST_PREDICTED:
        raise Unexpected(f"its columns take more than {MOST_PREDICTED:,} bytes")


def _about(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    if KEY not in metadata:
        raise Unexpected(f"it lacks the metadata {KEY.decode()}")
    try:
        about = json_of(metadata[KEY].decode("utf-8"))
    except UnicodeDecodeError:
        raise Unexpected("its metadata are no JSON object") from None
    ABOUT(about, "its metadata")
    if about["bias"] is not None:
        same_keys(about["bias"], about["genres"], "bias")
    if (about["threshold"] is None) != (about.get("task") == "multiclass"):
        raise Unexpected(f"its threshold is {about['threshold']} and its task {about.get('task', 'multilabel')}")
    if isinstance(about["threshold"], list) and len(about["threshold"]) != len(about["genres"]):
        raise Unexpected(f"threshold has {len(about['threshold'])} entries and there are {len(about['genres'])} genres")
    return about


def _checked_names(schema: Any, about: dict[str, Any]) -> list[str]:
    """Return the names of the columns to read. Raises Unexpected for a missing, repeated or mistyped column.

    Either all columns of an optional group exist, or none.
    """
    import pyarrow.types as of

    def is_text(kind: Any) -> bool:
        return of.is_string(kind) or of.is_large_string(kind)

    genres, modalities = about["genres"], about["modalities"]
    both = [f"{m}/{g}" for m in modalities for g in genres]
    groups = [
        (["id", "split"], is_text, "text", True),
        ([f"present/{m}" for m in modalities], of.is_boolean, "true or false", True),
        ([f"label/{g}" for g in genres], of.is_boolean, "true or false", True),
        ([f"logit/{g}" for g in genres], of.is_floating, "numbers", True),
        ([f"gate/{m}" for m in modalities], of.is_floating, "numbers", False),
        ([f"gate_open/{m}" for m in modalities], of.is_floating, "numbers", False),
        ([f"gate/{name}" for name in both], of.is_floating, "numbers", False),
        ([f"contribution/{name}" for name in both], of.is_floating, "numbers", False),
    ]
    names: list[str] = []
    for columns, fits, words, required in groups:
        if not required and not any(name in schema.names for name in columns):
            continue
        for name in columns:
            if schema.names.count(name) != 1:
                raise Unexpected(f"it {'lacks' if name not in schema.names else 'has twice'} the column {name}")
            if not fits(schema.field(name).type):
                raise Unexpected(f"its column {name} holds {str(schema.field(name).type)[:40]}, and {words} are expected")
        names += columns
    return names


def _array(column: Any, name: str) -> np.ndarray:
    if column.null_count:
        raise Unexpected(f"its column {name} has {column.null_count:,} empty cells")
    values = np.array(column.to_pylist(), dtype=object) if name in ("id", "split") else column.to_numpy()
    if name == "id" and len(set(values)) < len(values):
        raise Unexpected("its column id names a movie twice")
    if name == "split" and len(set(values)) > 1:
        raise Unexpected("its column split names more than one split")
    return values


def checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint of plain tensors and containers, on the CPU.

    `state_dict` holds the weights. `gmu_lightning` holds at least `genres`, `modalities`, `sizes` and `preparations`.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is no checkpoint of that kind, a key is missing or wrong, or a weight is not finite.
    """
    import torch

    size = check_regular(path, MOST_TRAINED, HINT)
    _check_archive(path, size)
    try:
        found = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        why = f"it names {named[1][:80]}" if named else type(error).__name__
        raise _no_checkpoint(path, why) from error
    with checking(path, HINT):
        _check_content(found, size)
    return found


def _no_checkpoint(path: Path, why: str) -> UserError:
    return UserError(f"{path} is not a checkpoint of plain tensors and containers, so it is not read ({why}): {HINT}")


def _check_archive(path: Path, size: int) -> None:
    """Raise UserError for all but a zip of stored files, because compressed files may grow a thousandfold in memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _no_checkpoint(path, "it is no zip archive, or is cut off") from error
    pickled = sum(member.file_size for member in members if member.filename.endswith(".pkl"))
    compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if compressed or sum(member.file_size for member in members) > size or pickled > MOST_PICKLED:
        raise _no_checkpoint(path, "its members are compressed or too large")


def _check_content(found: Any, size: int) -> None:
    import torch

    CHECKPOINT(found, "")
    about = found["gmu_lightning"]
    for part in ("sizes", "preparations"):
        same_keys(about[part], about["modalities"], part)
    weights = found["state_dict"]
    if not isinstance(weights, dict) or not weights:
        raise unexpected(weights, "state_dict", "a mapping of tensors")
    for name, value in weights.items():
        word(name, "a name in state_dict")
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise unexpected(value, name, "a dense tensor")
        if value.numel() * value.element_size() > size:
            raise Unexpected(f"{name} has more values than the file can hold")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise Unexpected(f"the weights {name} hold NaN or infinity")
    head, count = [value for name, value in weights.items() if name.startswith("head.")], len(about["genres"])
    if head and not any(count in value.shape for value in head):
        raise Unexpected(f"it names {count:,} genres, and its weights are of another number of genres")


def check_agreement(about: Mapping[str, Any], config: Mapping[str, Any], run: Path) -> None:
    """Check that modalities, fusion and encoders of a run's configuration are those that its weights were trained with.

    Places of pretrained weights (`PLACES`) may differ. Raises Damaged, which names config.yaml.

    Args:
        about: the checkpoint's metadata, `gmu_lightning`. If they lack `config`, only the modalities are compared.
        config: the configuration in config.yaml.
        run: the run's folder.
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
    """Return the key of the first difference between two nodes, ignoring `PLACES`, or None."""
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


def check_weights(weights: Mapping[str, Any], expected: Mapping[str, Any], path: Path, hint: str = HINT) -> None:
    """Check names and shapes of a checkpoint's weights. Raises Damaged.

    Args:
        weights: {name: tensor} of the checkpoint.
        expected: {name: tensor} of the model that the run's configuration builds.
        path: of the checkpoint.
        hint: advice about a damaged file, for the error sentence.
    """
    for name in [*expected, *(name for name in weights if name not in expected)]:
        if name not in weights:
            raise Damaged(path, f"it lacks the weights {name[:80]}", hint)
        if name not in expected:
            raise Damaged(path, f"it has weights {name[:80]}, which the run's configuration has not", hint)
        ours, theirs = expected[name], weights[name]
        if ours.shape != theirs.shape or ours.is_floating_point() != theirs.is_floating_point():
            raise Damaged(
                path,
                f"its weights {name[:80]} have the shape {list(theirs.shape)} and type {theirs.dtype}, "
                f"and {list(ours.shape)} and {ours.dtype} are expected",
                hint,
            )
