"""Run a frozen encoder on many contents, by torch or by OpenVINO.

On a CPU several batches are computed at once, each by one thread. Threads that share a batch would wait for the slowest of them
after every layer, and features would depend on the number of threads. torch exports an encoder's program for OpenVINO, for any
number and length of contents.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from queue import SimpleQueue
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gmu_lightning.config.schema import EncodeConfig
from gmu_lightning.encoders.base import Encoder, moved
from gmu_lightning.movie import Column, Features, UserError
from gmu_lightning.visible import first_line

BATCH = 32
# Seconds on one core, measured with EfficientNet-Lite0 and MiniLM. A conversion takes CONVERSION, and then OpenVINO saves SAVED
# for each content: more for a network of convolutions than for a transformer, whose matrix products torch computes as fast.
CONVERSION, SAVED = 5.0, {"convolutions": 0.0125, "other layers": 0.002}
MOST_DIFFERENCE = 1e-4  # largest difference from torch in float32, relative to the features' root mean square
Call = Callable[[Any], Features]
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Sample:
    """Inputs for a conversion and its trial.

    Attributes:
        many: inputs of several contents, including the shortest and the longest.
        short: inputs of the shortest content. Axes whose sizes differ from those of `many` are exported with variable size.
    """

    many: Any
    short: Any


class Runner:
    """A function of inputs that returns `Features` in float32 on the CPU.

    Args:
        backend, precision: in use, with `auto` decided.
        note: the reason for the backend, in a few words.
        calls: one function for each thread that may call the runner at once.
        fell_back: whether `auto` chose OpenVINO, which was refused, so that torch runs the encoder.

    Attributes:
        workers: how many threads may call the runner at once.
    """

    def __init__(self, backend: str, precision: str, note: str, calls: Sequence[Call], fell_back: bool = False):
        self.backend, self.precision, self.note, self.fell_back = backend, precision, note, fell_back
        self.workers = len(calls)
        self._free: SimpleQueue[Call] = SimpleQueue()
        for call in calls:
            self._free.put(call)

    def __call__(self, inputs: Any) -> Features:
        """Return the features of one batch. It waits for a free call."""
        call = self._free.get()
        try:
            return call(inputs)
        finally:
            self._free.put(call)


def runner(
    encoder: Encoder,
    encoding: EncodeConfig,
    device: torch.device,
    sample: Callable[[], Sample],
    *,
    contents: int,
    cores: int,
    sequences: bool = False,
) -> Runner:
    """Return a runner of an encoder on the configured backend.

    A converted network is first tried on a sample in float32. It is refused if its features differ from torch's by more than
    `MOST_DIFFERENCE`.

    Args:
        encoder: built, and fully frozen. It is moved to `device` and set to evaluation mode.
        encoding: the backend and its precision.
        device: on which torch runs the encoder.
        sample: returns the sample; called only for a conversion.
        contents: how many contents there are to encode; `auto` chooses OpenVINO only from `worth_converting` on.
        cores: how many CPU cores may be used.
        sequences: whether token features are needed too.

    Raises:
        UserError: OpenVINO was chosen and is not installed, cannot run this encoder, or gives different features.
    """
    encoder.to(device).eval()
    fell_back, (name, note) = False, _backend(encoder, encoding.backend, device, contents, cores)
    if name != "torch":
        try:
            calls, found = _converted(encoder, encoding.precision, sample(), cores, sequences)
        except _RefusedError as refused:
            if encoding.backend != "auto":
                raise UserError(f"encode.backend={name}: {refused}; choose encode.backend=torch") from refused
            fell_back, note = True, f"torch, as {name} was refused: {refused}"
        else:
            note = f"{name}, checked against torch: features differ by {found:.0e} of their root mean square at the most"
            return Runner(name, encoding.precision, note, calls)
    replicas = [replica(encoder) for _ in range(cores if device.type == "cpu" else 1)]
    return Runner("torch", encoding.precision, note, [_by_torch(e, device, encoding.precision) for e in replicas], fell_back)


@torch.no_grad()
def run(encoder: Encoder, inputs: Any, device: torch.device, precision: str = "float32") -> Features:
    """Return the features of one batch in float32 on the CPU.

    Args:
        encoder: on the device, and in evaluation mode.
        inputs: of its preparation, on any device.
        precision: of the computation, `float32` or `bfloat16`.
    """
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        features = encoder(moved(inputs, device))
    sequence, mask = (None if part is None else part.cpu() for part in features[1:])
    return Features(features.vector.float().cpu(), None if sequence is None else sequence.float(), mask)


def features_of(encoder: Encoder, column: Column, rows: Sequence[int], device: torch.device) -> Iterator[Features]:
    """Yield the features of movies in batches, in evaluation mode, on the CPU and without gradient.

    Args:
        encoder: built, unless the column is cached. It is moved to `device`, and stays in evaluation mode.
        column: of prepared inputs or cached features.
        rows: movies that have the modality.
        device: on which the encoder runs.
    """
    for start in range(0, len(rows), BATCH):
        batch = column.batch(rows[start : start + BATCH])
        yield batch if column.cached else run(encoder.to(device).eval(), batch, device)


def difference(found: Features, expected: Features) -> float:
    """Return the largest absolute difference of vectors and real tokens, relative to the expected root mean square.

    NaN counts as infinity.
    """
    pairs = [(found.vector, expected.vector)]
    if found.sequence is not None and expected.sequence is not None:
        pairs.append((found._replace(mask=expected.mask).real_tokens(), expected.real_tokens()))
    shares = [((a - b).abs().max() / b.pow(2).mean().sqrt().clamp(min=torch.finfo(b.dtype).tiny)).item() for a, b in pairs]
    return math.inf if any(math.isnan(share) for share in shares) else max(shares)


def worth_converting(encoder: Encoder, cores: int) -> int:
    """Return the number of contents from which on conversion and encoding by OpenVINO take less time than encoding by torch.

    A conversion is done by one core, and the contents are encoded by all. The number depends on no clock, so the choice of a
    backend is the same in every run on the machine.

    Args:
        encoder: built.
        cores: how many CPU cores encode.
    """
    weights = {True: 0, False: 0}
    for module in encoder.modules():
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        weights[isinstance(module, nn.modules.conv._ConvNd)] += own
    return math.ceil(CONVERSION * cores / SAVED["convolutions" if weights[True] > weights[False] else "other layers"])


def _backend(encoder: Encoder, wanted: str, device: torch.device, contents: int, cores: int) -> tuple[str, str]:
    """Return the backend to try, and the reason if it is torch."""
    if not contents or not any(True for _ in encoder.parameters()):
        return "torch", "torch, as there is nothing to convert"
    if wanted != "auto":
        return wanted, wanted
    if device.type != "cpu":
        return "torch", f"torch, on {device.type}"
    if contents < worth_converting(encoder, cores):
        return "torch", f"torch, as {contents} contents are too few to convert the network for"
    if not installed():
        return "torch", "torch; OpenVINO is often faster on a CPU: pip install 'gmu_lightning[openvino]'"
    return "openvino", ""


def replica(module: Network) -> Network:
    """Return a copy that shares the weights. Its modules are separate, so attributes set by a forward stay within a thread."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]})


