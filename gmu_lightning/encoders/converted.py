"""An encoder converted, once, for OpenVINO or ONNX Runtime: torch exports its program, for any number and length of contents."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from gmu_lightning.encoders.base import Encoder
from gmu_lightning.movie import Features

PACKAGES = {"openvino": ("openvino",), "onnxruntime": ("onnxruntime", "onnx", "onnxscript")}
Call = Callable[[Any], Features]
_Plain = Callable[[list[Tensor]], list[Tensor]]


def missing(name: str) -> list[str]:
    """The packages of a library that are not installed."""
    return [package for package in PACKAGES[name] if importlib.util.find_spec(package) is None]


@dataclass(frozen=True)
class Sample:
    """Inputs for a trial.

    Attributes:
        many: of two contents or more, the shortest and the longest among them.
        short: of the shortest alone: what has another size here may have any.
    """

    many: Any
    short: Any


class Converted:
    """The converted encoder.

    Args:
        encoder: built, on the CPU, in evaluation mode.
        name: `openvino` or `onnxruntime`, installed.
        parts: the fields of `Features` that are wanted.

    Raises:
        Exception: of whatever kind, where the encoder cannot be converted.
    """

    def __init__(self, encoder: Encoder, name: str, sample: Sample, parts: list[str]):
        self._make = _openvino if name == "openvino" else _onnxruntime
        self._parts = parts
        with _undisturbed():
            self._program, self._shapes = _exported(encoder, sample, parts)

    def calls(self, precision: str, cores: int) -> list[Call]:
        """Inputs -> `Features`, for each of so many threads; `precision` is `float32` or (OpenVINO alone) `bfloat16`."""
        with _undisturbed():
            plain = self._make(self._program, self._shapes, precision, cores)
        return [self._call(one) for one in plain]

    def _call(self, plain: _Plain) -> Call:
        def call(inputs: Any) -> Features:
            found = dict(zip(self._parts, plain(_tensors(inputs)), strict=True))
            mask = found.pop("mask", None)
            return Features(**found, mask=None if mask is None else mask.bool())

        return call


class _Flat(nn.Module):
    """An encoder whose inputs and outputs are plain tensors, as converters want them."""

    def __init__(self, encoder: Encoder, inputs: Any, parts: list[str]):
        super().__init__()
        self.encoder, self.parts = encoder, parts
        self.kind = None if isinstance(inputs, Tensor) else type(inputs)
        self.tensors = None if self.kind is None else [isinstance(part, Tensor) for part in inputs]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Tensors of a batch -> those parts of its `Features`."""
        inputs: Any = tensors[0]
        if self.kind is not None and self.tensors is not None:
            rest = iter(tensors)
            inputs = self.kind(*(next(rest) if there else None for there in self.tensors))
        features = self.encoder(inputs)
        found = (getattr(features, part) for part in self.parts)
        return tuple(part.to(torch.uint8) if part.dtype == torch.bool else part for part in found)


def _exported(encoder: Encoder, sample: Sample, parts: list[str]) -> tuple[Any, list[list[int]]]:
    """The program, for any number of contents of any length, and its inputs' shapes, -1 where they vary."""
    many, short = _tensors(sample.many), _tensors(sample.short)
    shapes = [
        [-1 if axis == 0 or a.shape[axis] != b.shape[axis] else size for axis, size in enumerate(a.shape)]
        for a, b in zip(many, short, strict=True)
    ]
    free = tuple({axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(shape) if size < 0} for shape in shapes)
    with torch.no_grad():
        flat = _Flat(encoder, sample.many, parts).eval()
        return torch.export.export(flat, tuple(many), dynamic_shapes=(free,), strict=False), shapes


def _openvino(program: Any, shapes: list[list[int]], precision: str, cores: int) -> list[_Plain]:
    openvino = _library()
    model = openvino.convert_model(program)
    model.reshape({model.input(n): openvino.PartialShape(shape) for n, shape in enumerate(shapes)})
    hints = {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "float32" else "bf16",
        "NUM_STREAMS": cores,
        "INFERENCE_NUM_THREADS": cores,
    }
    compiled = _core().compile_model(model, "CPU", hints)

    def call_of(request: Any) -> _Plain:
        def call(tensors: list[Tensor]) -> list[Tensor]:
            found = request.infer([tensor.numpy() for tensor in tensors], share_inputs=True)
            return [torch.from_numpy(found[output]) for output in compiled.outputs]

        return call

    return [call_of(compiled.create_infer_request()) for _ in range(cores)]


@cache
def _core() -> Any:
    """OpenVINO, never unloaded: it gives the main thread a stack for signals, and takes it away with its last reference, from
    whichever thread drops that; the next Ctrl-C then ends the process with a segmentation fault."""
    return _library().Core()


def _library() -> Any:
    """Import openvino without its package openvino_telemetry, which reports imports and conversions to a host of the vendor's.

    With None in its place in `sys.modules` it counts as not installed, and OpenVINO falls back to a stub that sends nothing.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _onnxruntime(program: Any, shapes: list[list[int]], precision: str, cores: int) -> list[_Plain]:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import: it would send events to the vendor and keep an id
    import onnxruntime

    model = torch.onnx.export(program, dynamo=True, verbose=False)
    assert model is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def call(tensors: list[Tensor]) -> list[Tensor]:
        found = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)})
        return [torch.from_numpy(array) for array in found]

    return [call] * cores


def _tensors(inputs: Any) -> list[Tensor]:
    """The tensors among an encoder's inputs, row-major as other libraries read them."""
    parts = [inputs] if isinstance(inputs, Tensor) else [part for part in inputs if isinstance(part, Tensor)]
    return [part.contiguous() for part in parts]


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Converters warn and log about what is their own affair."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
