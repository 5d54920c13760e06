"""The rules of fusions: shapes and dtype, absent modalities, the order of movies, gradients, and the state of a fusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from operator import itemgetter
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gmu_lightning.fusion import Fusion, LinearHead, MixtureHead
from gmu_lightning.movie import Features, Fused

Changed = TypeVar("Changed", Tensor, Features, Fused)
Inputs = Mapping[str, Any]  # {modality: (B, d_m)}, or {modality: Features} where the fusion reads sequences

GENRES = 4
STEPS = 4
TOLERANCE = 1e-6  # in float64


@dataclass(frozen=True)
class _Case:
    """A fusion, its head and a batch of B = 2 ** M movies, one per pattern of presence; the last has no modality."""

    make: Callable[[dict[str, int]], Fusion]
    fusion: Fusion
    head: nn.Module
    inputs: Inputs  # float64
    present: Tensor  # (B, M) bool

    def fused(self, inputs: Inputs, present: Tensor | None, condition: str, fusion: Fusion | None = None) -> Fused:
        """Return what the fusion makes of the inputs; an error names the condition under which they were fused."""
        name = type(self.fusion).__name__
        try:
            found = (fusion or self.fusion)(inputs, present)
        except NotImplementedError as error:
            raise AssertionError(f"{name} has no `fuse`: write fuse(self, inputs, present), returning Fused(vector)") from error
        except Exception as error:
            remedy = (
                "keep layers in nn.ModuleList, and new tensors in the inputs' dtype" if "dtype" in str(error) else "correct it"
            )
            raise AssertionError(f"{name} raises {_named(error)} {condition}: {remedy}; the error stands above") from error
        assert isinstance(found, Fused), (
            f"{name} returns a {type(found).__name__}: return gmu_lightning.movie.Fused(vector, parts, gates)"
        )
        return found

    def filled(self, value: float) -> Inputs:
        """Return the inputs with `value` in absent modalities and at padded steps of sequences."""

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
    """Check in evaluation mode, on the CPU, that a fusion follows the framework's rules. Random states stay as they are.

    Args:
        make: the class itself, or a function that returns a new fusion for {modality: d_m}. The fusion `needs` vectors or
            sequences, and has any `dim`.
        modalities: names, in a number that the fusion accepts.
        sequences: the modalities that come as sequences, for a fusion that needs sequences.

    Raises:
        AssertionError: a rule is broken.
    """
    sizes = {m: 3 + 2 * i for i, m in enumerate(modalities)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            fusion = make(sizes)
        except Exception as error:
            raise AssertionError(
                f"making it for sizes={sizes} raises {_named(error)}: take `sizes`, and call super().__init__(sizes, dim) first"
            ) from error
        assert isinstance(fusion, Fusion), (
            f"the object is a {type(fusion).__name__}: give a subclass of gmu_lightning.fusion.Fusion, or its maker"
        )
        assert fusion.takes(modalities), (
            f"{type(fusion).__name__} does not take {'+'.join(modalities)}: give modalities= as its `fewest`, `most` and "
            "`requires` allow, or change these"
        )
        fusion = fusion.double().eval()
        present = torch.tensor(list(product([True, False], repeat=len(sizes))))
        inputs: dict[str, Any] = {m: torch.randn(len(present), d, dtype=torch.float64) for m, d in sizes.items()}
        if fusion.reads_tokens("text"):
            inputs = {m: _with_sequence(x) if m in sequences else Features(x) for m, x in inputs.items()}
        case = _Case(make, fusion, fusion.head(GENRES).double().eval(), inputs, present)
        for check in (*CHECKS, _check_padding if fusion.reads_tokens("text") else _check_leading):
            check(case)


def _named(error: Exception) -> str:
    return f"{type(error).__name__} ({' '.join(str(error).split())})"


def _check_result(case: _Case) -> None:
    (movies, count), size = case.present.shape, case.fusion.size
    fused = case.fused(case.inputs, case.present, "for inputs of float64")
    _check_finite(fused, case.present)
    found = tuple(fused.vector.shape)
    assert found == (movies, size), (
        f"vector is {found}, expected {(movies, size)}: return (B, fusion.size), and set self.size if it is not self.dim"
    )
    if fused.parts is not None:
        found, expected = tuple(fused.parts.shape), (movies, count, size)
        assert found == expected, (
            f"parts are {found}, expected {expected}: stack one part for each modality, (B, M, fusion.size), or return no parts"
        )
        assert torch.allclose(fused.parts.sum(dim=1), fused.vector, atol=TOLERANCE), (
            "parts do not sum to the vector: return parts.sum(dim=-2) as the vector, or return no parts"
        )
    if fused.gates is not None:
        found = tuple(fused.gates.shape)
        assert found in ((movies, count, size), (movies, count, 1)), (
            f"gates are {found}, expected {(movies, count, size)} or {(movies, count, 1)}: stack one for each modality, "
            "(B, M, fusion.size) or (B, M, 1), or return none"
        )
        assert ((fused.gates >= 0) & (fused.gates <= 1)).all(), (
            "a gate lies outside [0, 1]: make it with a sigmoid or a softmax, or return no gates"
        )
        assert not fused.gates[~case.present].any(), (
            "the gate of an absent modality is not 0: return torch.where(present, gates, 0.0)"
        )


def _check_finite(fused: Fused, present: Tensor) -> None:
    for name, tensor in zip(Fused._fields, fused, strict=True):
        if tensor is not None:
            broken = (~torch.isfinite(tensor)).flatten(1).any(dim=1)
            whom = "a movie without any modality" if broken.any() and not present[broken].any() else "some movies"
            assert not broken.any(), (
                f"{name} {'is' if name == 'vector' else 'are'} NaN or infinite for {whom}: divide only by sums that cannot be 0, "
                "as in sums.clamp(min=1e-6)"
            )


def _check_repeated(case: _Case) -> None:
    again, expected = (case.fused(case.inputs, case.present, "for inputs of float64") for _ in range(2))
    _assert_same(again, expected, "when the same inputs are fused twice", "draw random numbers only while self.training is true")


def _check_dtype(case: _Case) -> None:
    fusion = case.make(case.fusion.sizes).eval()
    for dtype in (torch.float32, torch.float64):
        inputs = {m: _changed(x, lambda t: t if t.dtype == torch.bool else t.to(dtype)) for m, x in case.inputs.items()}  # noqa: B023
        fused = case.fused(inputs, case.present, f"for inputs of {dtype}", fusion.to(dtype))
        found = {tensor.dtype for tensor in fused if tensor is not None}
        assert found == {dtype}, (
            f"inputs of {dtype} give results of {', '.join(map(str, found))}: make new tensors in the inputs' dtype, as "
            "torch.zeros_like does"
        )


def _check_absent(case: _Case) -> None:
    """Values in the slot of an absent modality must not change a result or a gradient."""
    remedy = "implement `fuse`, whose inputs are zeros there, or begin `forward` with torch.where(present, x, 0.0)"
    condition = "with 0.0 in the slots of absent modalities"
    expected, expected_gradients = case.fused(case.filled(0.0), case.present, condition), _gradients(case, case.filled(0.0))
    for value in (1.0, float("nan"), float("inf")):
        condition = f"with {value} in the slots of absent modalities"
        _assert_same(case.fused(case.filled(value), case.present, condition), expected, condition, remedy)
        for name, gradient in _gradients(case, case.filled(value)).items():
            assert torch.isfinite(gradient).all(), f"{condition} the gradient of {name} is not finite: {remedy}"
            assert torch.allclose(gradient, expected_gradients[name], atol=TOLERANCE), (
                f"{condition} the gradient of {name} is another: {remedy}"
            )


def _check_alone(case: _Case) -> None:
    together, condition = case.fused(case.inputs, case.present, "for a batch"), "for a movie alone, in no batch"
    for n in range(len(case.present)):
        row = itemgetter(slice(n, n + 1))
        alone = case.fused({m: _changed(x, row) for m, x in case.inputs.items()}, row(case.present), condition)
        _assert_same(alone, _changed(together, row), condition, "compute each movie by itself, without a mean over the batch")


def _check_order_and_none(case: _Case) -> None:
    condition = "with the inputs in another order"
    backwards = case.fused(dict(reversed(list(case.inputs.items()))), case.present, condition)
    expected = case.fused(case.inputs, case.present, "for inputs of float64")
    _assert_same(backwards, expected, condition, "read inputs by name, as in [inputs[m] for m in self.sizes]")
    condition = "with present=None"
    expected = case.fused(case.inputs, torch.ones_like(case.present), "with all modalities present")
    _assert_same(case.fused(case.inputs, None, condition), expected, condition, "take None for `all modalities are present`")


def _check_leading(case: _Case) -> None:
    """A sequence (B, T, d_m) must be fused position by position, under one `present` per movie."""
    sequences = {m: torch.stack([x * (t + 1) for t in range(STEPS)], dim=1) for m, x in case.inputs.items()}
    condition, remedy = "for inputs (B, T, d)", "count axes from the last one, as in dim=-1 and dim=-2"
    whole = case.fused(sequences, case.present, f"{condition}; {remedy}")
    for t in range(STEPS):
        one = case.fused({m: x[:, t] for m, x in sequences.items()}, case.present, "for inputs (B, d)")
        for name, x in zip(Fused._fields, whole, strict=True):
            assert x is None or x.shape[1:2] == (STEPS,), (
                f"inputs (B, T, d) give {name} of shape {tuple(x.shape)}, expected (B, T, ...): {remedy}; `present` is "
                "(B, 1, M, 1) then, so expand what you make of it alone"
            )
        _assert_same(_changed(whole, itemgetter((slice(None), t))), one, "for one position of a sequence", remedy)


def _check_padding(case: _Case) -> None:
    """Padded steps must not change the result, whatever their number."""

    def longer(features: Features) -> Features:
        vector, sequence, mask = features
        if sequence is None or mask is None:
            return features
        more = sequence.new_full((len(sequence), 2, sequence.shape[2]), float("nan"))
        return Features(vector, torch.cat([sequence, more], dim=1), torch.cat([mask, mask.new_zeros(len(mask), 2)], dim=1))

    condition, inputs = "with more padding", {m: longer(features) for m, features in case.inputs.items()}
    found, expected = case.fused(inputs, case.present, condition), case.fused(case.inputs, case.present, "for sequences")
    _assert_same(found, expected, condition, "leave out steps that Features.mask leaves out, as fusion.base.tokens does")


def _check_none_present(case: _Case) -> None:
    """A movie without any modality must get the head's bias as its logits."""
    fused = case.fused(case.inputs, case.present, "for inputs of float64")
    assert not fused.vector[-1].any(), (
        "the vector of a movie without any modality is not 0: return torch.where(present.any(dim=-2), vector, 0.0)"
    )
    logits = case.head(fused)[-1]
    if isinstance(case.head, (LinearHead, MixtureHead)):
        bias = "the bias" if isinstance(case.head, LinearHead) else "the mean of the biases"
        assert torch.allclose(logits, case.head.bias, atol=TOLERANCE), (
            f"without any modality the logits are not {bias}: let the head add nothing else to a vector of zeros"
        )


