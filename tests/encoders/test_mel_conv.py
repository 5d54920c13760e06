from __future__ import annotations

import pytest
import torch
from torch import nn

from gmu_lightning.encoders.temporal import MelConv, SequenceInputs, SequencePreparation, adaptive_means


def built(bands: int, **arguments) -> MelConv:
    torch.manual_seed(0)
    encoder = MelConv(**arguments)
    encoder.adopt(encoder.preparation.restored({"size": bands}))
    encoder.build()
    return encoder.eval()


def clips(*lengths: int, bands: int = 3) -> SequenceInputs:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(length, bands, generator=generator).numpy() for length in lengths]
    return SequencePreparation("audio", bands).batch(rows, training=False)


def test_the_published_shape_is_the_default():
    encoder = built(96)
    assert [tuple(c.weight.shape) for c in encoder.network["convolutions"]] == [(96, 96, 128), (96, 96, 128)]
    assert [c.stride for c in encoder.network["convolutions"]] == [(2,), (2,)]
    features = encoder(clips(1000, bands=96))
    assert features.sequence.shape == (1, 200, 768) and features.vector.shape == (1, 768) and features.mask.all()


def test_one_clip_equals_torchs_layers():
    encoder = built(3, kernel=5, tokens=4, dim=6)
    inputs = clips(61)
    published = nn.Sequential(*encoder.network["convolutions"], nn.AdaptiveAvgPool1d(4))
    expected = encoder.network["project"](published(inputs.values.transpose(1, 2)).transpose(1, 2))
    assert torch.allclose(encoder(inputs).sequence, expected, atol=1e-6)
    assert torch.allclose(encoder(inputs).vector, expected.mean(dim=1), atol=1e-6)


@pytest.mark.parametrize("spans", [1, 3, 7, 20])
def test_spans_equal_torchs_adaptive_average(spans):
    x = torch.randn(1, 11, 2, generator=torch.Generator().manual_seed(0))
    for length in (1, 5, 7, 11):
        expected = nn.functional.adaptive_avg_pool1d(x[:, :length].transpose(1, 2), spans).transpose(1, 2)
        assert torch.allclose(adaptive_means(torch.tensor([length]), 11, spans) @ x, expected, atol=1e-6)


def test_a_short_clip_is_lengthened_by_zeros():
    encoder = built(3, kernel=5, tokens=4, dim=6)
    assert encoder.least == 13
    short = clips(4)
    zeros = torch.cat([short.values, torch.zeros(1, 9, 3)], dim=1)
    lengthened = SequenceInputs(zeros, torch.ones(1, 13, dtype=torch.bool))
    assert torch.allclose(encoder(short).sequence, encoder(lengthened).sequence, atol=1e-6)


def test_padding_is_never_read():
    encoder, inputs = built(3, kernel=5, tokens=4, dim=6), clips(40, 20)
    loud = inputs._replace(values=inputs.values.masked_fill(~inputs.mask[..., None], 9.0))
    assert torch.equal(encoder(inputs).sequence, encoder(loud).sequence)


def test_channels_may_differ_from_the_bands():
    assert built(3, kernel=5, channels=7).network["convolutions"][1].weight.shape == (7, 7, 5)
