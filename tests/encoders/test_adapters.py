"""Adapters train beside a frozen text transformer, and merge into it without a change of its features."""

from __future__ import annotations

import copy
import importlib.util

import pytest
import torch

from gmu_lightning.encoders.text.huggingface import HuggingFaceText
from gmu_lightning.movie import UserError


@pytest.fixture
def adapted(text_folder, vision_folder, plots):
    """Return a function that makes a built encoder with adapters that have been trained for some steps, and its inputs."""

    def make(family: str = "bert", rank: int = 2):
        tower = family == "clip"
        options = {"pool": "projection", "max_tokens": 24} if tower else {"max_tokens": 64}
        folder = vision_folder(family) if tower else text_folder(family)
        encoder = HuggingFaceText(str(folder), freeze="all", lora=rank, **options)
        torch.manual_seed(0)
        encoder.build()
        inputs = encoder.preparation.batch([encoder.preparation.store(text) for text in plots], training=True)
        optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.05)
        for _ in range(3):
            optimizer.zero_grad()
            (encoder(inputs).vector - 1).square().mean().backward()
            optimizer.step()
        return encoder.eval(), inputs

    return make


def vectors(encoder, inputs) -> torch.Tensor:
    with torch.no_grad():
        return encoder(inputs).vector


def trained(encoder) -> list[str]:
    return [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert", "clip"])
def test_merged_adapters_give_the_same_vectors(adapted, family):
    encoder, inputs = adapted(family)
    expected, names = vectors(encoder, inputs), set(encoder.state_dict())
    encoder.merge()
    assert torch.allclose(vectors(encoder, inputs), expected, atol=1e-5)
    assert not any("lora" in name or "base_layer" in name for name in encoder.state_dict())
    assert len(encoder.state_dict()) < len(names) and encoder.lora is None and not trained(encoder)


def test_training_changes_the_adapters_alone(adapted, text_folder):
    encoder, inputs = adapted()
    plain = HuggingFaceText(str(text_folder()), freeze="all", max_tokens=64)
    plain.build()
    assert not torch.allclose(vectors(encoder, inputs), vectors(plain.eval(), inputs), atol=1e-2)
    own = {name.replace(".base_layer", ""): value for name, value in encoder.state_dict().items() if "lora" not in name}
    assert own.keys() == plain.state_dict().keys()
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in own.items())


@pytest.mark.parametrize(
    ("family", "layers", "each"), [("bert", 3, 4), ("distilbert", 3, 4), ("modernbert", 4, 2), ("clip", 3, 4)]
)
def test_every_projection_of_an_attention_has_an_adapter(adapted, family, layers, each):
    encoder, _ = adapted(family, rank=2)
    assert len(trained(encoder)) == 2 * layers * each
    assert all(".lora_" in name for name in trained(encoder))
    if family == "bert":
        assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) == layers * each * 2 * (16 + 16)


def test_an_untrained_adapter_changes_nothing(text_folder, plots):
    made = [HuggingFaceText(str(text_folder()), freeze="all", max_tokens=64, lora=rank) for rank in (None, 4)]
    for encoder in made:
        encoder.build()
    inputs = made[0].preparation.batch([made[0].preparation.store(text) for text in plots], training=False)
    assert torch.equal(vectors(made[0].eval(), inputs), vectors(made[1].eval(), inputs))
    assert made[0].constant and not made[1].constant and "lora=4 trains adapters" in made[1].why_not_constant


def test_adapters_follow_the_seed_and_leave_the_generator(text_folder):
    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        expected = torch.rand(1)
        torch.manual_seed(seed)
        encoder = HuggingFaceText(str(text_folder()), freeze="all", lora=2)
        encoder.build()
        assert torch.equal(torch.rand(1), expected)
        return torch.cat([p.flatten() for name, p in encoder.named_parameters() if "lora_A" in name])

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))


def test_packed_and_padded_adapters_agree(adapted):
    encoder, inputs = adapted()
    assert encoder.packed is not None
    expected = vectors(encoder, inputs._replace(lengths=None))
    assert torch.allclose(vectors(encoder, inputs), expected, atol=1e-5)
    assert torch.allclose(vectors(copy.deepcopy(encoder), inputs), expected, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = encoder(inputs).vector
    narrow.sum().backward()
    assert 0 < (narrow - expected).abs().max() < 0.1
    assert all(p.grad.dtype == torch.float32 for p in encoder.parameters() if p.requires_grad)


@pytest.mark.parametrize("options", [{"freeze": "none"}, {"freeze": 1}, {"freeze": "all", "unfreeze_at_epoch": 1}])
def test_adapters_need_a_frozen_network(options):
    with pytest.raises(UserError, match=r"encoder\.text\.lora=8 with encoder\.text\.freeze=.*leave out freeze and"):
        HuggingFaceText("anything", lora=8, **options)


def test_without_peft_the_package_is_named(text_folder, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else found(name, *rest))
    with pytest.raises(UserError, match=r"encoder\.text\.lora=8 needs peft: pip install 'gmu_lightning\[lora\]'"):
        HuggingFaceText(str(text_folder()), freeze="all", lora=8).check()


def test_zero_is_no_adapter(text_folder):
    encoder = HuggingFaceText(str(text_folder()), freeze="all", lora=0)
    assert encoder.lora is None and encoder.constant


def test_the_rules_of_encoders_hold_with_adapters(text_folder, plots, check_encoder):
    check_encoder(lambda: HuggingFaceText(str(text_folder()), freeze="all", max_tokens=64, lora=2), plots)
