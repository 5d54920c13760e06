"""The baselines of the gates, on examples small enough to work out by hand."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

from gmu_lightning.fusion import (
    Concat,
    Fusion,
    Late,
    LowRank,
    Max,
    Mean,
    MixtureHead,
    MixtureOfExperts,
    SelfGate,
    SingleModality,
    Sum,
)
from gmu_lightning.movie import Fused

SIZES = {"text": 2, "image": 3, "video": 2}
PRESENT = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, False]])


def made(cls: type[Fusion], **options) -> Fusion:
    torch.manual_seed(1)
    return cls(sizes=SIZES, **{"dim": 4} | options).double()


def inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    return {m: torch.randn(len(PRESENT), d, dtype=torch.float64) for m, d in SIZES.items()}


def layer(linear: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    """Return W x + b, computed by NumPy."""
    bias = 0.0 if linear.bias is None else linear.bias.detach().numpy()
    return x @ linear.weight.detach().numpy().T + bias


def hidden(fusion: Fusion) -> np.ndarray:
    """Return tanh(W_m x_m + b_m), computed from the parameters, (B, M, D)."""
    return np.stack([np.tanh(layer(fusion.hidden[m], x.numpy())) for m, x in inputs().items()], axis=1)


def same(found: torch.Tensor, expected: object) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(expected), rtol=0, atol=1e-12)


def test_single_modality_has_one_hidden_layer_or_none():
    torch.manual_seed(0)
    x = torch.randn(3, 2, dtype=torch.float64)
    present = torch.tensor([[True], [True], [False]])
    fusion = SingleModality({"text": 2}, dim=4).double()
    expected = np.tanh(layer(fusion.hidden["text"], x.numpy())) * present.numpy()
    same(fusion({"text": x}, present).vector, expected)
    bare = SingleModality({"text": 2}, hidden=False)
    assert bare.size == 2
    assert not list(bare.parameters())
    same(bare({"text": x}, present).vector, [*x[:2].tolist(), [0, 0]])


def test_mean_is_over_present_modalities():
    fusion = made(Mean)
    fused, h = fusion(inputs(), PRESENT), hidden(fusion)
    same(fused.vector, [h[0].mean(axis=0), (h[1, 0] + h[1, 2]) / 2, h[2, 1], np.zeros(4)])
    same(fused.gates[:, :, 0], [[1 / 3] * 3, [1 / 2, 0, 1 / 2], [0, 1, 0], [0, 0, 0]])


def test_concat_blocks_are_zero_for_absent_modalities():
    fusion = made(Concat)
    fused, h = fusion(inputs(), PRESENT), hidden(fusion)
    same(fused.vector, (h * PRESENT.numpy()[:, :, None]).reshape(4, 12))
    parts = np.zeros((3, 12))
    for m in range(3):
        parts[m, 4 * m : 4 * m + 4] = h[0, m]
    same(fused.parts[0], parts)
    assert fused.gates is None


def test_concat_without_hidden_layers_joins_the_inputs():
    fusion = made(Concat, hidden=False)
    assert fusion.size == 7
    same(fusion(inputs()).vector, torch.cat(list(inputs().values()), dim=1))
    same(fusion(inputs(), PRESENT).parts[0, 1], [0, 0, *inputs()["image"][0].tolist(), 0, 0])


def test_sum_is_linear():
    fusion = made(Sum, bias=False)
    projected = np.arctanh(hidden(fusion)) * PRESENT.numpy()[:, :, None]
    same(fusion(inputs(), PRESENT).vector, projected.sum(axis=1))
    doubled = fusion({m: 2 * x for m, x in inputs().items()}).vector
    same(doubled, 2 * fusion(inputs()).vector.detach())


def test_max_is_over_present_even_if_all_are_negative():
    fusion = made(Max)
    fused, h = fusion(inputs(), PRESENT), hidden(fusion)
    same(fused.vector, [h[0].max(axis=0), np.maximum(h[1, 0], h[1, 2]), h[2, 1], np.zeros(4)])
    assert h[2, 1].min() < 0
    assert fused.parts is None


def probabilities(fusion: Fusion, pi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the head's probabilities and those of the formula sum_m pi_m sigma(v_mc . h_m + b_mc), both (B, C)."""
    head = fusion.head(5).double()
    logits = head(fusion(inputs(), PRESENT))
    experts = [(e.weight.detach().numpy(), e.bias.detach().numpy()) for e in head.experts]
    h = hidden(fusion)
    each = np.stack([1 / (1 + np.exp(-(h[:, m] @ v.T + b))) for m, (v, b) in enumerate(experts)], axis=1)
    return torch.sigmoid(logits).detach().numpy(), (pi[:, :, None] * each).sum(axis=1)