def _by_torch(encoder: Encoder, device: torch.device, precision: str) -> Call:
    def call(inputs: Any) -> Features:
        with torch.inference_mode():
            return run(encoder, inputs, device, precision)

    return call


class _RefusedError(Exception):
    """A backend is not used for this encoder. The message is the reason, as half a sentence."""


def _converted(encoder: Encoder, precision: str, sample: Sample, cores: int, sequences: bool) -> tuple[list[Call], float]:
    """Return one call of the converted encoder for each core, and its largest difference from torch. Raises _RefusedError."""
    if not installed():
        raise _RefusedError("openvino is not installed (pip install 'gmu_lightning[openvino]')")
    cpu = torch.device("cpu")
    own = copy.deepcopy(encoder).to(cpu)
    expected = run(own, sample.many, cpu)
    parts = [part for part in Features._fields if getattr(expected, part) is not None and (sequences or part == "vector")]
    try:
        converted = Converted(own, sample, parts)
        calls = converted.calls("float32", cores)
        found = difference(calls[0](sample.many), expected)
        if precision != "float32":
            calls = converted.calls(precision, cores)
            calls[0](sample.many)
    except Exception as error:
        why = f"{type(error).__name__}: {first_line(error)[:200]}"
        raise _RefusedError(f"it cannot run {type(encoder).__name__} ({why})") from error
    if not found <= MOST_DIFFERENCE:
        raise _RefusedError(f"its features differ from torch's by {found:.1e} of their root mean square")
    return calls, found


