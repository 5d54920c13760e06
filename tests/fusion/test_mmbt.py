"""MMBT reads other modalities as tokens before the plot; with text alone it gives the text encoder's features."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from gmu_lightning.encoders.text.huggingface import HuggingFaceText, Prefix
from gmu_lightning.encoders.text.tokens import TokenInputs
from gmu_lightning.encoders.vector import Vector
from gmu_lightning.fusion import GMU, MMBT
from gmu_lightning.fusion.mmbt import shortened
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import Features, MovieBatch, UserError

FAMILIES = ("bert", "distilbert", "roberta")
WIDTH = 16
SIZES = {"text": WIDTH, "image": 5, "video": 3}
PLOTS = ("a thief robs a bank", "love")
ALL = torch.ones(2, 3, dtype=torch.bool)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a function: family -> a folder with a tiny random network, written by save_pretrained."""

    @cache
    def made(family: str) -> Path:
        import transformers
        from tokenizers import Tokenizer, models, pre_tokenizers, processors

        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({word for plot in PLOTS for word in plot.split()})]
        tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        path = tmp_path_factory.mktemp(family)
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(path)
        common = {"vocab_size": len(words), "pad_token_id": 0, "max_position_embeddings": 64, "initializer_range": 0.5}
        shape = {"hidden_size": WIDTH, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if family == "distilbert":
                config = transformers.DistilBertConfig(dim=WIDTH, hidden_dim=32, n_layers=2, n_heads=2, **common)
                network = transformers.DistilBertModel(config)
            elif family == "roberta":
                network = transformers.RobertaModel(transformers.RobertaConfig(type_vocab_size=1, **shape, **common))
            else:
                network = transformers.BertModel(transformers.BertConfig(**shape, **common))
        network.save_pretrained(path)
        return path

    return made


@pytest.fixture(scope="module")
def text(folder):
    """Return a function: (family, options) -> a built text encoder in evaluation mode."""

    def made(family: str = "bert", **options) -> HuggingFaceText:
        encoder = HuggingFaceText(str(folder(family)), **{"max_tokens": 32} | options)
        encoder.build()
        return encoder.eval()

    return made


def fusion(sizes: dict[str, int] = SIZES, **options) -> MMBT:
    torch.manual_seed(3)
    return MMBT(sizes, **options).eval()


def movies(encoder: HuggingFaceText, present: torch.Tensor = ALL, fill: float = 0.0) -> MovieBatch:
    """Return two movies with plots, posters as vectors and videos as five frames; absent features are `fill`."""
    torch.manual_seed(4)
    rows = [encoder.preparation.store(plot) if there else None for plot, there in zip(PLOTS, present[:, 0], strict=True)]
    image, video = torch.randn(2, 5), torch.randn(2, 5, 3)
    image = image.masked_fill(~present[:, 1, None], fill)
    video = video.masked_fill(~present[:, 2, None, None], fill)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    features = {"image": Features(image), "video": Features(video.mean(1), video, mask)}
    return MovieBatch(("a", "b"), {"text": encoder.preparation.batch(rows, False), **features}, present, None)


def read(unit: MMBT, encoder: HuggingFaceText, batch: MovieBatch) -> torch.Tensor:
    encoded = unit.encode({"text": encoder, "image": None, "video": None}, batch, lambda _, features, __: features)
    assert list(encoded) == ["text"]
    return unit({"text": encoded["text"].vector}, batch.present).vector


def classifier(encoder: HuggingFaceText, normalise: str, dropout: float = 0.0) -> MovieGenreClassifier:
    """Return the model in evaluation mode; `standardise` is fitted to a mean of 5 and a deviation of 3."""
    others = {m: Vector(m, SIZES[m], freeze="all", normalise=normalise, dropout=dropout) for m in ("image", "video")}
    model = MovieGenreClassifier({"text": encoder, **others}, fusion(), 4, nn.BCEWithLogitsLoss()).eval()
    if normalise == "standardise":
        for m in others:
            model.normalisers[m].fit([torch.randn(50, SIZES[m]) * 3 + 5])
    return model


def embeddings_of(model: MovieGenreClassifier, batch: MovieBatch) -> torch.Tensor:
    """Return the embeddings that the transformer receives: a poster, a separator, five frames, a separator, the plot."""
    seen: dict[str, torch.Tensor] = {}
    network = model.encoders["text"].network
    hook = network.register_forward_pre_hook(lambda _, __, given: seen.update(given), with_kwargs=True)
    model(batch)
    hook.remove()
    return seen["inputs_embeds"]


def only(*there: str) -> torch.Tensor:
    return torch.tensor([[m in there for m in SIZES]] * 2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_text_alone_gives_the_encoder_s_features_despite_nan(text, family, pool):
    encoder = text(family, pool=pool)
    batch = movies(encoder, only("text"), fill=float("nan"))
    assert torch.allclose(read(fusion(), encoder, batch), encoder(batch.inputs["text"]).vector, atol=1e-5)


def test_pooler_reads_the_plot_s_first_token(text):
    encoder = text("bert", pool="pooler")
    batch = movies(encoder, only("text"))
    assert torch.allclose(read(fusion(), encoder, batch), encoder(batch.inputs["text"]).vector, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("there", ["image", "video"])
def test_other_modalities_change_the_plot_s_features(text, family, there):
    encoder = text(family)
    batch = movies(encoder, only("text", there))
    assert (read(fusion(), encoder, batch) - encoder(batch.inputs["text"]).vector).abs().max() > 1e-3


def test_tokens_and_separators_precede_the_plot(text):
    encoder, unit, seen = text("bert"), fusion(), {}
    hook = encoder.network.register_forward_pre_hook(lambda _, __, given: seen.update(given), with_kwargs=True)
    batch = movies(encoder)
    read(unit, encoder, batch)
    hook.remove()
    words = encoder.network.get_input_embeddings()
    image = unit.project["image"](batch.inputs["image"].vector)
    assert torch.allclose(seen["inputs_embeds"][:, 0], image)
    assert torch.allclose(seen["inputs_embeds"][:, [1, 7]], words.weight[3].expand(2, 2, -1))
    assert torch.equal(seen["inputs_embeds"][:, 8:], words(batch.inputs["text"].ids))
    assert seen["position_ids"][1, :8].tolist() == [0, 1, 0, 1, 2, 3, 4, 3]  # the separator follows the three real frames
    assert seen["position_ids"][0].tolist() == [0, 1, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 6]
    assert seen["token_type_ids"][0].tolist() == [1] * 8 + [0] * 7
    assert seen["attention_mask"][1].tolist() == [1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("normalise", ["layer", "batch", "standardise"])
def test_other_modalities_are_normalised_before_projection(text, normalise):
    encoder = text("bert", freeze="all", normalise="none")
    model, batch = classifier(encoder, normalise).train(normalise == "batch"), movies(encoder)
    seen, raw, (_, frames, mask) = embeddings_of(model, batch), batch.inputs["image"].vector, batch.inputs["video"]
    image = model.normalisers["image"](raw, ALL[:, 1])
    video = model.normalisers["video"](frames.flatten(0, 1), mask.flatten()).view_as(frames)
    assert torch.allclose(seen[:, 0], model.fusion.project["image"](image), atol=1e-5)
    assert torch.allclose(seen[:, 2:7][mask], model.fusion.project["video"](video)[mask], atol=1e-5)
    assert (image - raw).abs().max() > 0.1
    assert (video - frames)[mask].abs().max() > 0.1


@pytest.mark.parametrize("training", [True, False])
def test_dropout_precedes_projection_in_training_only(text, training):
    encoder = text("bert", freeze="all", normalise="none")
    model, plain, batch = classifier(encoder, "none", dropout=1 - 1e-9), classifier(encoder, "none"), movies(encoder)
    seen, kept = embeddings_of(model.train(training), batch), embeddings_of(plain, batch)
    assert torch.equal(seen[:, 0], kept[:, 0]) != training
    if training:
        assert torch.allclose(seen[:, 0], model.fusion.project["image"].bias.expand(2, -1))
        assert torch.allclose(seen[1, 2:5], model.fusion.project["video"].bias.expand(3, -1))


@pytest.mark.parametrize("normalise", ["layer", "batch", "standardise"])
def test_absent_nan_has_no_effect_with_any_normaliser(text, normalise):
    encoder = text("bert", normalise="none")
    model, batch = classifier(encoder, normalise), movies(encoder, only("text"), fill=float("nan"))
    alone = model.head(model.fusion({"text": encoder(batch.inputs["text"]).vector}, batch.present))
    assert torch.allclose(model(batch).logits, alone, atol=1e-5)


def test_each_modality_has_its_own_segment(text):
    encoder, unit = text("bert"), fusion()
    batches = {there: movies(encoder, only("text", there)) for there in ("image", "video")}
    before = {there: read(unit, encoder, batch) for there, batch in batches.items()}
    with torch.no_grad():
        unit.segments["image"] += torch.linspace(-1, 1, WIDTH)
    assert not torch.allclose(read(unit, encoder, batches["image"]), before["image"], atol=1e-4)
    assert torch.equal(read(unit, encoder, batches["video"]), before["video"])


@pytest.mark.parametrize("family", FAMILIES)
def test_movie_without_a_plot_gets_an_empty_plot(text, family):
    encoder, unit = text(family), fusion()
    present = torch.tensor([[True, True, True], [False, True, True]])
    batch = movies(encoder, present)
    rows = [encoder.preparation.store(PLOTS[0]), encoder.preparation.store("")]
    empty = batch._replace(inputs=batch.inputs | {"text": encoder.preparation.batch(rows, False)}, present=ALL)
    assert torch.allclose(read(unit, encoder, batch), read(unit, encoder, empty), atol=1e-5)


def test_empty_plots_widen_a_batch_without_plots(text):
    encoder = text("bert")
    inputs = movies(encoder, only("image")).inputs["text"]
    assert inputs.ids.shape == (2, 1)
    emptied = encoder.emptied(inputs, torch.tensor([True, False]))
    assert emptied.ids[0].tolist() == [2, 3]
    assert emptied.mask.tolist() == [[True, True], [True, False]]


def test_movie_without_any_modality_gives_zeros(text):
    encoder, unit = text("bert"), fusion(dim=4)
    present = torch.tensor([[True, True, True], [False, False, False]])
    found = read(unit, encoder, movies(encoder, present, fill=float("nan")))
    assert not found[1].any()
    assert torch.allclose(found[0], read(unit, encoder, movies(encoder))[0], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_independent_of_batch_and_padding(text, family):
    encoder, unit = text(family), fusion()
    batch = movies(encoder)
    together = read(unit, encoder, batch)
    image, video = batch.inputs["image"], batch.inputs["video"]
    alone = {"image": Features(image.vector[1:]), "video": Features(video.vector[1:], video.sequence[1:, :3])}
    alone["text"] = TokenInputs(batch.inputs["text"].ids[1:, :3], batch.inputs["text"].mask[1:, :3])
    assert torch.allclose(read(unit, encoder, MovieBatch(("b",), alone, ALL[1:], None))[0], together[1], atol=1e-5)


def test_long_sequences_are_averaged_over_real_tokens():
    tokens = torch.arange(1.0, 6).repeat(3, 1)[..., None]
    mask = torch.tensor([[True] * 5, [True, True, True, False, False], [False] * 5])
    short, real = shortened(tokens, mask, 2)
    assert short.squeeze(-1).tolist() == [[2, 4.5], [1.5, 3], [0, 0]]
    assert real.tolist() == [[True, True], [True, True], [False, False]]
    same, real = shortened(tokens, mask, 9)
    assert torch.equal(same, tokens * mask[..., None])
    assert torch.equal(real, mask)


def test_dim_adds_a_hidden_layer(text):
    encoder = text("bert")
    batch, unit = movies(encoder), fusion(dim=4)
    plain = read(fusion(), encoder, batch)
    assert fusion().size == WIDTH
    assert unit.size == 4
    torch.manual_seed(3)
    unit.project.load_state_dict(fusion().project.state_dict())
    assert torch.allclose(read(unit, encoder, batch), torch.tanh(unit.hidden[0](plain)), atol=1e-5)


@pytest.mark.parametrize("freeze", ["none", "all"])
def test_gradients_reach_all_but_a_frozen_text_encoder(text, freeze):
    encoder, unit = text("bert", freeze=freeze), fusion(dim=4)
    read(unit, encoder, movies(encoder)).pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in unit.parameters())
    assert any(p.grad is not None for p in encoder.parameters()) == (freeze == "none")


def test_absent_nan_leaves_gradients_finite(text):
    encoder, unit = text("bert"), fusion()
    read(unit, encoder, movies(encoder, only("text"), fill=float("nan"))).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in [*unit.parameters(), *encoder.parameters()] if p.grad is not None)


def test_prefix_of_another_width_is_refused(text):
    encoder = text("bert")
    with pytest.raises(UserError, match="bert reads no tokens but words; choose one like BERT, or another fusion"):
        encoder(movies(encoder).inputs["text"], _narrow_prefix())


def test_declarations():
    assert (MMBT.needs, MMBT.requires) == ("tokens", ("text",))
    assert GMU.requires == ()
    assert HuggingFaceText.takes_prefix


def _narrow_prefix():
    return Prefix(torch.zeros(2, 1, 4), torch.ones(2, 1, dtype=torch.bool), torch.zeros(2, 1, dtype=torch.int64))
