"""Write the parts of a model as ONNX files, and check them against torch with ONNX Runtime."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmu_lightning.encoders.temporal import StepPreparation
from gmu_lightning.exporting.made_movies import whole_movies
from gmu_lightning.exporting.onnx_parts import (
    PRESENT,
    Part,
    built_encoder,
    encodes_text_within,
    feature_names,
    input_names,
    parts_of,
    read_by_fusion,
    tensors_of,
)
from gmu_lightning.files import write_json
from gmu_lightning.movie import Features, MovieBatch, UserError
from gmu_lightning.parallel import nothing
from gmu_lightning.prediction.trained import TrainedRun
from gmu_lightning.visible import first_line

NEEDED = ("onnx", "onnxscript", "onnxruntime")
FOLDER, CHECK = "onnx", "check.json"
ALLOWED = 1e-4  # of a logit
HALF = ("bf16-true", "16-true", "transformer-engine", "transformer-engine-float16")
EXAMPLE = (1, 2)  # movies of the example, a long one among them; sizes 0 and 1 of an axis would be taken for constants
LONG = 500  # steps of the longest sequence, so that encoders with wide kernels see short and long ones
SHAPES = ((0,), (1, 0), (0, 1, 2, 1, 0))  # movies of each check, which differ in the length of their texts and clips


class NotExportedError(Exception):
    """A model cannot be written as ONNX. The message is the reason, as a clause."""


def check_installed() -> None:
    """Raise UserError unless the libraries of ONNX are installed."""
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        raise UserError(f"onnx=true needs {' and '.join(lacking)}: type pip install 'gmu_lightning[onnx]', or leave onnx out")


def write_onnx(run: TrainedRun, folder: Path) -> None:
    """Write a file for each part, and the result of their check, into the folder `onnx` of an exported model.

    The parts compute in float32. They are compared with torch on three batches, each with every subset of the modalities.

    Args:
        run: its model.
        folder: of the exported model.

    Raises:
        NotExportedError: a part cannot be written, or its logits differ. The folder `onnx` is then absent.
    """
    if run.config.trainer.precision in HALF:
        raise NotExportedError(f"a run of trainer.precision={run.config.trainer.precision} has no weights in float32")
    target = folder / FOLDER
    target.mkdir()
    run.model.cpu()
    try:
        with tempfile.TemporaryDirectory() as clips, _undisturbed(), torch.inference_mode(False), torch.no_grad():
            movies = _stored(run, Path(clips))
            inputs = _inputs(run, movies, EXAMPLE)
            parts = list(parts_of(run, inputs, _features(run, inputs)))
            for part in parts:
                _write(part, _tensors(run, part, inputs), target / f"{part.name}.onnx")
            write_json(target / CHECK, _checked(run, movies, parts, target))
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, OSError | UserError | NotExportedError) or not isinstance(error, Exception):
            raise
        raise NotExportedError(f"ONNX Runtime cannot run a part ({first_line(error)[:160]})") from error


def _stored(run: TrainedRun, folder: Path) -> list[dict[str, np.ndarray]]:
    """Return the stored contents of made-up movies."""
    preparations = {m: source.preparation for m, source in run.sources.items()}
    found = [{m: preparations[m].store(content) for m, content in movie.items()} for movie in whole_movies(run, folder)]
    for i, (m, preparation) in enumerate(preparations.items()):
        getattr(preparation, "close", nothing)()
        for n, movie in enumerate(found):
            if isinstance(preparation, StepPreparation):
                movie[m] = _lengthened(movie[m], LONG + 40 * i if n == 2 and movie[m].ndim == 2 else 3 + n + 4 * i)
    return found


def _lengthened(steps: np.ndarray, least: int) -> np.ndarray:
    """Return steps (T, ...), repeated until there are at least so many. Lengths of the example must differ between modalities."""
    return steps if len(steps) >= least else np.resize(steps, (least, *steps.shape[1:]))


def _inputs(run: TrainedRun, movies: Sequence[Mapping[str, np.ndarray]], rows: Sequence[int]) -> dict[str, Any]:
    """Return {modality: inputs of its encoder} of some movies."""
    return {m: run.sources[m].preparation.batch([movies[n][m] for n in rows], False) for m in run.modalities}


def _features(run: TrainedRun, inputs: Mapping[str, Any]) -> dict[str, Features]:
    """Return {modality: the features that the fusion reads}, by torch, without a modality that the fusion encodes."""
    found = {}
    for m in run.modalities:
        if not encodes_text_within(run, m):
            encoder = built_encoder(run, m)
            encoder.build()
            found[m] = read_by_fusion(run, m, encoder.cpu().eval()(inputs[m]))
    return found


def _tensors(run: TrainedRun, part: Part, inputs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors of a part's inputs for an example."""
    if part.name != "fusion":
        return tensors_of(inputs[part.name.removeprefix("encoder_")])
    features = _features(run, inputs)
    found = []
    for m in run.modalities:
        own = features.get(m, inputs[m])
        found += [own] if isinstance(own, Tensor) else [tensor for tensor in own if isinstance(tensor, Tensor)]
    return [tensor.contiguous() for tensor in found] + [torch.ones(len(EXAMPLE), len(run.modalities), dtype=torch.bool)]


