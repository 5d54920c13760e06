from __future__ import annotations

import pytest
import torch

from gmu_lightning.nn import normalise

X = torch.tensor([[1.0, 10.0, 5.0], [3.0, 30.0, 5.0], [5.0, 20.0, 5.0], [7.0, 40.0, 5.0]])
ALL = torch.ones(4, dtype=torch.bool)


def test_none_changes_no_value():
    assert torch.equal(normalise.make("none", 3)(X, ALL), X)


def test_layer_scales_each_movie_by_itself():
    out = normalise.make("layer", 3)(X, ALL)
    assert torch.allclose(out.mean(1), torch.zeros(4), atol=1e-6)
    assert torch.allclose(out.std(1, correction=0), torch.ones(4), atol=1e-3)


def test_standardise_gives_train_mean_zero_and_deviation_one():
    module = normalise.make("standardise", 3).fit([X])
    out = module(X, ALL)
    assert torch.allclose(out.mean(0), torch.zeros(3), atol=1e-6)
    assert torch.allclose(out[:, :2].std(0, correction=0), torch.ones(2), atol=1e-6)


def test_a_constant_feature_is_only_centred():
    x = torch.full((1000, 1), 0.1) + torch.tensor([0.0])
    module = normalise.make("standardise", 1).fit([x])
    assert module.std.item() == 1.0
    assert module(torch.tensor([[0.6]]), ALL[:1]).item() == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("rows", [torch.empty(0, 3), torch.tensor([[1.0, float("nan"), 0.0]])])
def test_standardise_refuses_nothing_and_nan(rows):
    with pytest.raises(ValueError, match="cannot standardise"):
        normalise.make("standardise", 3).fit([rows])


def test_standardise_refuses_to_run_before_it_was_fitted():
    with pytest.raises(RuntimeError, match="not fitted"):
        normalise.make("standardise", 3)(X, ALL)


def test_standardise_travels_in_the_state_dict():
    module = normalise.make("standardise", 3).fit([X])
    copy = normalise.make("standardise", 3)
    copy.load_state_dict(module.state_dict())
    assert torch.equal(copy(X, ALL), module(X, ALL))


def test_batch_statistics_ignore_absent_rows():
    present = torch.tensor([True, True, False, True])
    x = X.clone()
    x[2] = float("nan")
    module, reference = normalise.make("batch", 3), torch.nn.BatchNorm1d(3, eps=1e-4)
    out = module(x, present)
    assert torch.allclose(out[present], reference(X[present]), atol=1e-6)
    assert torch.equal(out[2], torch.zeros(3))
    assert torch.allclose(module.running_mean, reference.running_mean)


@pytest.mark.parametrize("count", [0, 1])
def test_a_tiny_batch_uses_the_running_statistics(count):
    module = normalise.make("batch", 3)
    module(X, ALL)
    before = module.running_mean.clone()
    present = torch.tensor([True, False, False, False]) if count else torch.zeros(4, dtype=torch.bool)
    out = module(X, present)
    module.eval()
    assert torch.allclose(out[present], module(X, ALL)[present], atol=1e-6)
    assert torch.equal(module.running_mean, before)


def test_batch_lets_gradients_through_to_present_rows_alone():
    x = X.clone().requires_grad_()
    normalise.make("batch", 3)(x, torch.tensor([True, True, False, True])).square().sum().backward()
    assert torch.equal(x.grad[2], torch.zeros(3))


def test_standardise_does_not_depend_on_the_chunks():
    x = torch.randn(11, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 0.1]) + torch.arange(11)[:, None]
    whole, cut = normalise.make("standardise", 3).fit([x]), normalise.make("standardise", 3).fit([x[:2], x[2:2], x[2:9], x[9:]])
    assert torch.allclose(cut.mean, x.mean(0)) and torch.allclose(cut.std, x.std(0, correction=0))
    assert torch.allclose(cut.mean, whole.mean) and torch.allclose(cut.std, whole.std)


def test_a_dead_feature_is_only_centred():
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    x[:, 2] *= 1e-30  # as in one dimension of some pretrained networks
    scaled = normalise.Standardise(4).fit([x])(x, torch.ones(200, dtype=torch.bool))
    assert scaled[:, 2].abs().max() < 1e-20
    assert torch.allclose(scaled[:, [0, 1, 3]].std(0, correction=0), torch.ones(3), atol=1e-4)
    small = normalise.Standardise(4).fit([x * 1e-9])  # all features are as small, so none is dead
    assert torch.allclose(small(x * 1e-9, torch.ones(200, dtype=torch.bool))[:, 0], scaled[:, 0], atol=1e-4)
