from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gmu_lightning.encoders.temporal import AttentionPool, SequenceEncoder, SequenceInputs, TimeConv, TimeTransformer, averaged
from gmu_lightning.movie import UserError
from gmu_lightning.nn.transformer import sinusoids

SIZE = 6


def built(encoder: SequenceEncoder) -> SequenceEncoder:
    torch.manual_seed(0)
    encoder.adopt(encoder.preparation.restored({"size": SIZE}))
    encoder.build()
    return encoder.eval()


def steps(length: int, seed: int = 0) -> SequenceInputs:
    values = torch.randn(1, length, SIZE, generator=torch.Generator().manual_seed(seed))
    return SequenceInputs(values, torch.ones(1, length, dtype=torch.bool))


def test_attention_weights_steps_by_their_scores():
    encoder = built(AttentionPool("video", dim=4, hidden=3))
    nn.init.zeros_(encoder.network["score"].weight)
    features = encoder(steps(5))
    assert torch.allclose(features.vector, features.sequence.mean(dim=1), atol=1e-6)
    with torch.no_grad():
        encoder.network["score"].weight.fill_(1e4)
    features = encoder(steps(5))
    assert torch.cdist(features.vector[None], features.sequence).min() < 1e-5, "one step should have all the weight"


def test_the_transformer_knows_the_order_of_steps():
    encoder = built(TimeTransformer("video", dim=8, heads=2, layers=1))
    inputs = steps(5)
    turned = inputs._replace(values=inputs.values.flip(1))
    assert not torch.allclose(encoder(inputs).vector, encoder(turned).vector, atol=1e-4)
    features = encoder(inputs)
    assert features.sequence.shape == (1, 5, 8)
    assert torch.allclose(features.sequence.mean(dim=-1), torch.zeros(1, 5), atol=1e-5)


def test_transformer_layers_start_from_different_weights():
    first, second = built(TimeTransformer("video", dim=8, heads=2, layers=2)).network["layers"]
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


def test_positions_equal_the_published_sinusoids():
    table = sinusoids(torch.zeros(1, 50, 8), interleaved=True)
    assert table[7, 2].item() == pytest.approx(np.sin(7 / 10_000 ** (2 / 8)), abs=1e-6)
    assert table[7, 3].item() == pytest.approx(np.cos(7 / 10_000 ** (2 / 8)), abs=1e-6)


def test_only_real_steps_are_averaged():
    values = torch.tensor([[[1.0], [3], [5], [7], [9]], [[1.0], [3], [5], [0], [0]]])
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    out = averaged(SequenceInputs(values, mask), 2)
    assert out.values[..., 0].tolist() == [[2, 6, 9], [2, 5, 0]]
    assert out.mask.tolist() == [[True, True, True], [True, True, False]]


def test_the_transformer_reads_a_spectrogram_in_strides():
    features = built(TimeTransformer("audio", dim=8, heads=2, layers=1, stride=4))(steps(10))
    assert features.sequence.shape == (1, 3, 8) and features.mask.all()


@pytest.mark.parametrize(("length", "stride", "tokens"), [(1, 2, 1), (7, 1, 7), (7, 2, 2), (8, 2, 2), (9, 2, 3), (9, 3, 1)])
def test_two_convolutions_keep_a_token_for_every_stride(length, stride, tokens):
    features = built(TimeConv("video", dim=4, stride=stride))(steps(length))
    assert features.sequence.shape == (1, tokens, 4) and features.mask.sum() == tokens


def test_a_convolution_sees_as_many_steps_as_its_kernel():
    encoder = built(TimeConv("video", dim=4, layers=1, kernel=3, stride=1))
    inputs = steps(9)
    changed = inputs.values.clone()
    changed[0, 4] += torch.randn(SIZE)
    differs = (encoder(inputs).sequence - encoder(inputs._replace(values=changed)).sequence).abs().sum(dim=-1)[0] > 0
    assert differs.nonzero().flatten().tolist() == [3, 4, 5]


@pytest.mark.parametrize("make", [AttentionPool, TimeTransformer, TimeConv])
def test_padding_is_never_read(make):
    encoder, inputs = built(make("video", dim=8)), steps(7)
    mask = torch.arange(7)[None] < 4
    padded = encoder(SequenceInputs(inputs.values, mask))
    cut = encoder(SequenceInputs(inputs.values[:, :4], mask[:, :4]))
    assert torch.allclose(padded.vector, cut.vector, atol=1e-6)
    assert torch.allclose(padded.sequence[padded.mask], cut.sequence[cut.mask], atol=1e-6)


@pytest.mark.parametrize("make", [AttentionPool, TimeTransformer, TimeConv])
def test_the_scale_of_the_features_does_not_matter(make):
    encoder, inputs = built(make("video", dim=8)), steps(5)
    louder = inputs._replace(values=inputs.values * 100)
    assert torch.allclose(encoder(inputs).vector, encoder(louder).vector, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "arguments", "words"),
    [
        (TimeTransformer, {"dim": 12, "heads": 4}, "dim=12 heads=4: give a dim that is a multiple of 8"),
        (TimeConv, {"kernel": 4}, "kernel=4: give an odd number"),
    ],
)
def test_a_bad_setting_is_named(make, arguments, words):
    with pytest.raises(UserError, match=words):
        make("video", **arguments)
