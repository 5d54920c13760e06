from __future__ import annotations

import pytest
import torch

from gmu_lightning.encoders.image import TimmImage
from gmu_lightning.encoders.text import HuggingFaceText
from gmu_lightning.encoders.tiny import TinyConv
from gmu_lightning.movie import UserError


def built(encoder):
    encoder.build()
    return encoder.train()


def trained(encoder) -> set[str]:
    return {name.split("network.")[1] for name, p in encoder.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("freeze", [2, "2"])
def test_a_number_freezes_the_embeddings_and_the_first_blocks(text_folder, freeze):
    encoder = built(HuggingFaceText(str(text_folder()), freeze=freeze))
    assert trained(encoder) == {name for name, _ in encoder.network.named_parameters() if name.startswith("encoder.layer.2.")}
    assert not encoder.network.embeddings.dropout.training
    assert not encoder.network.encoder.layer[1].output.dropout.training
    assert encoder.network.encoder.layer[2].output.dropout.training


def test_zero_freezes_the_embeddings_alone(text_folder):
    encoder = built(HuggingFaceText(str(text_folder("distilbert")), freeze=0))
    assert {name.split(".")[0] for name in trained(encoder)} == {"transformer"}
    assert all(p.requires_grad for p in encoder.network.transformer.parameters())


def test_more_blocks_than_there_are_is_an_error_that_says_how_many_there_are(text_folder):
    with pytest.raises(UserError, match="has 3 blocks"):
        built(HuggingFaceText(str(text_folder()), freeze=4))


def test_batch_statistics_of_frozen_blocks_stay_and_of_others_move(image_folder):
    encoder = built(TimmImage(str(image_folder("resnet50")), freeze=1))
    before = {name: value.clone() for name, value in encoder.network.state_dict().items() if "running_mean" in name}
    encoder(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8))
    moved = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, encoder.network.state_dict()[name])}
    assert moved == {"layer2", "layer3", "layer4"}


def test_the_stem_of_a_vision_transformer_includes_its_position_embeddings(image_folder):
    encoder = built(TimmImage(str(image_folder("vit_small_patch16_224")), freeze=0))
    assert {name.split(".")[0] for name in trained(encoder)} == {"blocks", "norm"}


def test_dropout_of_a_frozen_encoder_stays_off_when_training_begins(text_folder):
    encoder = built(HuggingFaceText(str(text_folder()), freeze="all"))
    inputs = encoder.preparation.batch([encoder.preparation.store("a thief robs a bank")], training=True)
    assert torch.equal(encoder(inputs).vector, encoder(inputs).vector)
    assert not encoder(inputs).vector.requires_grad


def test_what_is_frozen_whole_is_constant_unless_something_in_it_changes(image_folder):
    folder = str(image_folder("resnet50"))
    assert TimmImage(folder, freeze="all").constant
    assert not TimmImage(folder, freeze=2).constant
    augmented = TimmImage(folder, freeze="all", augment=True)
    assert not augmented.constant and "augment=true" in augmented.why_not_constant
    later = TimmImage(folder, freeze="all", unfreeze_at_epoch=2)
    assert not later.constant and "unfreeze_at_epoch=2" in later.why_not_constant
    assert TimmImage(folder, freeze="none").why_not_constant is None


def test_unfreezing_happens_at_its_epoch_once_and_for_everything(text_folder):
    encoder = built(HuggingFaceText(str(text_folder()), freeze="all", unfreeze_at_epoch=2))
    assert [encoder.set_epoch(epoch) for epoch in range(4)] == [False, False, True, False]
    assert all(p.requires_grad for p in encoder.parameters())
    assert encoder.network.encoder.layer[0].output.dropout.training


def test_unfreezing_is_made_up_for_when_a_run_goes_on_after_it(text_folder):
    encoder = built(HuggingFaceText(str(text_folder()), freeze="all", unfreeze_at_epoch=2))
    assert encoder.set_epoch(7)
    assert trained(encoder)


def test_loading_weights_leaves_the_random_numbers_as_they_were(text_folder, image_folder):
    texts, posters = HuggingFaceText(str(text_folder())), TimmImage(str(image_folder("resnet50")))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    texts.build()
    posters.build()
    assert torch.equal(torch.rand(1), expected)


def test_from_scratch_the_seed_decides_the_weights():
    def weights(seed):
        torch.manual_seed(seed)
        encoder = TinyConv()
        encoder.build()
        return encoder.network[0].weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"freeze": "half"}, "freeze=half: give all, none, or how many"),
        ({"freeze": True}, "freeze=True"),
        ({"freeze": -1}, "freeze=-1"),
        ({"freeze": "none", "unfreeze_at_epoch": 2}, "unfreeze_at_epoch=2 with encoder.text.freeze=none"),
        ({"normalise": "unit"}, "give one of none, layer, batch, standardise"),
        ({"dropout": 1.0}, "dropout=1.0: give a probability"),
        ({"modality_dropout": -0.1}, "modality_dropout=-0.1"),
        ({"lr": 0.0}, "lr=0.0: give a positive"),
    ],
)
def test_an_impossible_setting_is_named_before_anything_is_loaded(arguments, words):
    with pytest.raises(UserError, match=words):
        HuggingFaceText("anything", **arguments)


def test_what_starts_from_scratch_cannot_be_frozen():
    with pytest.raises(UserError, match="starts from scratch"):
        TinyConv(freeze="all")
