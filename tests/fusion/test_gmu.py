"""The three gates: their parameters, their equations, and their values for absent modalities."""

from __future__ import annotations

import pytest
import torch

from gmu_lightning.fusion import GMU
from gmu_lightning.movie import UserError

SIZES = {"text": 5, "image": 3, "video": 4}
VARIANTS = ("original", "hier", "softmax")


def made(variant: str, sizes: dict[str, int] = SIZES, **options) -> GMU:
    torch.manual_seed(3)
    return GMU(variant, sizes, **{"dim": 4} | options).double()


def movies(sizes: dict[str, int] = SIZES, count: int = 6) -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    return {m: torch.randn(count, d, dtype=torch.float64) for m, d in sizes.items()}


def without(*absent: str, sizes: dict[str, int] = SIZES, count: int = 6) -> torch.Tensor:
    return torch.tensor([[m not in absent for m in sizes]] * count)


def raw_gates(fusion: GMU, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return sigma(U_m [x_1; ...; x_M]), computed from the weights, (B, blocks, D)."""
    logits = torch.cat(list(inputs.values()), dim=1) @ fusion.gate.weight.T
    return torch.sigmoid(logits.reshape(len(logits), -1, fusion.dim))


@pytest.mark.parametrize(
    ("variant", "modalities", "parameters"),
    [("original", 2, 2_359_296), ("original", 3, 7_077_888), ("hier", 3, 5_308_416), ("softmax", 3, 2_359_296)],
)
def test_number_of_parameters_at_768(variant, modalities, parameters):
    fusion = GMU(variant, dict.fromkeys(list(SIZES)[:modalities], 768), dim=768)
    assert sum(p.numel() for p in fusion.parameters()) == parameters


@pytest.mark.parametrize(
    ("variant", "options", "shapes"),
    [
        ("original", {}, {"gate.weight": (12, 12)}),
        ("hier", {}, {"gate.weight": (8, 12)}),
        ("softmax", {}, {"gate.weight": (4, 4), "transform.text.weight": (4, 5), "transform.image.weight": (4, 3)}),
        ("softmax", {"gate_input": "concat"}, {"gate.weight": (12, 12)}),
    ],
)
def test_state_dict_has_exactly_the_published_names(variant, options, shapes):
    hidden = {"hidden.text.weight": (4, 5), "hidden.image.weight": (4, 3), "hidden.video.weight": (4, 4)}
    assert {key: tuple(t.shape) for key, t in made(variant, **options).state_dict().items()} == hidden | shapes


def test_tied_pair_has_one_gate_block():
    assert made("original", {"text": 5, "image": 3}).gate.weight.shape == (4, 8)


def test_bias_applies_to_every_layer():
    biased = {key for key in made("softmax", bias=True).state_dict() if key.endswith(".bias")}
    assert biased == {f"{layer}.bias" for layer in ("hidden.text", "hidden.image", "hidden.video", "gate")} | {
        "transform.text.bias",
        "transform.image.bias",
    }


@pytest.mark.parametrize("variant", ["hier", "softmax"])
def test_hier_and_softmax_gates_sum_to_one_over_present(variant):
    fusion, inputs = made(variant), movies()
    for absent in [(), ("text",), ("image",), ("video",), ("text", "video")]:
        gates = fusion(inputs, without(*absent)).gates
        assert torch.allclose(gates.sum(dim=1), torch.ones(6, 4, dtype=torch.float64))
    assert fusion.open_threshold == 1 / 3


def test_untied_original_gates_do_not_sum_to_one():
    fusion = made("original")
    assert not torch.isclose(fusion(movies()).gates.sum(dim=1), torch.tensor(1.0, dtype=torch.float64), atol=1e-3).any()
    assert fusion.open_threshold == 0.5


@pytest.mark.parametrize(("here", "gone"), [("text", "image"), ("image", "text")])
def test_tied_pair_gives_a_lone_modality_gate_one(here, gone):
    sizes = {"text": 5, "image": 3}
    fused = made("original", sizes)(movies(sizes), without(gone, sizes=sizes))
    order = list(sizes)
    assert (fused.gates[:, order.index(here)] == 1).all()
    assert (fused.gates[:, order.index(gone)] == 0).all()


def test_original_keeps_the_gates_of_present_modalities():
    fusion, inputs = made("original"), movies()
    gates = fusion(inputs, without("image")).gates
    expected = raw_gates(fusion, inputs | {"image": torch.zeros_like(inputs["image"])})
    assert torch.allclose(gates[:, [0, 2]], expected[:, [0, 2]])
    assert (gates[:, 1] == 0).all()


def test_hier_follows_the_order_of_modalities():
    fusion, inputs = made("hier"), movies()
    s = raw_gates(fusion, inputs)
    expected = torch.stack([s[:, 0], s[:, 1] * (1 - s[:, 0]), (1 - s[:, 0]) * (1 - s[:, 1])], dim=1)
    assert torch.allclose(fusion(inputs).gates, expected)


def test_hier_gives_the_rest_to_the_last_present_modality():
    fusion, inputs = made("hier"), movies()
    s = raw_gates(fusion, inputs | {"video": torch.zeros_like(inputs["video"])})
    gates = fusion(inputs, without("video")).gates
    assert torch.allclose(gates, torch.stack([s[:, 0], 1 - s[:, 0], torch.zeros_like(s[:, 0])], dim=1))
    alone = fusion(inputs, without("image", "video")).gates
    assert torch.equal(alone[:, 0], torch.ones(6, 4, dtype=torch.float64))


def test_hier_skips_an_absent_modality_in_the_middle():
    fusion, inputs = made("hier"), movies()
    s = raw_gates(fusion, inputs | {"image": torch.zeros_like(inputs["image"])})
    gates = fusion(inputs, without("image")).gates
    assert torch.allclose(gates, torch.stack([s[:, 0], torch.zeros_like(s[:, 0]), 1 - s[:, 0]], dim=1))


def test_softmax_over_present_modalities_shares_one_matrix():
    fusion, inputs = made("softmax"), movies()
    transformed = [
        inputs["text"] @ fusion.transform["text"].weight.T,
        inputs["image"] @ fusion.transform["image"].weight.T,
        inputs["video"],  # already of the common size
    ]
    logits = torch.stack([t @ fusion.gate.weight.T for t in transformed], dim=1)
    assert torch.allclose(fusion(inputs).gates, torch.softmax(logits, dim=1))
    gates = fusion(inputs, without("text")).gates
    assert torch.allclose(gates[:, 1:], torch.softmax(logits[:, 1:], dim=1))
    assert (gates[:, 0] == 0).all()


def test_softmax_gates_differ_from_equal_shares():
    gates = made("softmax")(movies()).gates
    assert gates.std(dim=0).min() > 1e-3
    assert (gates - 1 / 3).abs().max() > 0.1


def test_softmax_logit_depends_on_its_modality_unless_concat():
    inputs = movies()
    changed = inputs | {"video": inputs["video"] + 1}
    for gate_input, unmoved in (("self", True), ("concat", False)):
        fusion = made("softmax", gate_input=gate_input)
        before, after = (fusion(x).gates for x in (inputs, changed))
        ratio_before, ratio_after = before[:, 0] / before[:, 1], after[:, 0] / after[:, 1]
        assert torch.allclose(ratio_before, ratio_after) == unmoved


def test_softmax_concat_has_a_row_block_per_modality():
    fusion, inputs = made("softmax", gate_input="concat"), movies()
    logits = (torch.cat(list(inputs.values()), dim=1) @ fusion.gate.weight.T).reshape(6, 3, 4)
    assert torch.allclose(fusion(inputs).gates, torch.softmax(logits, dim=1))


def test_hier_equals_original_for_two_modalities():
    sizes = {"text": 5, "image": 3}
    original, hier = made("original", sizes), made("hier", sizes)
    hier.load_state_dict(original.state_dict())
    patterns = torch.tensor([[True, True], [True, False], [False, True], [False, False]] * 2)[:6]
    for a, b in zip(original(movies(sizes), patterns), hier(movies(sizes), patterns), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_modality_has_its_own_projection(variant):
    fusion, inputs = made(variant, dict.fromkeys(SIZES, 4)), movies(dict.fromkeys(SIZES, 4))
    fused = fusion(inputs)
    for i, m in enumerate(SIZES):
        hidden = torch.tanh(inputs[m] @ fusion.hidden[m].weight.T)
        assert torch.allclose(fused.parts[:, i], fused.gates[:, i] * hidden)


@pytest.mark.parametrize(
    ("variant", "options", "sentence"),
    [
        ("hier", {"gate_input": "concat"}, "fusion.gate_input=concat is for gmu_softmax: the hier gate sees all modalities"),
    ],
)
def test_wrong_arguments_are_refused(variant, options, sentence):
    with pytest.raises(UserError, match=sentence):
        made(variant, **options)
