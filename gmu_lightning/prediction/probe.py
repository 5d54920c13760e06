"""The movies of probe.json, whose logits tell whether an exported model predicts here as it did where it was exported."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gmu_lightning import __version__
from gmu_lightning.data.files.inputs import InputRow
from gmu_lightning.movie import UserError
from gmu_lightning.prediction.classifier import Classifier
from gmu_lightning.run_files.exported import HINT, PROBE, ExportFolder
from gmu_lightning.run_files.plain import Damaged

TOLERANCES = {"32-true": 1e-4, "32": 1e-4, "64-true": 1e-4, "64": 1e-4}  # of a logit, or of its size above 1
NARROW = 0.05  # the tolerance of every other precision, since processors round half numbers differently
LIBRARIES = ("torch", "transformers", "tokenizers", "timm", "pillow", "numpy", "scikit-learn", "av")
MOST_NUMBERS = 10**8
DTYPES = ("float32", "float64")


def written(content: Any) -> Any:
    """Return a raw content as plain JSON: a text, the cells of a row, the bytes of a file, or an array.

    Args:
        content: str, dict, bytes of a picture, Path of a clip, or array of numbers.
    """
    if isinstance(content, np.ndarray):
        array = np.ascontiguousarray(content, dtype="<f4")
        return {"array": base64.b64encode(array.tobytes()).decode(), "shape": list(array.shape)}
    if isinstance(content, dict):
        return {"row": content}
    if isinstance(content, Path):
        return {"file": base64.b64encode(content.read_bytes()).decode(), "suffix": content.suffix}
    return {"bytes": base64.b64encode(content).decode()} if isinstance(content, bytes) else content


def read(entry: Any, place: Path) -> Any:
    """Return the raw content that `written` returned as `entry`.

    Args:
        entry: of probe.json.
        place: a file that may be written, without a suffix.

    Raises:
        ValueError, KeyError, TypeError, StopIteration: the entry is none.
    """
    if not isinstance(entry, Mapping):
        return entry
    if "row" in entry:
        return dict(entry["row"])
    key = next(key for key in ("array", "file", "bytes") if key in entry)
    content = base64.b64decode(entry[key], validate=True)
    if key == "array":
        shape = tuple(map(int, entry["shape"]))
        if any(size < 0 for size in shape) or len(content) != 4 * int(np.prod(shape)) or len(content) > 4 * MOST_NUMBERS:
            raise ValueError("an array has another size than its shape")
        return np.frombuffer(content, dtype="<f4").reshape(shape).astype(np.float32)
    if key == "file":
        suffix = str(entry.get("suffix", ""))
        file = place.with_suffix(suffix if suffix[1:].isalnum() and suffix.startswith(".") else ".clip")
        file.write_bytes(content)
        return file
    return content


def logits_of_movies(classifier: Classifier, movies: Sequence[Mapping[str, Any]], folder: Path) -> np.ndarray:
    """Return the logits (N, C) of N movies, {modality: entry of probe.json} each.

    Args:
        classifier: of one model.
        movies: the entries.
        folder: receives files of clips.

    Raises:
        ValueError: an entry is no content.
        UserError: a content cannot be used.
    """
    rows = []
    for n, movie in enumerate(movies):
        content = {modality: read(entry, folder / f"{n}-{modality}") for modality, entry in movie.items()}
        rows.append(InputRow(str(n), content, None, f"probe:{n + 1}"))
    with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
        (results,) = classifier.results([rows], len(rows), classifier.form())
    for n, problem in enumerate(results.problems):
        if problem and movies[n]:
            raise UserError(f"movie {n + 1} of the probe cannot be used, for {problem}")
    return results.logits


def versions() -> dict[str, str]:
    """Return {library: version} of the libraries that predictions depend on, gmu_lightning's own included."""
    return {"gmu_lightning": __version__, **{name: metadata.version(name) for name in LIBRARIES}}


def check_probe(classifier: Classifier, found: ExportFolder) -> None:
    """Raise UserError unless an exported model gives the logits of its probe.json, within the tolerance written there.

    Args:
        classifier: of the model alone.
        found: content of its folder.
    """
    path = found.folder / PROBE
    movies = found.probe["movies"]
    expected = np.array([[row[genre] for genre in classifier.genres] for row in found.probe["logits"]])
    try:
        with tempfile.TemporaryDirectory() as folder:
            logits = logits_of_movies(classifier, movies, Path(folder))
    except (ValueError, TypeError, KeyError, StopIteration) as error:
        raise Damaged(path, f"a content of it cannot be read ({type(error).__name__})", HINT) from error
    except UserError as error:
        raise UserError(f"{found.folder} is not loaded, for {error}{_hint(found)}") from error
    tolerance = float(found.probe["tolerance"])
    off = np.abs(logits - expected) / np.maximum(1.0, np.abs(expected))
    worst = float(np.where(np.isfinite(off), off, np.inf).max())
    if worst > tolerance:
        n = int(np.where(np.isfinite(off), off, np.inf).max(axis=1).argmax())
        raise UserError(
            f"{found.folder} is not loaded, for logits of its {PROBE} differ by {worst:.2g} in movie {n + 1} (allowed: "
            f"{tolerance:g}): its weights, its preprocessing or its tokeniser were changed{_hint(found)}"
        )


def _hint(found: ExportFolder) -> str:
    """Return the libraries that have another version here, as an end of the sentence."""
    here = versions()
    other = [f"{name} {there}, here {here[name]}" for name, there in found.versions.items() if here.get(name, there) != there]
    known = f", or a library differs (exported with {'; '.join(other[:4])})" if other else ""
    return f"{known}; {HINT}"