def test_late_averages_probabilities_of_present_modalities():
    found, expected = probabilities(made(Late), np.array([[1 / 3] * 3, [1 / 2, 0, 1 / 2], [0, 1, 0], [0, 0, 0]]))
    np.testing.assert_allclose(found[:3], expected[:3], rtol=0, atol=1e-12)


def test_tied_moe_weighs_by_a_softmax_over_present():
    fusion = made(MixtureOfExperts, tied=True)
    x = np.concatenate([v.numpy() * PRESENT[:, i, None].numpy() for i, v in enumerate(inputs().values())], axis=1)
    raised = np.exp(layer(fusion.gate, x / math.sqrt(7))) * PRESENT.numpy()
    pi = raised / np.maximum(raised.sum(axis=1, keepdims=True), 1e-300)
    same(fusion(inputs(), PRESENT).gates[:, :, 0], pi)
    found, expected = probabilities(fusion, pi)
    np.testing.assert_allclose(found[:3], expected[:3], rtol=0, atol=1e-12)


def test_moe_has_a_softmax_per_genre():
    fusion = made(MixtureOfExperts)
    head = fusion.head(5).double()
    x = np.concatenate([v.numpy() * PRESENT[:, i, None].numpy() for i, v in enumerate(inputs().values())], axis=1)
    raised = np.exp(layer(head.gate, x / math.sqrt(7))).reshape(4, 3, 5) * PRESENT.numpy()[:, :, None]
    pi = raised / np.maximum(raised.sum(axis=1, keepdims=True), 1e-300)
    h = hidden(fusion)
    each = np.stack([1 / (1 + np.exp(-layer(e, h[:, m]))) for m, e in enumerate(head.experts)], axis=1)
    found = torch.sigmoid(head(fusion(inputs(), PRESENT))).detach().numpy()
    np.testing.assert_allclose(found[:3], (pi * each).sum(axis=1)[:3], rtol=0, atol=1e-12)


def test_maxout_experts_read_the_inputs():
    fusion = made(MixtureOfExperts, head="maxout").eval()
    head = fusion.head(5).double().eval()
    torch.nn.init.zeros_(head.gate.weight)
    torch.nn.init.zeros_(head.gate.bias)
    assert [expert.size for expert in head.experts] == list(SIZES.values())
    assert not fusion.hidden
    present = torch.ones(4, 3, dtype=torch.bool)
    each = [expert(Fused(x)) for expert, x in zip(head.experts, inputs().values(), strict=True)]
    expected = torch.sigmoid(torch.stack(each)).mean(dim=0)  # equal shares
    same(torch.sigmoid(head(fusion(inputs(), present))), expected.detach())


def test_maxout_experts_normalise_over_present_movies():
    fusion = made(Late, head="maxout")
    head = fusion.head(5).double().train()
    head(fusion(inputs(), PRESENT))
    alone = made(Late, head="maxout").head(5).double().train()
    for m, x in enumerate(inputs().values()):
        alone.experts[m](Fused(x[PRESENT[:, m]]))
        same(head.experts[m].norms[0].running_mean, alone.experts[m].norms[0].running_mean)


