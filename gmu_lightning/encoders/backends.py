"""How a frozen encoder is run over many contents: by torch, or converted once for a library that only infers.

On a CPU several batches are computed at once, each by one thread: threads that share a batch wait for the slowest of them
after every layer, and features would depend on how many there are.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch

from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.converted import PACKAGES, Call, Converted, Sample, missing
from gmu_lightning.encoders.inputs import moved
from gmu_lightning.movie import Features, UserError

BACKENDS = ("auto", "torch", *PACKAGES)
PRECISIONS = ("float32", "bfloat16")
WORTH_CONVERTING = 5000  # contents; a conversion takes several seconds, which fewer do not save
MOST_DIFFERENCE = 1e-4  # from torch, in float32


@dataclass(frozen=True)
class Encoding:
    """What the configuration's `encode` says.

    Attributes:
        backend: `torch`, `openvino`, `onnxruntime` or `auto`: OpenVINO on a CPU where it is installed, torch elsewhere.
        precision: of the network's arithmetic, `float32` or `bfloat16`; features are float32 numbers either way.

    Raises:
        UserError: there is no such backend or precision, or the two do not go together.
    """

    backend: str = "auto"
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise UserError(f"encode.backend={self.backend} does not exist: choose one of {', '.join(BACKENDS)}")
        if self.precision not in PRECISIONS:
            raise UserError(f"encode.precision={self.precision} does not exist: choose one of {', '.join(PRECISIONS)}")
        if (self.backend, self.precision) == ("onnxruntime", "bfloat16"):
            raise UserError("encode.backend=onnxruntime has no bfloat16 on CPUs: choose encode.precision=float32, or openvino")


@dataclass(frozen=True)
class Runner:
    """An encoder ready to be run, inputs -> `Features` in float32 on the CPU, by up to `workers` threads at once.

    Attributes:
        backend, precision: what is really used.
        note: one sentence on the choice.
        fell_back: whether torch runs what `auto` gave to another library.
    """

    backend: str
    precision: str
    note: str
    fell_back: bool
    workers: int
    free: SimpleQueue[Call]

    def __call__(self, inputs: Any) -> Features:
        """Features of one batch."""
        call = self.free.get()
        try:
            return call(inputs)
        finally:
            self.free.put(call)


def runner(
    encoder: Encoder,
    encoding: Encoding,
    device: torch.device,
    sample: Callable[[], Sample],
    *,
    contents: int,
    cores: int,
    sequences: bool = False,
) -> Runner:
    """The encoder on the backend that was asked for.

    A converted network is tried on the sample first, in float32: its features may differ from torch's by 1e-4 of their root
    mean square at the most.

    Args:
        encoder: built, and frozen whole.
        sample: called where something is converted.
        contents: how many there are to encode; `auto` converts nothing for a few.
        cores: how many may be used.
        sequences: whether token features are wanted beside the vectors.

    Raises:
        UserError: the chosen library is not installed, cannot run this encoder, or gives other features.
    """
    encoder.to(device).eval()
    name, note, fell_back = encoding.backend, "", False
    if not contents or not any(True for _ in encoder.parameters()):
        name, note = "torch", "torch, as there is nothing to convert"
    elif name == "auto":
        name, note = _automatic(device, contents)
    if name != "torch":
        try:
            calls, found = _converted(encoder, name, encoding.precision, sample(), cores, sequences)
        except _RefusedError as refused:
            if encoding.backend != "auto":
                raise UserError(f"encode.backend={name}: {refused}; choose encode.backend=torch") from refused
            name, note, fell_back = "torch", f"torch, as {name} was refused: {refused}", True
        else:
            note = f"{name}, checked against torch: features differ by {found:.0e} of their root mean square at the most"
            return Runner(name, encoding.precision, note, False, cores, _queue(calls))
    workers = cores if device.type == "cpu" else 1
    calls = [_by_torch(_replica(encoder), device, encoding.precision) for _ in range(workers)]
    return Runner("torch", encoding.precision, note or "torch", fell_back, workers, _queue(calls))


@torch.no_grad()
def run(encoder: Encoder, inputs: Any, device: torch.device, precision: str = "float32") -> Features:
    """One batch through an encoder that is on the device and in evaluation mode -> `Features` in float32 on the CPU."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        features = encoder(moved(inputs, device))
    sequence, mask = (None if part is None else part.cpu() for part in features[1:])
    return Features(features.vector.float().cpu(), None if sequence is None else sequence.float(), mask)


def difference(found: Features, expected: Features) -> float:
    """The largest absolute difference of vectors (and of real tokens), relative to the root mean square of the expected."""
    pairs = [(found.vector, expected.vector)]
    if found.sequence is not None and expected.sequence is not None:
        real = slice(None) if expected.mask is None else expected.mask
        pairs.append((found.sequence[real], expected.sequence[real]))
    shares = [((a - b).abs().max() / b.pow(2).mean().sqrt().clamp(min=torch.finfo(b.dtype).tiny)).item() for a, b in pairs]
    return math.inf if any(math.isnan(share) for share in shares) else max(shares)


class _RefusedError(Exception):
    """A backend is not used for this encoder; the message says why, as half a sentence."""


def _automatic(device: torch.device, contents: int) -> tuple[str, str]:
    if device.type != "cpu":
        return "torch", f"torch, on {device.type}"
    if contents < WORTH_CONVERTING:
        return "torch", f"torch, as {contents} contents are too few to convert the network for"
    if missing("openvino"):
        return "torch", "torch; OpenVINO is often faster on a CPU: pip install 'gmu_lightning[openvino]'"
    return "openvino", ""


def _queue(calls: Iterable[Call]) -> SimpleQueue[Call]:
    queue: SimpleQueue[Call] = SimpleQueue()
    for call in calls:
        queue.put(call)
    return queue


def _replica(encoder: Encoder) -> Encoder:
    """The same weights in modules of its own: what a network notes down while it runs is no other thread's."""
    return copy.deepcopy(encoder, {id(tensor): tensor for tensor in [*encoder.parameters(), *encoder.buffers()]})


def _by_torch(encoder: Encoder, device: torch.device, precision: str) -> Call:
    def call(inputs: Any) -> Features:
        with torch.inference_mode():
            return run(encoder, inputs, device, precision)

    return call


def _converted(
    encoder: Encoder, name: str, precision: str, sample: Sample, cores: int, sequences: bool
) -> tuple[list[Call], float]:
    """The encoder on another library, one call for each core, and how much it differs from torch. Raises _RefusedError."""
    absent = missing(name)
    if absent:
        raise _RefusedError(f"{' and '.join(absent)} is not installed (pip install 'gmu_lightning[{name}]')")
    cpu = torch.device("cpu")
    own = copy.deepcopy(encoder).to(cpu)
    expected = run(own, sample.many, cpu)
    parts = [part for part in Features._fields if getattr(expected, part) is not None and (sequences or part == "vector")]
    try:
        converted = Converted(own, name, sample, parts)
        calls = converted.calls("float32", cores)
        found = difference(calls[0](sample.many), expected)
        if precision != "float32":
            calls = converted.calls(precision, cores)
            calls[0](sample.many)
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise _RefusedError(f"it cannot run {type(encoder).__name__} ({type(error).__name__}: {said})") from error
    if not found <= MOST_DIFFERENCE:
        raise _RefusedError(f"its features differ from torch's by {found:.1e} of their root mean square")
    return calls, found
