"""Parameter groups and schedules have known values, and updates are those of the optimizer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gmu_lightning.optimisation import Updates, one_cycle, parameter_groups, plateau, warmup


class Net(nn.Module):
    """A layer, a norm and an embedding."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)
        self.words = nn.Embedding(4, 2)


def optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.AdamW(groups)


def stepped(schedule, steps: int) -> list[float]:
    """Return the first group's rate at each step and after the last one."""
    rates = []
    for _ in range(steps):
        rates.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return [*rates, schedule.optimizer.param_groups[0]["lr"]]


def test_weight_decay_applies_to_matrices_only():
    net = Net()
    groups = parameter_groups([(net, 0.1)], 0.01)
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(net.layer.weight), id(net.words.weight)}
    assert {group["weight_decay"] for group in groups} == {0.01, 0.0}


def test_each_module_keeps_its_own_rate():
    slow, fast = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = parameter_groups([(slow, 0.1), (fast, 0.5)], 0.01)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert [rate[id(p)] for p in (slow.weight, slow.bias, fast.weight, fast.bias)] == [0.1, 0.1, 0.5, 0.5]


def test_modules_with_equal_rates_share_groups_and_the_last_module_has_the_last_one():
    first, second, third = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    groups = parameter_groups([(first, 0.1), (second, 0.5), (third, 0.1)], 0.01)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.5, 0.01), (0.5, 0.0), (0.1, 0.01), (0.1, 0.0)]
    assert [id(p) for p in groups[-1]["params"]] == [id(first.bias), id(third.bias)]


def test_shared_parameters_are_in_one_group():
    net = Net()
    groups = parameter_groups([(net.layer, 0.1), (net, 0.2)], 0.01)
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in net.parameters())
    torch.optim.AdamW(groups)


def test_a_module_without_parameters_has_no_group():
    assert parameter_groups([(nn.Dropout(), 0.1)], 0.01) == []


def test_frozen_parameters_are_in_the_groups():
    frozen = nn.Linear(2, 2).requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups([(frozen, 0.1)], 0.01)) == 2


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [0.5, 1, 1, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 + math.cos(3 * math.pi / 4)) / 2, 0]),
    ],
)
def test_warm_up_rises_over_its_share_and_then_decays(decay, expected):
    schedule = warmup(optimizer(2.0), total_steps=6, share=1 / 3, decay=decay)
    assert stepped(schedule, 6) == pytest.approx([2 * x for x in expected], abs=1e-12)


def test_no_share_means_no_warm_up():
    assert stepped(warmup(optimizer(1.0), 4, share=0.0, decay="constant"), 4) == [1.0] * 5


@pytest.mark.parametrize("total", [1, 2, 3, 7])
@pytest.mark.parametrize("schedule", [warmup, one_cycle])
def test_short_runs_have_a_schedule(schedule, total):
    rates = stepped(schedule(optimizer(1.0), total), total)
    assert all(0 <= rate <= 1 for rate in rates)
    assert max(rates[:-1]) > 0


def test_groups_keep_their_ratio_of_rates():
    for make in (warmup, one_cycle):
        schedule = make(optimizer(1.0, 0.1), 10)
        for _ in range(9):
            schedule.optimizer.step()
            schedule.step()
            high, low = (group["lr"] for group in schedule.optimizer.param_groups)
            assert low == pytest.approx(high / 10)


def test_one_cycle_peaks_after_its_share():
    rates = stepped(one_cycle(optimizer(2.0), total_steps=10, share=0.3), 9)
    assert max(rates) == pytest.approx(2.0)
    assert rates.index(max(rates)) == 2
    assert rates[0] < 0.2
    assert rates[-1] < 1e-3


def test_plateau_halves_the_rate_when_the_score_stalls():
    (schedule,) = plateau(optimizer(1.0), total_steps=100, patience=1, factor=0.5)
    rates = []
    for score in (0.1, 0.2, 0.2, 0.2, 0.3):
        schedule.step(score)
        rates.append(schedule.optimizer.param_groups[0]["lr"])
    assert rates == [1, 1, 1, 0.5, 0.5]


def test_plateau_halves_the_rate_reached_by_the_rise():
    optimizer_ = optimizer(1.0)
    rise, fall = plateau(optimizer_, total_steps=20, patience=0, factor=0.5, share=0.2)
    rates = []
    for _epoch in range(3):
        for _step in range(4):
            rates.append(optimizer_.param_groups[0]["lr"])
            optimizer_.step()
            rise.step()
        fall.step(0.5)
    assert rates == pytest.approx([0.25, 0.4375, 0.625, 0.8125, *[1.0] * 4, *[0.5] * 4])


def trained_by(make, quick: bool, missing: bool = False) -> tuple[list[torch.Tensor], dict]:
    """Return the weights and the optimizer's state after six steps with falling rates, by `Updates` or by the optimizer alone.

    Args:
        missing: whether one parameter has no gradient in the second step.
    """
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
    made = make(parameter_groups([(net, 0.01)], 0.1))
    updates = Updates(made) if quick else made
    for k in range(6):
        updates.zero_grad()
        net(torch.randn(4, 7)).square().sum().backward()
        if missing and k == 1:
            net[2].bias.grad = None
        updates.step()
        for group in made.param_groups:
            group["lr"] *= 0.8
    return [p.detach() for p in net.parameters()], made.state_dict()


class Doubled(torch.optim.AdamW):
    """An AdamW that makes each step twice."""

    def step(self, closure=None):
        super().step()
        return super().step()


OPTIMIZERS = {
    "fused": lambda groups: torch.optim.AdamW(groups, fused=True, betas=(0.8, 0.99), eps=1e-6),
    "not fused": lambda groups: torch.optim.AdamW(groups, fused=False),
    "amsgrad": lambda groups: torch.optim.AdamW(groups, fused=True, amsgrad=True),
    "maximize": lambda groups: torch.optim.AdamW(groups, fused=True, maximize=True),
    "Adam": lambda groups: torch.optim.Adam(groups, fused=True),
    "SGD": lambda groups: torch.optim.SGD(groups, momentum=0.9),
    "a subclass": lambda groups: Doubled(groups, fused=True),
}


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_are_those_of_the_optimizer_to_the_last_bit(name, missing):
    weights, state = trained_by(OPTIMIZERS[name], quick=True, missing=missing)
    expected, expected_state = trained_by(OPTIMIZERS[name], quick=False, missing=missing)
    assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True))
    torch.testing.assert_close(state, expected_state, rtol=0, atol=0)


def test_a_fused_adamw_is_not_called_after_its_first_step(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, step=torch.optim.AdamW.step: (calls.append(1), step(self)))
    trained_by(OPTIMIZERS["fused"], quick=True)
    assert len(calls) == 1
