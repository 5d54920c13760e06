"""Tiny pretrained networks with real architectures, real files and a few thousand weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from gmu_lightning.encoders.trailers import decoder_pool

from . import clips
from .networks import byte_pairs, vision_network

PLOTS = [
    "A thief robs a bank.",
    "A young pilot falls in love with the sister of his best friend, and then the war begins; nothing will ever be the same.",
    "Two detectives hunt a murderer through the rain.",
]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Make the hub unreachable and its cache empty."""
    from gmu_lightning.encoders import weights

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    weights.reachable.cache_clear()
    yield
    weights.reachable.cache_clear()


@pytest.fixture(scope="session")
def check_encoder() -> Callable[..., None]:
    from gmu_lightning import testing

    return testing.check_encoder


@pytest.fixture(scope="session")
def plots() -> list[str]:
    return PLOTS


@pytest.fixture(scope="session")
def posters(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("posters")
    paths = []
    for n, size in enumerate([(120, 180), (300, 200), (90, 90)]):
        pixels = torch.randint(
            0, 256, (size[1] // 10, size[0] // 10, 3), generator=torch.Generator().manual_seed(n), dtype=torch.uint8
        )
        paths.append(folder / f"{n}.jpeg")
        Image.fromarray(pixels.numpy()).resize(size, Image.Resampling.BICUBIC).save(paths[-1], quality=95)
    return paths


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory) -> Callable[..., Path]:
    """Return a function of (family, dtype, with_pooler) that saves a tiny text network of one of these families.

    They are `bert`, `distilbert`, `fnet`, `modernbert` and `roberta`.
    """
    made: dict[tuple, Path] = {}

    def make(family: str = "bert", dtype: torch.dtype = torch.float32, with_pooler: bool = True) -> Path:
        key = (family, dtype, with_pooler)
        if key not in made:
            folder = tmp_path_factory.mktemp(family)
            tokenizer = byte_pairs(PLOTS) if family in ("roberta", "modernbert") else _word_pieces()
            tokenizer.save_pretrained(folder)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                network = _text_network(family, len(tokenizer), with_pooler)
            network.to(dtype).save_pretrained(folder)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def sound_folder(tmp_path_factory) -> Callable[[str], Path]:
    """Return a function that saves a tiny `ast`, `wav2vec2` or `whisper` for 16 kHz, with its feature extractor."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                network, extractor = _sound_network(family)
            network.save_pretrained(folder)
            extractor.save_pretrained(folder)
            made[family] = folder
        return made[family]

    return make


def _sound_network(family: str) -> tuple[Any, Any]:
    import transformers as t

    shape = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    if family == "ast":
        patches = {"patch_size": 8, "frequency_stride": 8, "time_stride": 8}
        config = t.ASTConfig(num_mel_bins=16, max_length=64, **patches, **shape)
        return t.ASTForAudioClassification(config), t.ASTFeatureExtractor(num_mel_bins=16, max_length=64)
    if family == "wav2vec2":
        layers = {"conv_dim": (8, 8, 8, 8), "conv_stride": (5, 4, 4, 4), "conv_kernel": (10, 8, 4, 4)}
        positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
        config = t.Wav2Vec2Config(vocab_size=10, mask_time_length=2, **layers, **positions, **shape)
        return t.Wav2Vec2ForCTC(config), t.Wav2Vec2FeatureExtractor()
    stacks = {f"{stack}_{what}": n for stack in ("encoder", "decoder") for what, n in (("layers", 3), ("attention_heads", 2))}
    ids = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = t.WhisperConfig(d_model=16, num_mel_bins=16, max_source_positions=50, **stacks, **ids)
    return t.WhisperForConditionalGeneration(config), t.WhisperFeatureExtractor(feature_size=16, chunk_length=1)


@pytest.fixture(scope="session")
def trailers(tmp_path_factory) -> Iterator[list[Path]]:
    """Return three trailers of 1, 2 and 3 seconds."""
    folder = tmp_path_factory.mktemp("trailers")
    yield [clips.write(folder / f"{n}.mp4", n, noise=n, tone=200.0 * n) for n in (1, 2, 3)]
    decoder_pool.release()


@pytest.fixture(scope="session")
def sounds(tmp_path_factory) -> list[Path]:
    """Return three trailers without a picture, of 0.3, 1.6 and 25 seconds."""
    folder = tmp_path_factory.mktemp("sounds")
    lengths = (0.3, 1.6, 25.0)
    return [clips.write(folder / f"{n}.mp4", length, picture=False, tone=200.0 * (n + 1)) for n, length in enumerate(lengths)]


def _text_network(family: str, vocabulary: int, with_pooler: bool) -> torch.nn.Module:
    import transformers

    shape: dict[str, Any] = {"vocab_size": vocabulary, "num_attention_heads": 2, "num_hidden_layers": 3}
    if family == "distilbert":
        config = transformers.DistilBertConfig(
            dim=16, hidden_dim=32, n_layers=3, n_heads=2, vocab_size=vocabulary, max_position_embeddings=512
        )
        return transformers.DistilBertModel(config)
    if family == "modernbert":
        ids = {"pad_token_id": 1, "bos_token_id": 0, "cls_token_id": 0, "eos_token_id": 2, "sep_token_id": 2}
        return transformers.ModernBertModel(
            transformers.ModernBertConfig(
                **shape | {"num_hidden_layers": 4}, hidden_size=16, intermediate_size=24, local_attention=6, **ids
            )
        )
    if family == "roberta":
        config = transformers.RobertaConfig(hidden_size=16, intermediate_size=32, max_position_embeddings=514, **shape)
        return transformers.RobertaModel(config, add_pooling_layer=with_pooler)
    if family == "fnet":
        return transformers.FNetModel(
            transformers.FNetConfig(
                vocab_size=vocabulary, hidden_size=16, num_hidden_layers=2, intermediate_size=32, max_position_embeddings=512
            )
        )
    config = transformers.BertConfig(hidden_size=16, intermediate_size=32, max_position_embeddings=512, **shape)
    return transformers.BertModel(config, add_pooling_layer=with_pooler)


def _word_pieces() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({word.strip(".,;").lower() for text in PLOTS for word in text.split()})
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", ";", *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@pytest.fixture(scope="session")
def vision_folder(tmp_path_factory) -> Callable[[str], Path]:
    """Return a function that saves a tiny `clip`, `siglip2` or `dinov3` with its image processor, and its tokenizer if any."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                parts = vision_network(family, PLOTS)
            for part in parts:
                part.save_pretrained(folder)
            made[family] = folder
        return made[family]

    return make


SMALL = {
    "resnet50": {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]},
    "resnet152": {"layers": [1, 2, 1, 1], "channels": [4, 4, 8, 8]},
    "vgg16": {"mlp_ratio": 0.01},
    "vit_small_patch16_224": {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64},
    "tf_efficientnet_lite0": {},
    "resnet18": {"layers": [1, 1, 1, 1], "channels": [16, 16, 16, 16]},  # fewer crash oneDNN: issue 6035 of uxlfoundation/oneDNN
}


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Callable[[str], Path]:
    """Return a function that saves a narrow network for 64 pixels, in the layout of timm's repositories on the hub."""
    import timm
    from safetensors.torch import save_file

    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                network = timm.create_model(architecture, num_classes=7, **SMALL[architecture])
            save_file({key: value.contiguous() for key, value in network.state_dict().items()}, folder / "model.safetensors")
            described = timm.get_pretrained_cfg(architecture).to_dict() | {"input_size": [3, 64, 64], "num_classes": 7}
            config = {"architecture": architecture, "pretrained_cfg": described, "model_args": SMALL[architecture]}
            (folder / "config.json").write_text(json.dumps(config))
            made[architecture] = folder
        return made[architecture]

    return make