def _write(part: Part, tensors: Sequence[Tensor], path: Path) -> None:
    """Write a part as an ONNX file in which batch and length are variable. Raises NotExportedError."""
    lengths = {name: 1 for name in part.inputs if name.endswith(("_ids", "_mask", "_steps", "_tokens"))}
    dynamic = torch.export.Dim.DYNAMIC
    free = tuple({0: dynamic, **({lengths[name]: dynamic} if name in lengths else {})} for name in part.inputs)
    try:
        program = torch.export.export(part.module.eval(), tuple(tensors), dynamic_shapes=(free,), strict=False)
        made = torch.onnx.export(
            program, dynamo=True, input_names=list(part.inputs), output_names=list(part.outputs), verbose=False
        )
        assert made is not None
        path.write_bytes(_without_places(made.model_proto).SerializeToString(deterministic=True))
    except Exception as error:  # the exporter may raise anything
        raise NotExportedError(f"torch cannot write {part.name} as ONNX ({first_line(error)[:160]})") from error


def _without_places(proto: Any) -> Any:
    """Return a model without notes on the source that it was made from, which name places on this machine."""
    waiting = [proto]
    while waiting:
        message = waiting.pop()
        for field, value in message.ListFields():
            if field.name in ("metadata_props", "doc_string"):
                message.ClearField(field.name)
            elif field.message_type is not None and field.name != "raw_data":
                waiting += list(value) if hasattr(value, "__len__") and not hasattr(value, "ListFields") else [value]
    return proto


def _checked(run: TrainedRun, movies: Sequence[Mapping[str, np.ndarray]], parts: Sequence[Part], folder: Path) -> dict[str, Any]:
    """Return the content of check.json. Raises NotExportedError if a logit differs by more than `ALLOWED`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    sessions = {
        part.name: onnxruntime.InferenceSession(str(folder / f"{part.name}.onnx"), options, ["CPUExecutionProvider"])
        for part in parts
    }
    subsets = list(product((False, True), repeat=len(run.modalities)))
    worst, shapes = 0.0, []
    for rows in SHAPES:
        inputs = _inputs(run, movies, rows)
        features = _features(run, inputs)
        shapes.append({m: list(tensors_of(inputs[m])[0].shape) for m in run.modalities})
        known = _encoded(run, inputs, features, sessions)
        for subset in subsets:
            present = torch.tensor([subset] * len(rows))
            batch = MovieBatch(("",) * len(rows), {**inputs, **features}, present, None)
            expected = run.model.float()(batch).logits.double().numpy()
            (found,) = _run(sessions["fusion"], {**known, PRESENT: present.numpy()})
            worst = max(worst, float(np.abs(found - expected).max(initial=0.0)))
    if not worst <= ALLOWED:
        raise NotExportedError(
            f"its logits by ONNX Runtime differ from those of torch by {worst:.2g}, and {ALLOWED:g} is allowed"
        )
    names = ["+".join(m for m, there in zip(run.modalities, subset, strict=True) if there) or "none" for subset in subsets]
    about = {part.name: {"inputs": list(part.inputs), "outputs": list(part.outputs)} for part in parts}
    return {"largest_difference": worst, "allowed": ALLOWED, "shapes": shapes, "subsets": names, "parts": about}


def _encoded(
    run: TrainedRun, inputs: Mapping[str, Any], features: Mapping[str, Features], sessions: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return {name: tensor} of everything that the fusion reads except `present`, by ONNX Runtime."""
    found: dict[str, np.ndarray] = {}
    for m in run.modalities:
        given = [tensor.numpy() for tensor in tensors_of(inputs[m])]
        names = input_names(m, inputs[m])
        if m not in features:
            found |= zip(names, given, strict=True)
            continue
        outputs = feature_names(m, features[m])
        if f"encoder_{m}" in sessions:
            found |= zip(outputs, _run(sessions[f"encoder_{m}"], dict(zip(names, given, strict=True))), strict=True)
        else:  # the features are the inputs
            found |= zip(outputs, (part.numpy() for part in features[m] if part is not None), strict=True)
    return found


def _run(session: Any, tensors: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of a session. Inputs that it does not use are left out."""
    wanted = {one.name for one in session.get_inputs()}
    return session.run(None, {name: np.ascontiguousarray(value) for name, value in tensors.items() if name in wanted})


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Silence the exporter, and turn off a fast path of torch that it cannot translate, within the context."""
    disabled, fast = logging.root.manager.disable, torch.backends.mha.get_fastpath_enabled()
    logging.disable(logging.WARNING)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        logging.disable(disabled)
