"""Modalities exchange information only through the bottleneck, and absent ones have no effect."""

from __future__ import annotations

import pytest
import torch

from gmu_lightning.fusion import Bottleneck
from gmu_lightning.movie import Features, UserError

SIZES = {"text": 3, "video": 4, "metadata": 5}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def made(**options) -> Bottleneck:
    torch.manual_seed(0)
    options = {"dim": 4, "layers": 2, "fusion_layer": 0, "heads": 1} | options
    return Bottleneck(SIZES, ("text", "video"), **options).double().eval()


def movies() -> dict[str, Features]:
    torch.manual_seed(1)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    inputs = {m: Features(torch.randn(2, d, dtype=torch.float64)) for m, d in SIZES.items()}
    return inputs | {m: inputs[m]._replace(sequence=torch.randn(2, 3, SIZES[m]).double(), mask=mask) for m in ("text", "video")}


def changed(inputs: dict[str, Features]) -> dict[str, Features]:
    return inputs | {"metadata": Features(inputs["metadata"].vector.flip(1))}


@pytest.mark.parametrize(("layers", "fusion_layer", "crosses"), [(2, 0, True), (3, 1, True), (2, 1, False), (1, 0, False)])
def test_information_crosses_in_two_fusion_layers(layers, fusion_layer, crosses):
    fusion, inputs = made(layers=layers, fusion_layer=fusion_layer), movies()
    a, b = (fusion(x).parts[:, 0] for x in (inputs, changed(inputs)))
    assert torch.allclose(a, b, atol=1e-12) != crosses


def test_absent_modality_has_no_effect():
    fusion, inputs = made(), movies()
    present = torch.tensor([[True, True, False]] * 2)
    assert torch.equal(fusion(changed(inputs), present).parts, fusion(inputs, present).parts)


def test_parts_are_equal_shares_of_present_modalities():
    fusion, inputs = made(layers=1), movies()  # one layer exchanges no information
    whole = fusion(inputs).parts
    pair = fusion(inputs, torch.tensor([[True, False, True]] * 2)).parts
    assert torch.allclose(whole[:, [0, 2]] * 3, pair[:, [0, 2]] * 2)
    assert not pair[:, 1].any()


def test_bottleneck_averages_present_updates():
    fusion, inputs = made(), movies()
    states, masks = zip(*(fusion._embedded(m, inputs[m], torch.ones(2, dtype=torch.bool)) for m in SIZES), strict=True)
    states, updates = fusion._layer(0, states, masks, fusion.bottlenecks.expand(2, -1, -1))
    for present, there in ((torch.ones(2, 3, dtype=torch.bool), [0, 1, 2]), (torch.tensor([[True, True, False]] * 2), [0, 1])):
        cls = fusion._layer(1, states, masks, updates[:, there].mean(dim=1))[0][0][:, 0]
        assert torch.allclose(fusion(inputs, present).parts[:, 0], fusion.norms["text"](cls) / len(there))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"fusion_layer": 2}, "fusion.fusion_layer=2 of fusion.layers=2: give one from 0"),
        ({"heads": 3}, "fusion.heads=3 does not divide 4 numbers"),
    ],
)
def test_wrong_numbers_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        made(**options)


def test_projections_are_scaled_up_to_outweigh_positions():
    fusion, inputs = made(dim=64, heads=4), movies()
    there = torch.ones(2, dtype=torch.bool)
    louder = inputs["video"]._replace(sequence=2 * inputs["video"].sequence)
    (once, _), (twice, _) = fusion._embedded("video", inputs["video"], there), fusion._embedded("video", louder, there)
    projected = inputs["video"].sequence @ fusion.project["video"].weight.T
    assert torch.allclose((twice - once)[0, 1:], 8 * projected[0], atol=1e-9)  # sqrt(64); the second movie is padded