def _check_head(case: _Case) -> None:
    fused = case.fused(case.inputs, case.present, "for inputs of float64")
    logits = case.head(fused)
    found, expected = tuple(logits.shape), (len(case.present), GENRES)
    assert found == expected, f"logits are {found}, expected {expected}: let head(genres) return `genres` logits for each movie"
    if isinstance(case.head, LinearHead) and fused.parts is not None:
        contributions = case.head.contributions(fused)
        assert contributions is not None, (
            "the fusion has parts, yet its head has no contributions: return them from the head, or return no parts"
        )
        together = contributions.sum(dim=1) + case.head.bias
        assert torch.allclose(together, logits, atol=1e-5), (
            "bias + contributions differ from the logits: let `contributions` apply the head's weight to each part"
        )


def _check_state(case: _Case) -> None:
    other = case.make(case.fusion.sizes).double().eval()
    other.load_state_dict(case.fusion.state_dict())
    condition, remedy = "after its state_dict went into a new one", "keep drawn and learned numbers in parameters or buffers"
    expected = case.fused(case.inputs, case.present, "for inputs of float64")
    _assert_same(case.fused(case.inputs, case.present, condition, other), expected, condition, remedy)


def _check_gradients(case: _Case) -> None:
    for name, gradient in _gradients(case, case.inputs).items():
        assert gradient.any(), f"no gradient reaches {name}: use it in `fuse` without detach(), or leave it out"


