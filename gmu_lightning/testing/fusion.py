"""What every fusion keeps to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from operator import itemgetter
from typing import Any, cast

import torch
from torch import Tensor, nn

from gmu_lightning.fusion import Fusion, LinearHead, MixtureHead
from gmu_lightning.movie import Features, Fused

Inputs = Mapping[str, Any]  # {modality: (B, d_m)}, or {modality: Features} where the fusion reads sequences

GENRES = 4
STEPS = 4
TOLERANCE = 1e-6


@dataclass(frozen=True)
class _Case:
    """A fusion, its head and a batch with every pattern of presence, B = 2 ** M movies; the last one has nothing."""

    make: Callable[[dict[str, int]], Fusion]
    fusion: Fusion
    head: nn.Module
    inputs: Inputs  # float64
    present: Tensor  # (B, M) bool

    def filled(self, value: float) -> Inputs:
        """The inputs with `value` wherever a modality is absent, or a step of its sequence is not real."""

        def numbers(features: Any, there: Tensor) -> Any:
            if isinstance(features, Tensor):
                return features.masked_fill(~there[:, None], value)
            vector, sequence, mask = features
            if sequence is not None:
                sequence = sequence.masked_fill(~(there[:, None] & mask)[..., None], value)
            return Features(numbers(vector, there), sequence, mask)

        return {m: numbers(x, self.present[:, i]) for i, (m, x) in enumerate(self.inputs.items())}


def check_fusion(
    make: Callable[[dict[str, int]], Fusion],
    modalities: Sequence[str] = ("text", "image", "video"),
    sequences: Sequence[str] = (),
) -> None:
    """Raise AssertionError where a fusion breaks what the framework relies on.

    Args:
        make: {modality: d_m} -> a new fusion that `needs` vectors or sequences, of any `dim`; checked in evaluation mode.
        modalities: names, as many as the fusion takes.
        sequences: which of them come as sequences, to a fusion that needs them.
    """
    sizes = {m: 3 + 2 * i for i, m in enumerate(modalities)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fusion = make(sizes).double().eval()
        present = torch.tensor(list(product([True, False], repeat=len(sizes))))
        inputs: dict[str, Any] = {m: torch.randn(len(present), d, dtype=torch.float64) for m, d in sizes.items()}
        if fusion.needs == "sequence":
            inputs = {m: _with_sequence(x) if m in sequences else Features(x) for m, x in inputs.items()}
        case = _Case(make, fusion, fusion.head(GENRES).double().eval(), inputs, present)
        for check in CHECKS + SEQUENCE_CHECKS if fusion.needs == "sequence" else CHECKS + VECTOR_CHECKS:
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
    fusion = case.make(case.fusion.sizes).eval()
    for dtype in (torch.float32, torch.float64):
        cast_to = partial(_numbers_to, dtype)
        fused = fusion.to(dtype)(_each(case.inputs, cast_to), case.present)
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
        alone = case.fusion(_each(case.inputs, itemgetter(row)), case.present[row])
        _assert_same(alone, _at(together, row), "for a movie alone, not in a batch,")


def _check_order(case: _Case) -> None:
    backwards = dict(reversed(list(case.inputs.items())))
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


def _check_padding(case: _Case) -> None:
    """Steps that are not real change nothing, however many stand behind the last."""

    def longer(features: Features) -> Features:
        vector, sequence, mask = features
        if sequence is None or mask is None:
            return features
        more = sequence.new_full((len(sequence), 2, sequence.shape[2]), float("nan"))
        return Features(vector, torch.cat([sequence, more], dim=1), torch.cat([mask, mask.new_zeros(len(mask), 2)], dim=1))

    inputs = {m: longer(features) for m, features in case.inputs.items()}
    _assert_same(case.fusion(inputs, case.present), case.fusion(case.inputs, case.present), "with more padding")


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
        assert torch.allclose(logits, case.head.bias, atol=TOLERANCE), (
            "without any modality the logits are not the mean of the biases"
        )


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
    other = case.make(case.fusion.sizes).double().eval()
    other.load_state_dict(case.fusion.state_dict())
    expected = case.fusion(case.inputs, case.present)
    _assert_same(other(case.inputs, case.present), expected, "after its state_dict went into a new one")


def _check_gradients(case: _Case) -> None:
    for name, gradient in _gradients(case, case.inputs).items():
        assert gradient.any(), f"no gradient reaches {name}"


def _gradients(case: _Case, inputs: Inputs) -> dict[str, Tensor]:
    """Of every parameter of fusion and head, and of every input: its sequence where it has one."""
    leaves: dict[str, Tensor] = {}
    fresh: dict[str, Any] = {}
    for m, x in inputs.items():
        whole = x if isinstance(x, Features) else Features(x)
        leaves[m] = (whole.vector if whole.sequence is None else whole.sequence).clone().requires_grad_()
        there = whole._replace(vector=leaves[m]) if whole.sequence is None else whole._replace(sequence=leaves[m])
        fresh[m] = there if isinstance(x, Features) else there.vector
    logits = case.head(case.fusion(fresh, case.present))
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    named = [*case.fusion.named_parameters(), *case.head.named_parameters("head"), *leaves.items()]
    found = torch.autograd.grad((logits * weights).sum(), [leaf for _, leaf in named], allow_unused=True)
    return {name: torch.zeros_like(leaf) if g is None else g for (name, leaf), g in zip(named, found, strict=True)}


def _with_sequence(vector: Tensor) -> Features:
    """Sequences of 2 to STEPS real steps."""
    lengths = 2 + torch.arange(len(vector)) % (STEPS - 1)
    sequence = torch.randn(len(vector), STEPS, vector.shape[1], dtype=vector.dtype)
    return Features(vector, sequence, torch.arange(STEPS) < lengths[:, None])


def _each(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """Every tensor of the inputs, changed."""
    return {
        m: change(x) if isinstance(x, Tensor) else Features(*(cast(Tensor, None if t is None else change(t)) for t in x))
        for m, x in inputs.items()
    }


def _numbers_to(dtype: torch.dtype, x: Tensor) -> Tensor:
    return x if x.dtype == torch.bool else x.to(dtype)


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
    _check_all_present,
    _check_none_present,
    _check_head,
    _check_state,
    _check_gradients,
)
VECTOR_CHECKS = (_check_leading,)
SEQUENCE_CHECKS = (_check_padding,)