def test_self_gate_reads_one_modality_per_gate():
    fusion = made(SelfGate)
    x = {m: v.numpy() for m, v in inputs().items()}
    h = hidden(fusion) * np.stack([1 / (1 + np.exp(-layer(fusion.gate[m], x[m]))) for m in SIZES], axis=1)
    fused = fusion(inputs(), PRESENT)
    same(fused.vector, [h[0].mean(axis=0), (h[1, 0] + h[1, 2]) / 2, h[2, 1], np.zeros(4)])
    assert fused.gates is None
    joined = made(SelfGate, join="concat")
    same(joined(inputs(), PRESENT).vector, (h * PRESENT.numpy()[:, :, None]).reshape(4, 12))
    assert joined.size == 12


@pytest.mark.parametrize(("join", "other"), [("mean", Mean), ("concat", Concat)])
def test_self_gate_without_gates_equals_mean_or_concat(join, other):
    same(made(SelfGate, join=join, gate=False)(inputs(), PRESENT).vector, made(other)(inputs(), PRESENT).vector.detach())


@pytest.mark.parametrize(("name", "function"), [("relu", torch.relu), ("gelu", torch.nn.functional.gelu)])
def test_self_gate_has_other_activations(name, function):
    fusion = made(SelfGate, activation=name, gate=False)
    expected = sum(function(fusion.hidden[m](x)) for m, x in inputs().items()) / 3
    same(fusion(inputs()).vector, expected.detach())


def mixture(pi: list[float], a: list[float], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return the mixture head's logit for experts with the logits a_m and weights pi_m."""
    head = MixtureHead([torch.nn.Linear(1, 1) for _ in pi]).to(dtype)
    for expert, value in zip(head.experts, a, strict=True):
        torch.nn.init.constant_(expert.weight, value)
        torch.nn.init.zeros_(expert.bias)
    return head(Fused(torch.ones(1, len(pi), dtype=dtype), None, torch.tensor(pi, dtype=dtype).view(1, -1, 1)))


@pytest.mark.parametrize("pi", [[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])
@pytest.mark.parametrize("a", [[0.3, -1.2], [4.0, -5.0], [0.0, 0.0]])
def test_mixture_logit_matches_the_mixed_probability(pi, a):
    p = sum(w / (1 + math.exp(-x)) for w, x in zip(pi, a, strict=True))
    assert mixture(pi, a).item() == pytest.approx(math.log(p / (1 - p)), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mixture_logit_is_exact_in_the_tails(dtype):
    # p = (e^-80 + e^-90) / 2 up to e^-160: its logit is log(p), where 1 - p is 1 in either precision.
    assert mixture([0.5, 0.5], [-80.0, -90.0], dtype).item() == pytest.approx(-80 + math.log((1 + math.exp(-10)) / 2), rel=1e-6)
    assert mixture([0.5, 0.5], [80.0, 90.0], dtype).item() == pytest.approx(80 - math.log((1 + math.exp(-10)) / 2), rel=1e-6)
    assert mixture([0.0, 1.0], [-80.0, 80.0], dtype).item() == pytest.approx(80, rel=1e-6)


def test_mixture_head_without_modalities_gives_the_mean_bias():
    head = MixtureHead([torch.nn.Linear(1, 1) for _ in range(2)])
    for expert, bias in zip(head.experts, (1.0, 4.0), strict=True):
        torch.nn.init.constant_(expert.bias, bias)
    assert head(Fused(torch.zeros(1, 2), None, torch.zeros(1, 2, 1))).item() == 2.5


def test_lmf_factors_start_at_one():
    fusion = made(LowRank)
    for layer in fusion.factors.values():
        assert (layer.bias == 1).all()


def test_lmf_sums_products_over_ranks():
    fusion = made(LowRank, rank=2)
    expected = np.zeros((4, 4))
    for n, r, k in product(range(4), range(2), range(4)):
        if not PRESENT[n].any():
            continue
        value = 1.0
        for i, (m, x) in enumerate(inputs().items()):
            if PRESENT[n, i]:
                factor = fusion.factors[m]
                value *= (factor.weight[r * 4 + k] @ x[n] + factor.bias[r * 4 + k]).item()
        expected[n, k] += value
    same(fusion(inputs(), PRESENT).vector, expected)
