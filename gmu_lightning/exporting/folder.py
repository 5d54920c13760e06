"""Write the folder of an exported model, in one piece."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmu_lightning.encoders.base import Encoder
from gmu_lightning.exporting.made_movies import made_movies
from gmu_lightning.exporting.plain import described_networks, plain_config, pretrained_names
from gmu_lightning.files import write_atomically, write_json
from gmu_lightning.metrics import TUNED
from gmu_lightning.movie import UserError
from gmu_lightning.prediction.classifier import Classifier
from gmu_lightning.prediction.exported import preprocessing_of
from gmu_lightning.prediction.probe import NARROW, TOLERANCES, logits_of_movies, versions, written
from gmu_lightning.prediction.trained import TrainedRun
from gmu_lightning.run_files.exported import (
    CONFIG,
    FOLDERS,
    FORMAT,
    GENRES,
    METRICS,
    PREPARATION,
    PROBE,
    THRESHOLDS,
    WEIGHTS,
    is_export,
    refuse_code,
)

if TYPE_CHECKING:
    from torch import Tensor


def check_output(output: Path) -> None:
    """Raise UserError unless a path is free, an empty folder, or the folder of an earlier export."""
    if output.exists() and not output.is_dir():
        raise UserError(f"output={output} is a file: give a folder that does not exist yet")
    if output.is_dir() and any(output.iterdir()) and not (is_export(output) and (output / PROBE).exists()):
        raise UserError(f"output={output} holds other files than those of an export: give a new folder")
    if any((folder / "config.yaml").exists() and (folder / "status.json").exists() for folder in output.absolute().parents):
        raise UserError(f"output={output} lies in the folder of a run, which keeps its own files: give another folder")


@contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """Yield a new folder beside `output`, which replaces it at the end of the context. After an error `output` is unchanged."""
    place = output.absolute()
    place.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}.", suffix=".tmp"))
    made, old = scratch / "new", scratch / "old"
    try:
        made.mkdir()
        yield made
        if place.exists():
            place.rename(old)
        made.rename(place)
    except OSError as error:
        if error.filename is None or Path(str(error.filename)).is_relative_to(scratch):
            raise UserError(f"output={output} cannot be written ({error.strerror or error}): give another folder") from error
        raise
    finally:
        if old.exists() and not place.exists():
            old.rename(place)
        shutil.rmtree(scratch, ignore_errors=True)


def write_model(classifier: Classifier, folder: Path) -> None:
    """Write everything that a load needs, and metrics.json.

    Args:
        classifier: of one run.
        folder: exists, and is empty.

    Raises:
        UserError: the run cannot be exported, or its predictions of val are missing.
    """
    from safetensors.torch import save_file

    (run,) = classifier.runs
    refuse_own_weights(run)
    for name, files in described_networks(run).items():
        for file, content in files.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / file).write_bytes(content)
    known = versions()
    config = {"format": FORMAT, "version": known["gmu_lightning"], "config": plain_config(run)}
    write_json(folder / CONFIG, config)
    learned = {m: source.preparation.state() for m, source in run.sources.items()}
    prepared = {
        "versions": known,
        "modalities": list(run.modalities),
        "sizes": {m: encoder.dim for m, encoder in run.model.encoders.items()},
        "pretrained": pretrained_names(run),
        "preprocessing": {m: preprocessing_of(source.preparation) for m, source in run.sources.items()},
        "learned": learned,
    }
    try:
        write_json(folder / PREPARATION, json.loads(json.dumps(prepared)))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{run.run.folder} cannot be exported, for a preparation of it learned more than plain data ({error}): return lists, "
            "texts and numbers from its state()"
        ) from error
    write_json(folder / GENRES, {"genres": list(run.genres)})
    write_json(folder / THRESHOLDS, thresholds(classifier))
    write_json(folder / PROBE, probe(classifier))
    write_json(folder / METRICS, run.run.metrics)

    def save(path: Path) -> None:
        path.touch()
        mode = path.stat().st_mode  # of any other file; safetensors writes files that only their owner may read
        save_file(weights_of(run), path, {"format": "pt"})
        path.chmod(mode)

    write_atomically(folder / WEIGHTS, save)
    refuse_code(folder)


def weights_of(run: TrainedRun) -> dict[str, Tensor]:
    """Return {name: tensor} of every weight that a run predicts with, pretrained networks included."""
    found = dict(run.model.state_dict())
    for m, module in run.model.encoders.items():
        built = module if module.network is not None else run.sources[m].network
        if built is not None:
            found |= {f"encoders.{m}.{name}": value for name, value in built.state_dict().items()}
        of_inputs = getattr(run.sources[m].preparation, "weights_of_network", None)
        if of_inputs is not None:
            found |= {f"{FOLDERS[1]}.{m}.network.{name}": value for name, value in of_inputs().items()}
    return {name: value.detach().cpu().contiguous().clone() for name, value in found.items()}


def thresholds(classifier: Classifier) -> dict[str, Any]:
    """Return {rule: threshold, one or {genre: threshold}}, each None for a task without thresholds. Raises UserError."""
    if classifier.runs[0].config.data.task == "multiclass":
        return dict.fromkeys(("0.5", *TUNED))
    found: dict[str, Any] = {"0.5": 0.5}
    for rule in TUNED:
        tuned = classifier.form(rule).threshold
        found[rule] = dict(zip(classifier.genres, tuned, strict=True)) if isinstance(tuned, list) else tuned
    return found


def probe(classifier: Classifier) -> dict[str, Any]:
    """Return the content of probe.json: made-up movies, their logits, and the tolerance of a check. Raises UserError."""
    (run,) = classifier.runs
    with tempfile.TemporaryDirectory() as folder:
        movies = [{m: written(content) for m, content in movie.items()} for movie in made_movies(run, Path(folder))]
        logits = logits_of_movies(classifier, movies, Path(folder))
    rows = [dict(zip(classifier.genres, row, strict=True)) for row in logits.tolist()]
    return {"tolerance": TOLERANCES.get(run.config.trainer.precision, NARROW), "movies": movies, "logits": rows}


def refuse_own_weights(run: TrainedRun) -> None:
    """Raise UserError for an encoder of the user's own with pretrained weights, since these lie in files unknown here."""
    for m, encoder in run.model.encoders.items():
        assert isinstance(encoder, Encoder)
        ours = type(encoder).__module__.partition(".")[0] == "gmu_lightning"
        built = encoder if encoder.network is not None else run.sources[m].network
        if not ours and encoder.pretrained and built is not None and any(True for _ in built.parameters()):
            raise UserError(
                f"{run.run.folder} cannot be exported, for the class of encoder.{m} is your own and reads weights from other "
                "files: train it from scratch, or choose another encoder"
            )
