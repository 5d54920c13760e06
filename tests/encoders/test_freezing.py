from __future__ import annotations

import pytest
import torch

from gmu_lightning.encoders.image import TimmImage, TinyConv
from gmu_lightning.encoders.text.huggingface import HuggingFaceText
from gmu_lightning.movie import UserError


def built(encoder):
    encoder.build()
    return encoder.train()


def trained(encoder) -> set[str]:
    return {name.split("network.")[1] for name, p in encoder.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("freeze", [2, "2"])
def test_a_number_freezes_embeddings_and_the_first_blocks(text_folder, freeze):
    encoder = built(HuggingFaceText(str(text_folder()), freeze=freeze))
    assert trained(encoder) == {name for name, _ in encoder.network.named_parameters() if name.startswith("encoder.layer.2.")}
    assert not encoder.network.embeddings.dropout.training
    assert not encoder.network.encoder.layer[1].output.dropout.training
    assert encoder.network.encoder.layer[2].output.dropout.training


def test_zero_freezes_only_the_embeddings(text_folder):
    encoder = built(HuggingFaceText(str(text_folder("distilbert")), freeze=0))
    assert {name.split(".")[0] for name in trained(encoder)} == {"transformer"}
    assert all(p.requires_grad for p in encoder.network.transformer.parameters())


def test_freezing_too_many_blocks_names_how_many_exist(text_folder):
    with pytest.raises(UserError, match="has 3 blocks"):
        built(HuggingFaceText(str(text_folder()), freeze=4))


def test_only_frozen_batch_statistics_stay_fixed(image_folder):
    encoder = built(TimmImage(str(image_folder("resnet50")), freeze=1))
    before = {name: value.clone() for name, value in encoder.network.state_dict().items() if "running_mean" in name}
    encoder(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8))
    moved = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, encoder.network.state_dict()[name])}
    assert moved == {"layer2", "layer3", "layer4"}


def test_position_embeddings_of_a_vit_belong_to_its_stem(image_folder):
    encoder = built(TimmImage(str(image_folder("vit_small_patch16_224")), freeze=0))
    assert {name.split(".")[0] for name in trained(encoder)} == {"blocks", "norm"}


def test_dropout_of_a_frozen_encoder_stays_off(text_folder):
    encoder = built(HuggingFaceText(str(text_folder()), freeze="all"))
    inputs = encoder.preparation.batch([encoder.preparation.store("a thief robs a bank")], training=True)
    assert torch.equal(encoder(inputs).vector, encoder(inputs).vector)
    assert not encoder(inputs).vector.requires_grad


def test_a_frozen_encoder_is_constant_unless_it_changes(image_folder):
    folder = str(image_folder("resnet50"))
    assert TimmImage(folder, freeze="all").constant
    assert not TimmImage(folder, freeze=2).constant
    augmented = TimmImage(folder, freeze="all", augment=True)
    assert not augmented.constant and "augment=true" in augmented.why_not_constant
    later = TimmImage(folder, freeze="all", unfreeze_at_epoch=2)
    assert not later.constant and "unfreeze_at_epoch=2" in later.why_not_constant
    assert TimmImage(folder, freeze="none").why_not_constant is None


@pytest.mark.parametrize("first", [0, 7], ids=["new run", "resumed run"])
def test_everything_unfreezes_from_its_epoch_on(text_folder, first):
    encoder = built(HuggingFaceText(str(text_folder()), freeze="all", unfreeze_at_epoch=2))
    for epoch in range(first, first + 3):
        encoder.set_epoch(epoch)
        assert all(p.requires_grad == (epoch >= 2) for p in encoder.parameters())
    assert encoder.network.encoder.layer[0].output.dropout.training


def test_loading_weights_leaves_the_generator_unchanged(text_folder, image_folder):
    texts, posters = HuggingFaceText(str(text_folder())), TimmImage(str(image_folder("resnet50")))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    texts.build()
    posters.build()
    assert torch.equal(torch.rand(1), expected)


def test_the_seed_determines_weights_from_scratch():
    def weights(seed):
        torch.manual_seed(seed)
        encoder = TinyConv()
        encoder.build()
        return encoder.network[0].weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_unfreezing_without_freezing_is_an_error():
    with pytest.raises(UserError, match=r"unfreeze_at_epoch=2 with encoder\.text\.freeze=none"):
        HuggingFaceText("anything", freeze="none", unfreeze_at_epoch=2)


def test_an_encoder_from_scratch_cannot_be_frozen():
    with pytest.raises(UserError, match="starts from scratch"):
        TinyConv(freeze="all")
