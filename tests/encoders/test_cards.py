"""Vectors of current encoders equal those of the calls on their model cards, on tiny networks of the same architectures."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from gmu_lightning.encoders import weights
from gmu_lightning.encoders.image_transformer import HuggingFaceImage
from gmu_lightning.encoders.text.huggingface import HuggingFaceText
from gmu_lightning.experiment import build
from gmu_lightning.movie import UserError

AGREED = 1e-5


def encode(encoder, *contents):
    encoder.build()
    encoder.eval()
    with torch.no_grad():
        return encoder(encoder.preparation.batch([encoder.preparation.store(content) for content in contents], training=False))


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, atol=AGREED)


@torch.no_grad()
def test_clip_text_is_the_projected_end_token(vision_folder, plots):
    from transformers import AutoTokenizer, CLIPModel

    folder = vision_folder("clip")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), CLIPModel.from_pretrained(folder).eval()
    inputs = tokenizer(plots, padding=True, truncation=True, max_length=24, return_tensors="pt")
    expected = model.get_text_features(**inputs).pooler_output
    found = encode(HuggingFaceText(str(folder), pool="projection", max_tokens=24), *plots)
    assert same(found.vector, expected) and expected.shape == (3, 12)
    ends = inputs["attention_mask"].sum(dim=1) - 1
    assert same(found.sequence[torch.arange(3), ends], expected), "the end token should be the vector"
    assert same(found.vector, model(**inputs, pixel_values=torch.zeros(1, 3, 32, 32)).text_model_output.pooler_output)


@torch.no_grad()
def test_siglip_text_is_lowered_and_padded_to_64(vision_folder, plots):
    from transformers import AutoTokenizer, SiglipModel

    folder = vision_folder("siglip2")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), SiglipModel.from_pretrained(folder).eval()
    lowered = [text.lower() for text in plots]
    inputs = tokenizer(lowered, padding="max_length", truncation=True, max_length=64, return_tensors="pt")
    assert "attention_mask" not in inputs
    expected = model.get_text_features(**inputs).pooler_output
    options = {"pool": "projection", "max_tokens": 64, "fixed_length": True}
    found = encode(HuggingFaceText(str(folder), lower=True, **options), *plots)
    assert same(found.vector, expected)
    assert found.mask.sum(dim=1).tolist() == [min(64, len(tokenizer(text)["input_ids"])) for text in lowered]
    assert not same(encode(HuggingFaceText(str(folder), **options), *plots).vector, expected), "capitals should matter here"


def test_padding_stands_on_the_side_of_the_tokenizer(vision_folder, plots, tmp_path):
    from transformers import AutoTokenizer

    folder = shutil.copytree(vision_folder("siglip2"), tmp_path / "left")
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"padding_side": "left"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = HuggingFaceText(str(folder), pool="projection", max_tokens=64, fixed_length=True)
    inputs = encoder.preparation.batch([encoder.preparation.store(text) for text in plots], training=False)
    options = {"padding": "max_length", "truncation": True, "max_length": 64}
    expected = tokenizer(plots, return_tensors="pt", return_attention_mask=True, **options)
    assert torch.equal(inputs.ids, expected["input_ids"]) and torch.equal(inputs.mask, expected["attention_mask"].bool())


def test_siglip_without_its_padding_is_refused(vision_folder):
    with pytest.raises(UserError, match=r"siglip reads the padding of a batch.*give encoder\.text\.fixed_length=true"):
        HuggingFaceText(str(vision_folder("siglip2")), pool="projection", max_tokens=64).build()


@torch.no_grad()
def test_e5_reads_its_prefix_and_has_length_1(text_folder, plots):
    from transformers import AutoModel, AutoTokenizer

    folder = text_folder("bert")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = tokenizer([f"query: {text}" for text in plots], padding=True, return_tensors="pt")
    hidden = model(**inputs).last_hidden_state.masked_fill(~inputs["attention_mask"][..., None].bool(), 0.0)
    average = hidden.sum(dim=1) / inputs["attention_mask"].sum(dim=1)[..., None]
    expected = torch.nn.functional.normalize(average, p=2, dim=1)
    options = {"pool": "mean", "max_tokens": 512, "unit_length": True}
    assert same(encode(HuggingFaceText(str(folder), prefix="query: ", **options), *plots).vector, expected)
    assert not same(encode(HuggingFaceText(str(folder), **options), *plots).vector, expected)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["mean", "cls", "last"])
def test_modernbert_is_pooled_over_real_tokens(text_folder, plots, pool):
    from transformers import AutoModel, AutoTokenizer

    folder = text_folder("modernbert")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    rows = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in plots]
    expected = torch.stack([{"mean": row.mean(dim=0), "cls": row[0], "last": row[-1]}[pool] for row in rows])
    assert same(encode(HuggingFaceText(str(folder), pool=pool, max_tokens=512), *plots).vector, expected)


def test_the_last_token_is_the_same_packed_and_padded(text_folder, plots):
    encoder = HuggingFaceText(str(text_folder("bert")), pool="last")
    features = encode(encoder, *plots)
    assert encoder.packed is not None
    assert same(features.vector, torch.stack([features.real_tokens(n)[-1] for n in range(3)]))


IMAGES = {"clip": ("CLIPModel", "CLIPImageProcessorPil"), "siglip2": ("SiglipModel", "SiglipImageProcessorPil")}


@torch.no_grad()
@pytest.mark.parametrize("family", IMAGES)
def test_images_have_the_vector_of_get_image_features(vision_folder, posters, family):
    import transformers

    folder, (model, processor) = vision_folder(family), IMAGES[family]
    model = getattr(transformers, model).from_pretrained(folder).eval()
    processor = getattr(transformers, processor).from_pretrained(folder)
    # To less than half their size, Pillow shrinks posters here as it does there.
    images = [Image.open(path).convert("RGB").resize((48, 56)) for path in posters]
    expected = model.get_image_features(**processor(images=images, return_tensors="pt")).pooler_output
    encoder = HuggingFaceImage(str(folder), pool="projection", num_tokens=4)
    found = encode(encoder, *map(png, images))
    assert same(found.vector, expected) and encoder.dim == expected.shape[1]
    assert found.sequence.shape == (3, 4, encoder.dim)


@torch.no_grad()
def test_tokens_of_clip_are_projected_as_its_class_token(vision_folder, posters):
    encoder = HuggingFaceImage(str(vision_folder("clip")), pool="projection", num_tokens=1)
    encode(encoder, *posters)
    hidden = torch.randn(2, 3, 16)
    network = encoder.network
    expected = network.visual_projection(network.vision_model.post_layernorm(hidden))
    assert same(encoder._projected(hidden), expected)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["pooler", "cls", "mean"])
def test_dinov3_is_the_normalised_class_token(vision_folder, pool):
    from transformers import AutoModel, DINOv3ViTImageProcessor

    folder = vision_folder("dinov3")
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(2)]
    model, processor = AutoModel.from_pretrained(folder).eval(), DINOv3ViTImageProcessor.from_pretrained(folder)
    out = model(**processor(images=images, return_tensors="pt"))
    assert out.last_hidden_state.shape[1] == 1 + 4 + 16
    pools = {"pooler": out.pooler_output, "cls": out.last_hidden_state[:, 0], "mean": out.last_hidden_state[:, 5:].mean(dim=1)}
    assert same(encode(HuggingFaceImage(str(folder), pool=pool), *map(png, images)).vector, pools[pool])


@pytest.mark.parametrize("family", ["clip", "siglip2", "dinov3"])
def test_pixels_are_within_a_level_of_the_processors(vision_folder, posters, family):
    from transformers import AutoImageProcessor

    folder = vision_folder(family)
    processor = AutoImageProcessor.from_pretrained(folder)
    encoder = HuggingFaceImage(str(folder), pool="pooler" if family == "dinov3" else "projection")
    rows = [encoder.preparation.store(path) for path in posters]
    images = [Image.open(path).convert("RGB") for path in posters]
    expected = processor(images=images, do_normalize=False, return_tensors="pt")["pixel_values"] * 255
    found = torch.stack([torch.from_numpy(row) for row in rows]).permute(0, 3, 1, 2)
    assert (found - expected).abs().max() <= 2 and (found - expected).abs().mean() < 0.5


def test_the_settings_of_the_processor_are_read(vision_folder):
    clip, siglip = (HuggingFaceImage(str(vision_folder(name)), pool="projection").preparation for name in ("clip", "siglip2"))
    assert (clip.size, clip.mode, clip.interpolation, clip.edge) == ((32, 32), "center", "bicubic", 33)
    assert (siglip.size, siglip.mode, siglip.interpolation) == ((32, 32), "squash", "bilinear")
    assert clip.fingerprint != siglip.fingerprint


@pytest.mark.parametrize(
    ("change", "words"),
    [({"do_rescale": False}, "asks for do_rescale=False"), ({"size": {"longest_edge": 40}}, "size={'longest_edge': 40}")],
)
def test_a_processor_of_another_kind_is_refused(vision_folder, tmp_path, change, words):
    folder = shutil.copytree(vision_folder("siglip2"), tmp_path / "odd")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=f"{words}.*choose another encoder/image"):
        HuggingFaceImage(str(folder), pool="projection").preparation


def test_a_folder_without_its_processor_is_refused(vision_folder, tmp_path):
    folder = shutil.copytree(vision_folder("dinov3"), tmp_path / "bare")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"holds no preprocessor_config\.json; save the image processor"):
        HuggingFaceImage(str(folder)).check()


@pytest.mark.parametrize(
    ("make", "family", "pool", "words"),
    [
        (HuggingFaceText, "clip", "mean", r"encoder\.text\.pool=mean: .* \(clip\) has two; give pool=projection"),
        (HuggingFaceImage, "clip", "pooler", r"encoder\.image\.pool=pooler: .* has two; give pool=projection"),
        (HuggingFaceImage, "dinov3", "projection", "has no tower for texts; give pool=pooler"),
        (HuggingFaceImage, "bert", "pooler", "bert is no encoder of images"),
        (HuggingFaceText, "bert", "projection", "has no tower for images; give pool=mean or cls"),
    ],
)
def test_a_pool_that_the_network_lacks_is_refused(vision_folder, text_folder, tmp_path, make, family, pool, words):
    folder = shutil.copytree(text_folder() if family == "bert" else vision_folder(family), tmp_path / "network")
    if family == "bert":
        shutil.copy(vision_folder("dinov3") / "preprocessor_config.json", folder)
    with pytest.raises(UserError, match=words):
        make(str(folder), pool=pool, **({"max_tokens": 20} if make is HuggingFaceText else {})).build()


def test_one_tower_holds_no_weight_of_the_other(vision_folder):
    for make, own, options in ((HuggingFaceText, "text", {"max_tokens": 24}), (HuggingFaceImage, "vis", {})):
        encoder = make(str(vision_folder("clip")), pool="projection", **options)
        encoder.build()
        assert {name.split(".")[1][: len(own)] for name in encoder.state_dict() if name.startswith("network.")} == {own}
        assert len(encoder.blocks()) == 4


def test_more_tokens_than_a_tower_reads_are_an_error(vision_folder):
    with pytest.raises(UserError, match=r"max_tokens=77: .* reads at most 24; give 24 or less"):
        HuggingFaceText(str(vision_folder("clip")), pool="projection", max_tokens=77).check()


def test_the_log_counts_texts_that_are_cut(vision_folder, caplog):
    encoder = HuggingFaceText(str(vision_folder("clip")), pool="projection", max_tokens=24)
    column = SimpleNamespace(lengths=np.array([24, 7, 0, 24]), present=np.array([True, True, False, True]))
    with caplog.at_level("INFO"):
        build._log_cut(encoder, column)
    assert "2 of 3 texts reach encoder.text.max_tokens=24 and are cut there" in caplog.text


def test_the_fingerprints_name_prefix_case_and_padding(text_folder):
    def prints(**options):
        encoder = HuggingFaceText(str(text_folder()), **options)
        return encoder.preparation.fingerprint, encoder.fingerprint

    plain = prints()
    for options, at in (
        ({"prefix": "query: "}, 0),
        ({"lower": True}, 0),
        ({"unit_length": True}, 1),
        ({"fixed_length": True}, 1),
    ):
        changed = prints(**options)
        assert changed[at] != plain[at] and changed[1 - at] == plain[1 - at], options


def test_a_gated_repository_tells_how_to_get_it(offline):
    name = "facebook/dinov3-vitb16-pretrain-lvd1689m"
    with pytest.raises(UserError) as caught:
        weights.find(name, "encoder.image.name")
    sentence = str(caught.value)
    assert f"accept the licence on https://huggingface.co/{name}" in sentence
    assert "hf auth login" in sentence and f"hf download {name}" in sentence and "encoder.image.name=FOLDER" in sentence


@pytest.mark.parametrize("part", ["text_config", "vision_config"])
def test_code_named_in_a_towers_settings_is_refused(vision_folder, tmp_path, part):
    folder = shutil.copytree(vision_folder("clip"), tmp_path / "clip")
    config = json.loads((folder / "config.json").read_text())
    config[part]["attn_implementation"] = "somebody/kernel"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="holds attn_implementation, by which a network loads code"):
        HuggingFaceText(str(folder), pool="projection", max_tokens=24).build()


def png(image: Image.Image) -> bytes:
    import io

    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
