"""What frozen first blocks give is computed once; the network that goes on from it is the whole network."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gmu_lightning.data.store import Column, Store, content_digest, prepared
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.image import TimmImage
from gmu_lightning.encoders.inputs import Partial
from gmu_lightning.encoders.splitting import entered_with, entering, skipped
from gmu_lightning.encoders.text import HuggingFaceText
from gmu_lightning.encoders.tiny import TinyConv
from gmu_lightning.frozen_blocks import PartialColumn, partial_key, partly_encoded
from gmu_lightning.fusion.base import encoded
from gmu_lightning.movie import UserError

CPU = torch.device("cpu")
FAMILIES = ("bert", "distilbert", "roberta")
NETWORKS = {
    "resnet50": (1, 2, 3),
    "vit_small_patch16_224": (1,),
    "tf_efficientnet_lite0": (1, 9, 15),
    "vgg16": (1, 11),
}


def column_of(store: Store, encoder: Encoder, contents: list[Any]) -> Column:
    digests = [None if content is None else content_digest(content) for content in contents]
    return prepared(store, encoder.modality, contents, digests, np.ones(len(contents), bool), encoder.preparation)


def kept(store: Store, encoder: Encoder, contents: list[Any], **options: Any) -> PartialColumn:
    found = partly_encoded(store, column_of(store, encoder, contents), encoder, CPU, **options)
    assert isinstance(found, PartialColumn)
    return found


def step(encoder: Encoder, inputs: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A training step with the batch's own randomness: the vectors, and the gradients of what is trained."""
    encoder.build()
    encoder.train()
    encoder.zero_grad()
    torch.manual_seed(5)
    features = encoder(inputs)
    (features.vector * torch.arange(features.vector.numel()).view_as(features.vector).cos()).sum().backward()
    return features.vector.detach(), {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}


def check_equal(encoder: Encoder, whole: Any, partial: Any, close: float = 1e-5) -> None:
    (vector, gradients), (found, others) = step(encoder, whole), step(encoder, partial)
    assert torch.allclose(found, vector, atol=close, rtol=close)
    assert gradients.keys() == others.keys() and gradients
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert torch.allclose(others[name], gradient, atol=close * largest), name


