"""Modalities hear of each other through the bottleneck alone, and of those only that are there."""

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


@pytest.mark.parametrize(("layers", "fusion_layer", "told"), [(2, 0, True), (3, 1, True), (2, 1, False), (1, 0, False)])
def test_it_takes_one_layer_to_tell_and_one_to_hear(layers, fusion_layer, told):
    fusion, inputs = made(layers=layers, fusion_layer=fusion_layer), movies()
    a, b = (fusion(x).parts[:, 0] for x in (inputs, changed(inputs)))
    assert torch.allclose(a, b, atol=1e-12) != told


def test_who_is_absent_tells_nothing():
    fusion, inputs = made(), movies()
    present = torch.tensor([[True, True, False]] * 2)
    assert torch.equal(fusion(changed(inputs), present).parts, fusion(inputs, present).parts)


def test_parts_are_shares_of_those_present():
    fusion, inputs = made(layers=1), movies()  # nothing is heard within one layer
    whole = fusion(inputs).parts
    pair = fusion(inputs, torch.tensor([[True, False, True]] * 2)).parts
    assert torch.allclose(whole[:, [0, 2]] * 3, pair[:, [0, 2]] * 2)
    assert not pair[:, 1].any()


def test_the_bottleneck_is_the_mean_of_what_those_present_say():
    fusion, inputs = made(), movies()
    states, masks = zip(*(fusion._begun(m, inputs[m], torch.ones(2, dtype=torch.bool)) for m in SIZES), strict=True)
    states, said = fusion._layer(0, states, masks, fusion.bottlenecks.expand(2, -1, -1))
    for present, who in ((torch.ones(2, 3, dtype=torch.bool), [0, 1, 2]), (torch.tensor([[True, True, False]] * 2), [0, 1])):
        heard = fusion._layer(1, states, masks, said[:, who].mean(dim=1))[0][0][:, 0]
        assert torch.allclose(fusion(inputs, present).parts[:, 0], fusion.norms["text"](heard) / len(who))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"fusion_layer": 2}, "fusion.fusion_layer=2 of fusion.layers=2: give one from 0"),
        ({"bottlenecks": 0}, "fusion.bottlenecks=0: give 1 or more"),
        ({"heads": 3}, "fusion.heads=3 does not divide 4 numbers"),
    ],
)
def test_a_number_that_makes_no_sense_ends_in_a_sentence(options, sentence):
    with pytest.raises(UserError, match=sentence):
        made(**options)


def test_positions_do_not_outweigh_what_is_said():
    fusion, inputs = made(dim=64, heads=4), movies()
    there = torch.ones(2, dtype=torch.bool)
    louder = inputs["video"]._replace(sequence=2 * inputs["video"].sequence)
    (once, _), (twice, _) = fusion._begun("video", inputs["video"], there), fusion._begun("video", louder, there)
    said = inputs["video"].sequence @ fusion.project["video"].weight.T
    assert torch.allclose((twice - once)[0, 1:], 8 * said[0], atol=1e-9)  # sqrt(64); the second movie is padded
