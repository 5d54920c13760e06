"""[CLS] reads every real token of the present modalities, and tells the modalities apart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gmu_lightning.fusion import LateTransformer, LateTransformerOfVectors
from gmu_lightning.movie import Features, UserError

SIZES = {"text": 3, "image": 3, "metadata": 5}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def made(**options) -> LateTransformer:
    torch.manual_seed(0)
    return LateTransformer(SIZES, ("text",), **{"dim": 8, "heads": 2} | options).double().eval()


def movies() -> dict[str, Features]:
    torch.manual_seed(1)
    inputs = {m: Features(torch.randn(2, d, dtype=torch.float64)) for m, d in SIZES.items()}
    mask = torch.tensor([[True, True, True], [True, True, False]])
    return inputs | {"text": Features(inputs["text"].vector, torch.randn(2, 3, 3, dtype=torch.float64), mask)}


def test_it_agrees_with_the_transformer_of_torch():
    """The same weights in torch's own pre-norm encoder layers give the same [CLS]."""
    fusion, inputs = made(layers=2), movies()
    reference = nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True).double().eval()
    text = fusion.project["text"](inputs["text"].sequence) + fusion.modality["text"]
    others = [(fusion.project[m](inputs[m].vector) + fusion.modality[m])[:, None] for m in ("image", "metadata")]
    x = torch.cat([fusion.cls.expand(2, 1, -1), text, *others], dim=1)
    padded = torch.cat([torch.zeros(2, 1, dtype=torch.bool), ~inputs["text"].mask, torch.zeros(2, 2, dtype=torch.bool)], dim=1)
    for layer in fusion.layers:
        own, theirs = layer.attention, reference.self_attn
        with torch.no_grad():
            theirs.in_proj_weight.copy_(torch.cat([own.query.weight, own.key_value.weight]))
            theirs.in_proj_bias.copy_(torch.cat([own.query.bias, own.key_value.bias]))
        theirs.out_proj.load_state_dict(own.out.state_dict())
        reference.norm1.load_state_dict(layer.norm.state_dict())
        for part, n in ((reference.norm2, 0), (reference.linear1, 1), (reference.linear2, 4)):
            part.load_state_dict(layer.feed_forward[n].state_dict())
        x = reference(x, src_key_padding_mask=padded)
    assert torch.allclose(fusion(inputs).vector, fusion.norm(x[:, 0]), atol=1e-10)


def test_the_order_of_tokens_has_no_effect():
    fusion, inputs = made(), movies()
    first = {m: Features(*(None if x is None else x[:1] for x in f)) for m, f in inputs.items()}
    backwards = first | {"text": first["text"]._replace(sequence=first["text"].sequence.flip(1))}
    assert torch.allclose(fusion(first).vector, fusion(backwards).vector, atol=1e-12)


def test_it_tells_modalities_apart():
    fusion, inputs = made(), movies()
    with torch.no_grad():
        for m in SIZES:
            fusion.project[m].weight.fill_(0.1)
            fusion.project[m].bias.zero_()
    swapped = inputs | {"image": Features(inputs["metadata"].vector[:, :3]), "metadata": Features(inputs["metadata"].vector)}
    zeros = {m: Features(torch.zeros_like(f.vector)) for m, f in swapped.items()}
    there = torch.tensor([[False, True, False], [False, False, True]])
    a, b = fusion(zeros, there).vector
    assert not torch.allclose(a, b, atol=1e-6)  # equal contents, another modality


def test_vectors_are_read_as_single_tokens():
    options = {"dim": 8, "heads": 2, "layers": 1}
    torch.manual_seed(0)
    vectors = LateTransformerOfVectors(SIZES, **options).double().eval()
    torch.manual_seed(0)
    whole = LateTransformer(SIZES, (), **options).double().eval()
    inputs, there = movies(), torch.tensor([[True, False, True], [False, True, True]])
    assert torch.equal(vectors({m: f.vector for m, f in inputs.items()}, there).vector, whole(inputs, there).vector)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match=r"fusion\.heads=3 does not divide 8 numbers"):
        made(heads=3)
