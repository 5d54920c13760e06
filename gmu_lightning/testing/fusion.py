"""What every fusion keeps to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor, nn

from gmu_lightning.fusion import Fusion, LinearHead, MixtureHead
from gmu_lightning.movie import Fused

GENRES = 4
TOLERANCE = 1e-6


@dataclass(frozen=True)
class _Case:
    """A fusion, its head and a batch with every pattern of presence, B = 2 ** M movies; the last one has nothing."""

    make: Callable[[dict[str, int]], Fusion]
    fusion: Fusion
    head: nn.Module
    inputs: dict[str, Tensor]  # (B, d_m) float64
    present: Tensor  # (B, M) bool

    def filled(self, value: float) -> dict[str, Tensor]:
        """The inputs with `value` wherever a modality is absent."""
        return {m: x.masked_fill(~self.present[:, i, None], value) for i, (m, x) in enumerate(self.inputs.items())}


def check_fusion(make: Callable[[dict[str, int]], Fusion], modalities: Sequence[str] = ("text", "image", "video")) -> None:
    """Raise AssertionError where a fusion breaks what the framework relies on.

    Args:
        make: {modality: d_m} -> a new fusion of vectors, in training mode or not, of any `dim`.
        modalities: names, as many as the fusion takes.
    """
    sizes = {m: 3 + 2 * i for i, m in enumerate(modalities)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fusion = make(sizes).double()
        present = torch.tensor(list(product([True, False], repeat=len(sizes))))
        inputs = {m: torch.randn(len(present), d, dtype=torch.float64) for m, d in sizes.items()}
        case = _Case(make, fusion, fusion.head(GENRES).double(), inputs, present)
        for check in CHECKS:
            check(case)


def _check_result(case: _Case) -> None:
    movies, count = case.present.shape
    fused = case.fusion(case.inputs, case.present)
    size = case.fusion.size
    found = tuple(fused.vector.shape)
    assert found == (movies, size), f"vector is {found}, expected {(movies, size)}: (B, fusion.size)"
    if fused.parts is not None:
        found = tuple(fused.parts.shape)
        assert found == (movies, count, size), f"parts are {found}, expected {(movies, count, size)}: (B, M, fusion.size)"
        assert torch.allclose(fused.parts.sum(dim=1), fused.vector, atol=TOLERANCE), "parts do not sum to the vector"
    if fused.gates is not None:
        found = tuple(fused.gates.shape)
        assert found[:2] == (movies, count), f"gates are {found}, expected ({movies}, {count}, ...): (B, M, D)"
        assert ((fused.gates >= 0) & (fused.gates <= 1)).all(), "a gate lies outside [0, 1]"
        assert not fused.gates[~case.present].any(), "the gate of an absent modality is not 0"


def _check_dtype(case: _Case) -> None:
    fusion = case.make(case.fusion.sizes)
    for dtype in (torch.float32, torch.float64):
        fused = fusion.to(dtype)({m: x.to(dtype) for m, x in case.inputs.items()}, case.present)
        found = {tensor.dtype for tensor in fused if tensor is not None}
        assert found == {dtype}, f"inputs of {dtype} come out as {', '.join(map(str, found))}"


def _check_absent(case: _Case) -> None:
    """What stands in the slot of an absent modality changes neither a number nor a gradient."""
    expected, expected_gradients = case.fusion(case.filled(0.0), case.present), _gradients(case, case.filled(0.0))
    for value in (1.0, float("nan"), float("inf")):
        what = f"with {value} in the slots of absent modalities"
        _assert_same(case.fusion(case.filled(value), case.present), expected, what)
        for name, gradient in _gradients(case, case.filled(value)).items():
            assert torch.isfinite(gradient).all(), f"{what} the gradient of {name} is not finite"
            assert torch.allclose(gradient, expected_gradients[name], atol=TOLERANCE), f"{what} the gradient of {name} changes"


def _check_alone(case: _Case) -> None:
    together = case.fusion(case.inputs, case.present)
    for n in range(len(case.present)):
        row = slice(n, n + 1)
        alone = case.fusion({m: x[row] for m, x in case.inputs.items()}, case.present[row])
        _assert_same(alone, _at(together, row), "for a movie alone, not in a batch,")


def _check_order(case: _Case) -> None:
    backwards = dict(reversed(case.inputs.items()))
    _assert_same(case.fusion(backwards, case.present), case.fusion(case.inputs, case.present), "with the inputs in another order")


def _check_leading(case: _Case) -> None:
    """Position by position along a sequence (B, T, d_m), under one `present` per movie."""
    steps = 3
    sequences = {m: torch.stack([x * (t + 1) for t in range(steps)], dim=1) for m, x in case.inputs.items()}
    whole = case.fusion(sequences, case.present)
    for t in range(steps):
        one = case.fusion({m: x[:, t] for m, x in sequences.items()}, case.present)
        missing = [tensor is not None and tensor.shape[1:2] != (steps,) for tensor in whole]
        assert not any(missing), "inputs (B, T, d) do not come out as (B, T, ...)"
        _assert_same(_at(whole, (slice(None), t)), one, "for one position of a sequence")


def _check_all_present(case: _Case) -> None:
    everything = torch.ones_like(case.present)
    _assert_same(case.fusion(case.inputs), case.fusion(case.inputs, everything), "with present=None, which means all present,")


def _check_none_present(case: _Case) -> None:
    """Where a movie has nothing the bias alone decides."""
    fused = case.fusion(case.inputs, case.present)
    assert not case.present[-1].any()
    assert not fused.vector[-1].any(), "the vector of a movie without any modality is not 0"
    logits = case.head(fused)[-1]
    if isinstance(case.head, LinearHead):
        assert torch.allclose(logits, case.head.bias, atol=TOLERANCE), "without any modality the logits are not the bias"
    if isinstance(case.head, MixtureHead):
        bias = torch.stack([cast(Tensor, expert.bias) for expert in case.head.experts]).mean(dim=0)
        assert torch.allclose(logits, bias, atol=TOLERANCE), "without any modality the logits are not the mean of the biases"


def _check_head(case: _Case) -> None:
    fused = case.fusion(case.inputs, case.present)
    logits = case.head(fused)
    found, expected = tuple(logits.shape), (len(case.present), GENRES)
    assert found == expected, f"logits are {found}, expected {expected}: (B, C)"
    if isinstance(case.head, LinearHead) and fused.parts is not None:
        contributions = case.head.contributions(fused)
        assert contributions is not None, "parts are there, and no contributions"
        assert torch.allclose(contributions.sum(dim=1) + case.head.bias, logits, atol=1e-5), (
            "bias + contributions are not the logits"
        )


def _check_state(case: _Case) -> None:
    other = case.make(case.fusion.sizes).double()
    other.load_state_dict(case.fusion.state_dict())
    expected = case.fusion(case.inputs, case.present)
    _assert_same(other(case.inputs, case.present), expected, "after its state_dict went into a new one")


def _check_gradients(case: _Case) -> None:
    for name, gradient in _gradients(case, case.inputs).items():
        assert gradient.any(), f"no gradient reaches {name}"


def _gradients(case: _Case, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of every parameter of fusion and head, and of every input."""
    leaves = {m: x.clone().requires_grad_() for m, x in inputs.items()}
    logits = case.head(case.fusion(leaves, case.present))
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    named = [*case.fusion.named_parameters(), *case.head.named_parameters("head"), *leaves.items()]
    found = torch.autograd.grad((logits * weights).sum(), [leaf for _, leaf in named], allow_unused=True)
    return {name: torch.zeros_like(leaf) if g is None else g for (name, leaf), g in zip(named, found, strict=True)}


def _at(fused: Fused, index: Any) -> Fused:
    return Fused(*(cast(Tensor, None if tensor is None else tensor[index]) for tensor in fused))


def _assert_same(found: Fused, expected: Fused, what: str) -> None:
    for name, a, b in zip(Fused._fields, found, expected, strict=True):
        same: Any = a is b if a is None or b is None else a.shape == b.shape and torch.allclose(a, b, atol=TOLERANCE)
        assert same, f"{what} {name} {'is' if name == 'vector' else 'are'} another"


CHECKS = (
    _check_result,
    _check_dtype,
    _check_absent,
    _check_alone,
    _check_order,
    _check_leading,
    _check_all_present,
    _check_none_present,
    _check_head,
    _check_state,
    _check_gradients,
)