@pytest.mark.parametrize("pool", ["mean", "cls", "pooler"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_network_learns_from_kept_blocks_what_it_learns_from_tokens(tmp_path, text_folder, plots, family, padded, pool):
    if family == "distilbert" and pool == "pooler":
        pytest.skip("it has none")
    store, encoder = Store(tmp_path), HuggingFaceText(str(text_folder(family)), pool, freeze=2)
    encoder.build()
    if padded:
        encoder.packed = None
    contents = [plots[0], None, plots[1], plots[2]]
    column = column_of(store, encoder, contents)
    partial = kept(store, encoder, contents)
    assert partial.lengths.tolist() == column.lengths.tolist()
    check_equal(encoder, column.batch([0, 2, 3]), partial.batch([0, 2, 3]))
    with torch.no_grad():
        whole, parts = (encoder.eval()(columns.batch([0, 2, 3])) for columns in (column, partial))
    assert torch.equal(whole.mask, parts.mask)
    assert torch.allclose(whole.sequence[whole.mask], parts.sequence[parts.mask], atol=1e-5)


@pytest.mark.parametrize(("name", "freeze"), [(name, n) for name, ns in NETWORKS.items() for n in ns])
def test_an_image_network_learns_from_kept_blocks_what_it_learns_from_pixels(tmp_path, image_folder, posters, name, freeze):
    store, encoder = Store(tmp_path), TimmImage(image_folder(name).as_posix(), freeze=freeze)
    contents = [posters[0], None, posters[1], posters[2]]
    partial = kept(store, encoder, contents)
    assert partial.lengths is None
    # Batch statistics of a dozen numbers a channel make more of the last digit.
    check_equal(encoder, column_of(store, encoder, contents).batch([0, 2, 3]), partial.batch([0, 2, 3]), close=1e-3)


def test_dropout_of_trained_layers_is_alive_behind_kept_blocks(tmp_path, text_folder, plots):
    encoder = HuggingFaceText(str(text_folder()), freeze=2)
    inputs = kept(Store(tmp_path), encoder, plots).batch([0, 1])
    encoder.build()
    encoder.train()
    assert not torch.equal(encoder(inputs).vector, encoder(inputs).vector)


def test_an_absent_movie_is_zeros_and_does_no_harm(tmp_path, text_folder, image_folder, plots, posters):
    for encoder, contents in (
        (HuggingFaceText(str(text_folder()), freeze=1), [plots[0], None, plots[1]]),
        (TimmImage(str(image_folder("resnet50")), freeze=1), [posters[0], None, posters[1]]),
    ):
        store = Store(tmp_path)
        partial = kept(store, encoder, contents)
        encoder.build()
        encoder.eval()
        present = torch.tensor([True, False, True])
        with torch.no_grad():
            assert torch.isfinite(encoder(partial.batch([0, 1, 2])).vector).all()
            found, expected = (
                encoded(encoder, c.batch([0, 1, 2]), present) for c in (partial, column_of(store, encoder, contents))
            )
        assert torch.allclose(found.vector, expected.vector, atol=1e-5)
        assert not found.vector[1].any()


def test_blocks_are_computed_once_and_half_precision_takes_half_the_room(tmp_path, text_folder, plots, monkeypatch, capsys):
    encoder = HuggingFaceText(str(text_folder()), freeze=2)
    full = kept(Store(tmp_path), encoder, plots)
    assert "what the frozen blocks give takes " in (said := capsys.readouterr().err) and "in float32 and is kept" in said
    half = kept(Store(tmp_path, precision="float16"), encoder, plots)
    sizes = [(tmp_path / "features" / column.key / "tokens.bin").stat().st_size for column in (full, half)]
    assert sizes == [4 * 16 * sum(full.lengths), 2 * 16 * sum(full.lengths)]
    assert half.batch([0]).hidden.dtype == torch.float32
    assert torch.allclose(half.batch([0, 1]).hidden, full.batch([0, 1]).hidden, rtol=2**-11, atol=2**-24)
    monkeypatch.setattr(HuggingFaceText, "_load", lambda _: pytest.fail("the network was loaded again"))
    again = kept(Store(tmp_path), encoder, plots)
    assert again.key == full.key and torch.equal(again.batch([1]).hidden, full.batch([1]).hidden)


def test_another_number_of_blocks_and_another_pooling_are_other_keys(text_folder):
    folder = str(text_folder())
    encoders = [HuggingFaceText(folder, freeze=1), HuggingFaceText(folder, freeze=2), HuggingFaceText(folder, "cls", freeze=2)]
    keys = {partial_key("column", encoder, precision) for encoder in encoders for precision in ("float32", "float16")}
    assert len(keys) == 6


@pytest.mark.parametrize(
    ("options", "in_part"),
    [
        ({"freeze": 2}, True),
        ({"freeze": "2"}, True),
        ({"freeze": 0}, False),
        ({"freeze": "all"}, False),
        ({"freeze": "none"}, False),
        ({"freeze": 2, "unfreeze_at_epoch": 1}, False),
        ({"freeze": 2, "augment": True}, False),
    ],
)
def test_what_changes_in_an_epoch_or_is_no_part_of_a_network_is_not_kept(options, in_part):
    assert TimmImage("resnet50.a1_in1k", **options).constant_in_part is in_part


def test_an_encoder_that_takes_no_cut_is_never_constant_in_part():
    assert not TinyConv().constant_in_part


def not_kept(store: Store, encoder: Encoder, contents: list[Any], **options: Any) -> Column:
    column = column_of(store, encoder, contents)
    assert partly_encoded(store, column, encoder, CPU, **options) is column
    assert not list(store.root.glob("features/*/meta.json"))
    return column


def test_where_every_block_is_frozen_nothing_is_kept(tmp_path, text_folder, plots, capsys):
    not_kept(Store(tmp_path), HuggingFaceText(str(text_folder()), freeze=3), plots)
    assert "encoder.text.freeze=3: every block is frozen" in capsys.readouterr().err


class Cut(TimmImage):
    """A network that something is wrong with."""

    def _load(self) -> nn.Module:
        network = super()._load()
        self.spoil(network)
        return network


class RandomBefore(Cut):
    def spoil(self, network: Any) -> None:
        network.maxpool = nn.Sequential(network.maxpool, nn.Dropout(0.5))


class ReadsMore(Cut):
    def spoil(self, network: Any) -> None:
        features = network.forward_features
        network.forward_features = lambda x: features(x) + x.mean()


class TrainedBefore(Cut):
    def spoil(self, network: Any) -> None:
        network.maxpool = nn.Sequential(network.maxpool, nn.BatchNorm2d(64))

    def _groups(self) -> list[list[str]]:
        groups = super()._groups()
        early = [name for name in groups[0] if name.startswith("maxpool")]
        return [[name for name in groups[0] if name not in early], *groups[1:-1], groups[-1] + early]


class Uncut(Cut):
    def spoil(self, network: Any) -> None:
        network.forward_features = lambda x: network.conv1(x)  # noqa: PLW0108 (a module would be no attribute)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (RandomBefore, "something random comes before them"),
        (ReadsMore, "what follows them reads more than what they give"),
        (TrainedBefore, "something trained comes before them"),
        (Uncut, "they cannot be told from the rest"),
    ],
)
def test_a_network_that_cannot_be_cut_is_computed_in_every_step_and_stderr_says_why(
    tmp_path, image_folder, posters, capsys, kind, why
):
    not_kept(Store(tmp_path), kind(str(image_folder("resnet50")), freeze=1), posters)
    said = capsys.readouterr().err
    assert "encoder.image.freeze=1: what frozen blocks give is computed in every step" in said and why in said


