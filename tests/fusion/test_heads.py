"""The maxout head, and the choice of a fusion's head."""

from __future__ import annotations

import pytest
import torch

from gmu_lightning.fusion import GMU, Concat, Late, LinearHead, MaxoutHead, MixtureOfExperts, SingleModality
from gmu_lightning.movie import Fused

SIZES = {"text": 3, "image": 2}


def test_head_is_linear_by_default():
    assert isinstance(Concat(SIZES, 4).head(2), LinearHead)
    head = Concat(SIZES, 4, head="maxout").head(2)
    assert isinstance(head, MaxoutHead)
    assert [layer.in_features for layer in head.layers] == [8, 8]  # the width of the fused vector
    assert isinstance(SingleModality({"text": 3}, 4, head="maxout", maxout_hidden=5).head(2), MaxoutHead)


@pytest.mark.parametrize(("kind", "options"), [(Late, {}), (MixtureOfExperts, {"tied": True}), (MixtureOfExperts, {})])
def test_mixture_for_single_labels_mixes_the_experts_softmax(kind, options):
    torch.manual_seed(0)
    fusion = kind(SIZES, 4, **options).double()
    head = fusion.head(3, "multiclass").double()
    present = torch.tensor([[True, True], [True, False], [False, False]])
    fused = fusion({m: torch.randn(3, d, dtype=torch.float64) for m, d in SIZES.items()}, present)
    hidden = fused.vector.split([4, 4, fused.vector.shape[1] - 8], dim=1)
    each = torch.stack([expert(x).softmax(dim=-1) for expert, x in zip(head.experts, hidden, strict=False)], dim=1)
    weights = fused.gates
    if head.gate is not None:
        weights = head.gate(hidden[2]).unflatten(-1, (2, 3)).masked_fill(~present[..., None], float("-inf")).softmax(dim=1)
    mixed = (weights[:2] * each[:2]).sum(dim=1)
    found = head(fused)
    assert torch.allclose(found[:2].softmax(dim=-1), mixed / mixed.sum(dim=-1, keepdim=True))
    assert torch.allclose(found[2], head.bias)
    assert head.gate is not None or torch.allclose(mixed.sum(dim=-1), torch.ones(2, dtype=torch.float64))


def test_head_adds_no_key_to_the_fusion_s_state_dict():
    assert set(GMU("original", SIZES, 4, head="maxout").state_dict()) == set(GMU("original", SIZES, 4).state_dict())


def test_maxout_takes_the_largest_piece():
    torch.manual_seed(0)
    head = MaxoutHead(3, genres=2, hidden=4, pieces=3).double().eval()
    h = torch.randn(5, 3, dtype=torch.float64)
    unit = (1 + head.norms[0].eps) ** -0.5  # the factor of batch normalisation before its first batch
    x = h
    for layer in head.layers:
        pieces = [unit * x @ layer.weight[k::3].T + layer.bias[k::3] for k in range(3)]
        x = torch.stack(pieces).amax(dim=0)
    assert torch.allclose(head(Fused(h)), head.out(unit * x))


def test_maxout_trains_on_a_batch_of_one():
    assert torch.isfinite(MaxoutHead(3, genres=2, hidden=4)(Fused(torch.randn(1, 3)))).all()


def test_dropout_precedes_each_linear_layer_in_training():
    torch.manual_seed(0)
    head = MaxoutHead(40, genres=2, hidden=30, dropout=0.5)
    seen = {}
    for name, layer in {"first": head.layers[0], "second": head.layers[1], "last": head.out}.items():
        layer.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: (inputs[0] == 0).float().mean()}))
    h = Fused(torch.randn(64, 40))
    head(h)
    assert all(0.4 < share < 0.6 for share in seen.values())
    head.eval()(h)
    assert not any(seen.values())
    assert len(seen) == 3


def test_batch_normalisation_adds_the_published_epsilon():
    assert {norm.eps for norm in MaxoutHead(3, genres=2, hidden=4).norms} == {1e-4}


def test_number_of_parameters_at_the_published_sizes():
    head = MaxoutHead(512, genres=23, hidden=512)
    assert sum(p.numel() for p in head.parameters()) == 2 * (512 * 1024 + 1024) + 3 * 2 * 512 + 512 * 23 + 23
