"""Attention reads real steps only, and transformers follow their papers."""

from __future__ import annotations

import math

import pytest
import torch

from gmu_lightning.movie import UserError
from gmu_lightning.nn.transformer import Attention, Transformer, sinusoids

MASK = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def made(cls: type[torch.nn.Module], *arguments, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return cls(*arguments, **options).double()


def test_one_head_is_the_softmax_of_the_paper():
    attention = made(Attention, 4, heads=1)
    x, y = random(1, 2, 4), random(1, 3, 4)
    q, (k, v) = attention.query(x)[0], attention.key_value(y)[0].chunk(2, dim=-1)
    read = torch.softmax(q @ k[:2].T / math.sqrt(4), dim=-1) @ v[:2]
    assert torch.allclose(attention(x, y, MASK[:1])[0], attention.out(read))


def test_heads_read_apart():
    attention = made(Attention, 4, heads=2)
    torch.nn.init.eye_(attention.out.weight)
    x, y = random(1, 2, 4), random(1, 3, 4)
    q, (k, v) = attention.query(x)[0], attention.key_value(y)[0].chunk(2, dim=-1)
    halves = [torch.softmax(q[:, h] @ k[:, h].T / math.sqrt(2), dim=-1) @ v[:, h] for h in (slice(0, 2), slice(2, 4))]
    everything = torch.ones(1, 3, dtype=torch.bool)
    assert torch.allclose(attention(x, y, everything)[0], torch.cat(halves, dim=-1) + attention.out.bias)


def test_a_fully_masked_sequence_gives_zero_and_no_gradient():
    attention = made(Attention, 4, heads=2)
    x, y = random(3, 2, 4).requires_grad_(), random(3, 3, 4).requires_grad_()
    read = attention(x, y, MASK)
    assert (read[2] == 0).all()
    assert (read[:2] != 0).all()
    read.sum().backward()
    for leaf in (x, y):
        assert torch.isfinite(leaf.grad).all()
        assert not leaf.grad[2].any()
        assert leaf.grad[0].any()


def test_a_key_that_is_masked_is_not_read():
    attention = made(Attention, 4, heads=2)
    x, y = random(3, 2, 4), random(3, 3, 4)
    assert torch.allclose(attention(x, y.masked_fill(~MASK[..., None], 100.0), MASK), attention(x, y, MASK))


def test_dropout_is_of_training_alone():
    attention = made(Attention, 4, heads=1, dropout=0.5)
    x = random(3, 3, 4)
    torch.manual_seed(0)
    assert not torch.equal(attention(x, x, MASK), attention(x, x, MASK))
    attention.eval()
    assert torch.equal(attention(x, x, MASK), attention(x, x, MASK))


def test_gradients_are_those_of_the_function():
    transformer = made(Transformer, 2, layers=1, heads=1)
    x, y = random(3, 2, 2).requires_grad_(), random(3, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: transformer(x, MASK, y), (x, y))


def test_a_transformer_knows_the_order_of_what_it_reads():
    transformer = made(Transformer, 4, layers=1, heads=1)
    x, everything = random(1, 3, 4), torch.ones(1, 3, dtype=torch.bool)
    assert not torch.allclose(transformer(x.flip(1), everything).flip(1), transformer(x, everything))
    assert not torch.allclose(transformer(x, everything, x.flip(1)), transformer(x, everything, x))


def test_positions_are_sines_before_cosines():
    places = sinusoids(torch.zeros(1, 3, 4, dtype=torch.float64))
    assert places.shape == (3, 4)
    assert torch.allclose(places[0], torch.tensor([0.0, 0, 1, 1], dtype=torch.float64))
    expected = [math.sin(2), math.sin(2e-4), math.cos(2), math.cos(2e-4)]
    assert torch.allclose(places[2], torch.tensor(expected, dtype=torch.float64), atol=1e-6)
    assert sinusoids(torch.zeros(1, 3, 5)).shape == (3, 5)


def test_a_crossmodal_transformer_counts_from_one():
    transformer = made(Transformer, 4, layers=0, heads=1)
    x = random(1, 3, 4)
    expected = transformer.norm(2 * x + sinusoids(x, first=1))
    assert torch.allclose(transformer(x, torch.ones(1, 3, dtype=torch.bool)), expected)


def test_a_crossmodal_transformer_starts_by_the_published_rule():
    layer = made(Transformer, 64, layers=1, heads=2).layers[0]
    for linear, inputs, outputs in (
        (layer.attention.query, 64, 3 * 64),  # queries, keys and values are one matrix there
        (layer.attention.key_value, 64, 3 * 64),
        (layer.attention.out, 64, 64),
        (layer.feed_forward[1], 64, 256),
        (layer.feed_forward[4], 256, 64),
    ):
        bound = math.sqrt(6 / (inputs + outputs))
        assert 0.99 * bound < linear.weight.abs().max() <= bound
        assert not linear.bias.any()


def test_values_are_read_where_the_keys_say():
    attention = made(Attention, 4, heads=1)
    x, keys, values = random(1, 2, 4), random(1, 3, 4), random(1, 3, 5)[..., :4]
    everything = torch.ones(1, 3, dtype=torch.bool)
    k, v = attention.key_value(keys)[0, :, :4], attention.key_value(values)[0, :, 4:]
    expected = torch.softmax(attention.query(x)[0] @ k.T / 2, dim=-1) @ v
    assert torch.allclose(attention(x, keys, everything, values)[0], attention.out(expected))
    assert torch.allclose(attention(x, keys, everything, keys), attention(x, keys, everything))


def test_queries_keys_and_values_are_dropped_out_apart():
    transformer = made(Transformer, 64, layers=1, heads=1, embedding_dropout=0.5)
    seen = {}
    transformer.layers[0].register_forward_pre_hook(lambda _, inputs: seen.update(zip("xmkv", inputs, strict=True)))
    x, everything = random(1, 3, 64), torch.ones(1, 3, dtype=torch.bool)
    transformer(x, everything, x)
    zeros = [seen[name] == 0 for name in "xkv"]
    assert all(0.3 < zero.double().mean() < 0.7 for zero in zeros)
    assert not any(torch.equal(a, b) for a, b in zip(zeros, zeros[1:] + zeros[:1], strict=True))
    transformer.eval()(x, everything, x)
    assert seen["v"] is None


def test_heads_must_divide_the_size():
    with pytest.raises(UserError, match=r"fusion.heads=3 does not divide 4 numbers"):
        Attention(4, heads=3)