def test_what_has_no_room_is_computed_in_every_step_and_stderr_says_how_much_it_is(
    tmp_path, text_folder, plots, capsys, monkeypatch
):
    encoder = HuggingFaceText(str(text_folder()), freeze=1)
    size = 4 * 16 * int(column_of(Store(tmp_path), encoder, plots).lengths.sum())
    not_kept(Store(tmp_path, max_gb=(size - 1) / 1e9), encoder, plots)
    assert "GB in float32, more than store.max_gb=" in capsys.readouterr().err
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 * size - 2))
    not_kept(Store(tmp_path), encoder, plots)
    assert "more than half of the" in capsys.readouterr().err
    kept(Store(tmp_path, precision="float16"), encoder, plots)


def test_for_movies_that_are_read_once_nothing_is_kept_but_what_is_there_is_read(tmp_path, text_folder, plots):
    encoder = HuggingFaceText(str(text_folder()), freeze=1)
    not_kept(Store(tmp_path), encoder, plots, once=True)
    kept(Store(tmp_path, precision="float16"), encoder, plots, once=True)  # as it was rounded in training
    kept(Store(tmp_path), encoder, plots)
    kept(Store(tmp_path), encoder, plots, once=True)


def test_what_half_precision_cannot_hold_is_refused(tmp_path, text_folder, plots, monkeypatch):
    stem = HuggingFaceText.stem
    monkeypatch.setattr(HuggingFaceText, "stem", lambda *given: (found := stem(*given))._replace(hidden=found.hidden + 1e6))
    encoder = HuggingFaceText(str(text_folder()), freeze=1)
    column = column_of(Store(tmp_path), encoder, plots)
    monkeypatch.setattr("gmu_lightning.frozen_blocks._why_not_cut", lambda *_: None)
    with pytest.raises(UserError, match=r"store\.precision=float16 ends at 65504, and frozen blocks of the text encoder reach"):
        partly_encoded(Store(tmp_path, precision="float16"), column, encoder, CPU)


def test_a_module_that_is_never_reached_or_takes_no_tensor_is_an_error():
    first, second = nn.Identity(), nn.Identity()
    with pytest.raises(ValueError, match="never called"):
        entering(second, lambda: first(torch.ones(1)))
    with pytest.raises(ValueError, match="more than one tensor"):
        entering(first, lambda: first([torch.ones(1)]))
    assert first(torch.ones(1)).item() == 1, "a hook was left"


def test_modules_are_themselves_again_after_they_were_skipped_and_entered():
    double = nn.Linear(1, 1, bias=False)
    nn.init.constant_(double.weight, 2.0)
    one, five = torch.ones(1, 1), torch.full((1, 1), 5.0)
    with pytest.raises(KeyError), skipped([double]), entered_with(double, five):
        assert double(one)[0].item() == 5
        raise KeyError
    assert double(one).item() == 2


def test_a_partial_of_maps_has_the_layout_that_its_network_asks_for(tmp_path, image_folder, posters):
    partial = kept(Store(tmp_path), TimmImage(str(image_folder("resnet50")), freeze=1), posters)
    found = partial.batch([2, 0])
    assert isinstance(found, Partial) and found.hidden.shape == (2, *partial.shape) and len(partial.shape) == 3