def _gradients(case: _Case, inputs: Inputs) -> dict[str, Tensor]:
    """Return the gradients of all parameters and inputs, by name; for a modality with a sequence, that of the sequence."""
    leaves: dict[str, Tensor] = {}
    fresh: dict[str, Any] = {}
    for m, x in inputs.items():
        whole = x if isinstance(x, Features) else Features(x)
        leaves[m] = (whole.vector if whole.sequence is None else whole.sequence).clone().requires_grad_()
        there = whole._replace(vector=leaves[m]) if whole.sequence is None else whole._replace(sequence=leaves[m])
        fresh[m] = there if isinstance(x, Features) else there.vector
    logits = case.head(case.fused(fresh, case.present, "with gradients"))
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    named = [*case.fusion.named_parameters(), *case.head.named_parameters("head"), *leaves.items()]
    found = torch.autograd.grad((logits * weights).sum(), [leaf for _, leaf in named], allow_unused=True)
    return {name: torch.zeros_like(leaf) if g is None else g for (name, leaf), g in zip(named, found, strict=True)}


def _with_sequence(vector: Tensor) -> Features:
    """Return Features with random sequences of 2 to STEPS real steps."""
    lengths = 2 + torch.arange(len(vector)) % (STEPS - 1)
    sequence = torch.randn(len(vector), STEPS, vector.shape[1], dtype=vector.dtype)
    return Features(vector, sequence, torch.arange(STEPS) < lengths[:, None])


def _changed(tensors: Changed, change: Callable[[Tensor], Tensor]) -> Changed:
    """Return a tensor, or a NamedTuple of tensors, with `change` applied to each tensor."""
    if isinstance(tensors, Tensor):
        return change(tensors)
    return tensors._replace(**{name: change(tensor) for name, tensor in tensors._asdict().items() if tensor is not None})


def _assert_same(found: Fused, expected: Fused, condition: str, remedy: str) -> None:
    for name, a, b in zip(Fused._fields, found, expected, strict=True):
        same: Any = a is b if a is None or b is None else a.shape == b.shape and torch.allclose(a, b, atol=TOLERANCE)
        assert same, f"{condition}, {name} {'is' if name == 'vector' else 'are'} another: {remedy}"


CHECKS = [_check_result, _check_repeated, _check_dtype, _check_absent, _check_alone, _check_order_and_none]
CHECKS += [_check_none_present, _check_head, _check_state, _check_gradients]