def installed() -> bool:
    """Return whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


class Converted:
    """An encoder converted for OpenVINO.

    Args:
        encoder: built, on the CPU, in evaluation mode.
        sample: inputs that decide which axes vary. If none but the first does, the network is converted for batches as large as
            `many`, which takes half the time. Other batches are filled up or divided.
        parts: the fields of `Features` to compute.

    Raises:
        Exception: of any kind, if the encoder cannot be converted.
    """

    def __init__(self, encoder: Encoder, sample: Sample, parts: list[str]):
        many, short = _tensors(sample.many), _tensors(sample.short)
        self._parts = parts
        self._shapes = [  # of the inputs, with -1 for variable axes
            [-1 if axis == 0 or a.shape[axis] != b.shape[axis] else size for axis, size in enumerate(a.shape)]
            for a, b in zip(many, short, strict=True)
        ]
        varies = any(size < 0 for shape in self._shapes for size in shape[1:])
        self._rows = None if varies else len(many[0])
        if self._rows:
            self._shapes = [[self._rows, *shape[1:]] for shape in self._shapes]
        free = tuple({axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(s) if size < 0} for s in self._shapes)
        with _undisturbed(), torch.no_grad():
            flat = _Flat(encoder, sample.many, parts).eval()
            self._program = torch.export.export(flat, tuple(many), dynamic_shapes=(free,), strict=False)

    def calls(self, precision: str, cores: int) -> list[Call]:
        """Return one function from inputs to `Features` for each core, to be called by one thread at a time.

        Args:
            precision: of the computation, `float32` or `bfloat16`.
            cores: how many CPU cores to use.
        """
        narrow = "f32" if precision == "float32" else "bf16"
        hints = {"INFERENCE_PRECISION_HINT": narrow, "NUM_STREAMS": cores, "INFERENCE_NUM_THREADS": cores}
        with _undisturbed():
            openvino = _library()
            model = openvino.convert_model(self._program)
            model.reshape({model.input(n): openvino.PartialShape(shape) for n, shape in enumerate(self._shapes)})
            compiled = _core().compile_model(model, "CPU", hints)
            return [self._call(compiled.create_infer_request(), compiled.outputs) for _ in range(cores)]

    def _call(self, request: Any, outputs: Sequence[Any]) -> Call:
        def infer(tensors: Sequence[Tensor]) -> list[Tensor]:
            found = request.infer([tensor.numpy() for tensor in tensors], share_inputs=True)
            return [torch.from_numpy(found[output]) for output in outputs]

        def call(inputs: Any) -> Features:
            tensors = _tensors(inputs)
            count, rows = len(tensors[0]), self._rows or len(tensors[0])
            found = [infer([_filled(t[start : start + rows], rows) for t in tensors]) for start in range(0, count, rows)]
            parts = {part: torch.cat(pieces)[:count] for part, pieces in zip(self._parts, zip(*found, strict=True), strict=True)}
            return Features(**{part: tensor.bool() if part == "mask" else tensor for part, tensor in parts.items()})

        return call


def _filled(tensor: Tensor, rows: int) -> Tensor:
    """Return a tensor with zeros added at the end of its first axis, so that it has a number of rows."""
    missing = rows - len(tensor)
    return torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])]) if missing else tensor


class _Flat(nn.Module):
    """An encoder with plain tensors as inputs and outputs, for the converter."""

    def __init__(self, encoder: Encoder, inputs: Any, parts: list[str]):
        super().__init__()
        self.encoder, self.parts = encoder, parts
        self.kind = None if isinstance(inputs, Tensor) else type(inputs)
        self.tensors = None if self.kind is None else [isinstance(part, Tensor) for part in inputs]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the requested fields of a batch's `Features`, with bool as uint8."""
        inputs: Any = tensors[0]
        if self.kind is not None and self.tensors is not None:
            rest = iter(tensors)
            inputs = self.kind(*(next(rest) if there else None for there in self.tensors))
        features = self.encoder(inputs)
        found = (getattr(features, part) for part in self.parts)
        return tuple(part.to(torch.uint8) if part.dtype == torch.bool else part for part in found)


@cache
def _core() -> Any:
    """Return OpenVINO's core, which is never unloaded.

    OpenVINO gives the main thread a stack for signals, and frees it with the last reference to the core. Afterwards a Ctrl-C
    would end the process with a segmentation fault.
    """
    return _library().Core()


def _library() -> Any:
    """Import openvino without openvino_telemetry, which reports imports and conversions to the vendor.

    None in `sys.modules` makes the telemetry count as not installed, and OpenVINO then uses a stub without network access.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _tensors(inputs: Any) -> list[Tensor]:
    """Return the tensors among an encoder's inputs, row-major for OpenVINO."""
    parts = [inputs] if isinstance(inputs, Tensor) else inputs
    return [part.contiguous() for part in parts if isinstance(part, Tensor)]


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Silence the warnings and logs of converters within the context."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
