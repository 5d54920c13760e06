"""The model: inputs of its encoders and head, trained parameters, and contents of its checkpoints."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from gmu_lightning.encoders.base import Encoder
from gmu_lightning.fusion import GMU, Concat, Fusion, Late, Max, Mean
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import Features, Fused, MovieBatch
from gmu_lightning.nn.normalise import Standardise
from gmu_lightning.optimisation import plateau, warmup

SIZES = {"text": 3, "image": 4}
GENRES = 5
B = 6


class Toy(Encoder):
    """Return tanh(W x + b) of finite rows, and count the rows."""

    def __init__(self, modality: str, **common):
        super().__init__(modality, **{"pretrained": False, "normalise": "none"} | common)
        self.shown = 0

    @property
    def dim(self) -> int:
        return SIZES[self.modality]

    def blocks(self) -> list[nn.Module]:
        return [self.network]

    def _load(self) -> nn.Module:
        return nn.Linear(self.dim, self.dim)

    def forward(self, inputs: Tensor) -> Features:
        assert torch.isfinite(inputs).all()
        self.shown += len(inputs)
        return Features(torch.tanh(self.network(inputs)))


def toys(text: dict | None = None, image: dict | None = None) -> dict[str, Toy]:
    encoders = {"text": Toy("text", **text or {}), "image": Toy("image", **image or {})}
    for encoder in encoders.values():
        encoder.build()
    return encoders


FROZEN = {"pretrained": True, "freeze": "all"}


def made(encoders: dict[str, Toy] | None = None, fusion: Fusion | None = None, **options) -> MovieGenreClassifier:
    torch.manual_seed(0)
    encoders = encoders or toys()
    fusion = fusion or GMU("original", SIZES, dim=8)
    return MovieGenreClassifier(encoders, fusion, GENRES, nn.BCEWithLogitsLoss(), **options)


def batch(present: Tensor | None = None, absent: float = float("nan")) -> MovieBatch:
    """Return six movies; by default one lacks text, one lacks a poster, one lacks both."""
    torch.manual_seed(1)
    if present is None:
        present = torch.ones(B, 2, dtype=torch.bool)
        present[1, 0] = present[2, 1] = present[3, 0] = present[3, 1] = False
    inputs = {m: torch.randn(B, d).masked_fill(~present[:, i, None], absent) for i, (m, d) in enumerate(SIZES.items())}
    return MovieBatch(tuple("abcdef"), inputs, present, (torch.rand(B, GENRES) > 0.5).float())


def rows(whole: MovieBatch, n: slice) -> MovieBatch:
    return MovieBatch(whole.ids[n], {m: x[n] for m, x in whole.inputs.items()}, whole.present[n], whole.labels[n])


def test_absent_rows_skip_encoders_and_have_no_effect():
    encoders = toys()
    model = made(encoders).eval()
    logits = model(batch()).logits
    assert [encoder.shown for encoder in encoders.values()] == [4, 4]
    assert torch.equal(logits, model(batch(absent=7.0)).logits)


@pytest.mark.parametrize("normalise", ["none", "layer", "batch"])
def test_absent_nan_features_change_no_loss_or_gradient(normalise):
    def gradients(absent: float) -> list[Tensor]:
        model = made(toys({"normalise": normalise}, {"normalise": normalise}))
        seen = batch(absent=absent)
        seen = seen._replace(inputs={m: Features(x) for m, x in seen.inputs.items()})
        model.training_step(seen, 0).backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    for found, expected in zip(gradients(float("nan")), gradients(0.0), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("normalise", ["none", "layer", "batch"])
def test_evaluation_is_independent_of_the_batch(normalise):
    model = made(toys({"normalise": normalise, "dropout": 0.5, "modality_dropout": 0.5}))
    model(batch())  # moves the running statistics from their initial values
    model.eval()
    whole = model(batch())
    for n in range(B):
        alone = model(rows(batch(), slice(n, n + 1)))
        assert torch.allclose(alone.logits[0], whole.logits[n], atol=1e-6)


def test_movie_without_any_modality_gets_the_bias():
    model = made().eval()
    assert torch.allclose(model(batch()).logits[3].float(), model.head.bias)


@pytest.mark.parametrize("fusion", [GMU("original", SIZES), GMU("softmax", SIZES), Mean(SIZES), Concat(SIZES)])
def test_bias_and_contributions_sum_to_the_logit(fusion):
    model = made(fusion=fusion).eval()
    prediction = model(batch())
    assert prediction.contributions.shape == (B, 2, GENRES)
    assert torch.allclose(prediction.contributions.sum(dim=1) + model.head.bias, prediction.logits.double(), atol=1e-5)
    assert (prediction.contributions[1, 0] == 0).all()
    assert (prediction.contributions[2, 1] == 0).all()


@pytest.mark.parametrize("fusion", [Late(SIZES), Max(SIZES)])
def test_non_additive_fusions_have_no_contributions(fusion):
    assert made(fusion=fusion).eval()(batch()).contributions is None


def test_training_computes_only_logits():
    prediction = made().train()(batch())
    assert prediction.contributions is None
    assert prediction.gates is None


def test_training_loss_compares_logits_and_labels():
    model = made()
    loss = model.training_step(batch(), 0)
    assert loss.item() == pytest.approx(
        nn.functional.binary_cross_entropy_with_logits(model(batch()).logits, batch().labels).item()
    )
    assert model.train_loss.compute().item() == pytest.approx(loss.item())


class Seen(Mean):
    """Mean that records `present`."""

    def forward(self, inputs, present=None):
        self.present = present
        return super().forward(inputs, present)


def dropped_share(rates: tuple[float, float], present: Tensor, training: bool, tries: int = 200) -> Tensor:
    """Return the share of tries in which each modality of each movie was dropped, (B, M)."""
    encoders = toys({"modality_dropout": rates[0]}, {"modality_dropout": rates[1]})
    model = made(encoders, Seen(SIZES)).train(training)
    movies, count = batch(present), torch.zeros(present.shape)
    for _ in range(tries):
        model(movies)
        kept = model.fusion.present
        assert not (kept & ~present).any()
        assert (kept.any(dim=1) == present.any(dim=1)).all()
        count += (present & ~kept).float()
    return count / tries


def test_modality_dropout_keeps_a_movie_s_last_modality():
    frequency = dropped_share((0.9, 0.9), batch().present, training=True)
    assert (frequency[1] == 0).all()  # a poster alone
    assert (frequency[2] == 0).all()  # a plot alone
    assert (frequency[[0, 4, 5]] > 0).all()


def test_modality_dropout_has_a_probability_per_modality():
    present = torch.ones(B, 2, dtype=torch.bool)
    frequency = dropped_share((0.3, 0.0), present, training=True).mean(dim=0)
    assert frequency[0].item() == pytest.approx(0.3, abs=0.06)
    assert frequency[1] == 0


def test_modality_dropout_is_off_in_evaluation():
    assert not dropped_share((0.9, 0.9), torch.ones(B, 2, dtype=torch.bool), training=False, tries=5).any()


def test_each_modality_has_its_own_dropout():
    model = made(toys({"dropout": 0.5}))
    assert [layer.p for layer in model.dropouts.values()] == [0.5, 0.0]


def test_checkpoint_omits_constant_encoders_and_loads():
    model = made(toys(FROZEN, {"normalise": "batch"}))
    model(batch())
    state = model.state_dict()
    assert not [key for key in state if key.startswith("encoders.text.")]
    assert {"encoders.image.network.weight", "fusion.gate.weight", "normalisers.image.running_mean", "head.bias"} <= set(state)
    other = MovieGenreClassifier(
        toys(FROZEN, {"normalise": "batch"}), GMU("original", SIZES, dim=8), GENRES, nn.BCEWithLogitsLoss()
    )
    other.encoders["text"].load_state_dict(model.encoders["text"].state_dict())
    other.load_state_dict(state)
    assert torch.equal(other.eval()(batch()).logits, model.eval()(batch()).logits)


def test_checkpoint_holds_an_encoder_that_unfreezes_later():
    state = made(toys(FROZEN | {"unfreeze_at_epoch": 1})).state_dict()
    assert "encoders.text.network.weight" in state


def test_checkpoint_of_another_model_is_refused():
    model = made(toys(FROZEN))
    state = model.state_dict()
    del state["head.bias"]
    with pytest.raises(RuntimeError, match=r"of another model: missing \['head.bias'\]"):
        model.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"unexpected \['extra'\]"):
        model.load_state_dict(model.state_dict() | {"extra": torch.zeros(1)})


def adamw(params: list[dict], lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=lr)


def test_encoders_may_have_their_own_learning_rate():
    model = made(toys(FROZEN, {"lr": 0.5, "normalise": "layer"}), optimizer=adamw, lr=0.1, weight_decay=0.2)
    groups = model.configure_optimizers().param_groups
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    names = {name: found.get(id(p)) for name, p in model.named_parameters()}
    assert names["encoders.text.network.weight"] is None
    assert names["encoders.image.network.weight"] == (0.5, 0.2)
    assert names["encoders.image.network.bias"] == (0.5, 0.0)
    assert names["normalisers.image.weight"] == (0.1, 0.0)
    assert names["fusion.gate.weight"] == names["head.weight"] == (0.1, 0.2)
    assert {name for name, rate in names.items() if rate is None} == {
        "encoders.text.network.weight",
        "encoders.text.network.bias",
    }


def test_lr_scale_affects_only_the_fusion():
    fusion = GMU("original", SIZES, dim=8)
    fusion.lr_scale = 0.3
    model = made(toys(FROZEN), fusion, optimizer=adamw, lr=0.1)
    rates = {id(p): group["lr"] for group in model.configure_optimizers().param_groups for p in group["params"]}
    assert rates[id(model.head.weight)] == 0.1
    assert [rates[id(p)] for p in fusion.parameters()] == pytest.approx([0.03] * len(list(fusion.parameters())))


def test_warmup_steps_per_update():
    model = made(optimizer=adamw, scheduler=partial(warmup, share=0.5, decay="linear"), total_steps=lambda: 8)
    (optimizer,), (configured,) = model.configure_optimizers()
    assert configured["interval"] == "step"
    schedule = configured["scheduler"]
    for _ in range(8):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr()[0] == 0


def test_a_plateau_is_kept_from_lightning():
    model = made(optimizer=adamw, scheduler=partial(plateau, share=0.5), total_steps=lambda: 8)
    (optimizer,), (rise,) = model.configure_optimizers()
    assert rise["interval"] == "step"
    (schedule,) = model.plateaus
    assert schedule.optimizer is optimizer


def test_standardise_must_be_fitted_first():
    model = made(toys({"normalise": "standardise"})).eval()
    with pytest.raises(RuntimeError, match="not fitted on train"):
        model(batch())
    normaliser = model.normalisers["text"]
    assert isinstance(normaliser, Standardise)
    normaliser.fit([torch.randn(10, 3)])
    assert torch.isfinite(model(batch()).logits).all()


def test_training_lowers_the_loss():
    model = made(optimizer=adamw, lr=0.05)
    optimizer = model.configure_optimizers()
    losses = []
    for _ in range(60):
        loss = model.training_step(batch(), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


class Together(Fusion):
    """Read all modalities together in `encode`, like a transformer over all tokens."""

    needs, requires = "tokens", ("text",)

    def encode(self, encoders, batch: MovieBatch, scale) -> dict[str, Features]:
        text, image = (torch.where(p[:, None], x, 0.0) for x, p in zip(batch.inputs.values(), batch.present.T, strict=True))
        image = torch.where(batch.present[:, 1:], scale("image", Features(image), batch.present[:, 1]).vector, 0.0)
        return {"text": scale("text", Features(text + image[:, :3]), batch.present.any(dim=1))}

    def forward(self, inputs, present: Tensor | None = None) -> Fused:
        assert list(inputs) == ["text"]
        return Fused(inputs["text"])


def test_token_fusion_predicts_movies_without_a_plot():
    model = made(fusion=Together(SIZES, dim=3)).eval()
    seen = batch()
    logits, bias = model(seen).logits, model.head.bias
    poster_only, empty = 1, 3
    expected = model.head(Fused(seen.inputs["image"][[poster_only], :3]))
    assert torch.allclose(logits[[poster_only]], expected)
    assert torch.allclose(logits[empty], bias)


def test_token_fusion_does_not_read_dropped_modalities():
    model = made(toys({"modality_dropout": 0.0}, {"modality_dropout": 1 - 1e-9}), fusion=Together(SIZES, dim=3)).train()
    whole = batch(torch.ones(B, 2, dtype=torch.bool))
    without = whole._replace(present=torch.tensor([[True, False]] * B))
    assert torch.equal(model(whole).logits, model(without).logits)


def test_token_fusion_normalises_and_drops_other_modalities():
    model = made(toys(image={"normalise": "batch", "dropout": 1 - 1e-9}), fusion=Together(SIZES, dim=3)).train()
    seen = batch()
    there = seen.inputs["image"][seen.present[:, 1]]
    logits = model(seen).logits
    assert torch.allclose(model.normalisers["image"].running_mean, 0.1 * there.mean(0), atol=1e-6)
    assert torch.allclose(logits[seen.present[:, 0]], model.head(Fused(seen.inputs["text"]))[seen.present[:, 0]])


class Steps(Fusion):
    """Return the mean of the real tokens."""

    needs = "sequence"

    def forward(self, inputs, present: Tensor | None = None) -> Fused:
        found = inputs["image"]
        assert not found.mask[~present[:, 1]].any()
        return Fused((found.sequence * found.mask[..., None]).sum(1) / found.mask.sum(1, keepdim=True).clamp(min=1))


@pytest.mark.parametrize("normalise", ["none", "layer", "batch", "standardise"])
def test_padding_has_no_effect_with_any_normaliser(normalise):
    model = made(toys(image={"normalise": normalise}), fusion=Steps(SIZES, dim=4)).eval()
    tokens = torch.randn(B, 3, 4)
    if normalise == "standardise":
        model.normalisers["image"].fit([tokens.flatten(0, 1)])
    mask = torch.arange(3) < torch.tensor([1, 2, 3, 1, 2, 3])[:, None]
    seen = batch()
    more = torch.cat([tokens.masked_fill(~mask[..., None], 3.0), torch.full((B, 2, 4), float("nan"))], dim=1)

    def logits(sequence: Tensor, real: Tensor) -> Tensor:
        features = {"text": Features(seen.inputs["text"]), "image": Features(seen.inputs["image"], sequence, real)}
        return model(seen._replace(inputs=features)).logits

    assert torch.allclose(logits(more, nn.functional.pad(mask, (0, 2))), logits(tokens, mask), atol=1e-6)


def test_batch_statistics_use_real_tokens_only():
    model = made(toys(image={"normalise": "batch"}), fusion=Steps(SIZES, dim=4)).train()
    tokens, mask = torch.randn(B, 3, 4), torch.tensor([[True, True, False]] * B)
    seen = batch(torch.ones(B, 2, dtype=torch.bool))
    vector = torch.full((B, 4), 100.0)  # must not enter the statistics
    model(seen._replace(inputs={"text": Features(seen.inputs["text"]), "image": Features(vector, tokens, mask)}))
    assert torch.allclose(model.normalisers["image"].running_mean, 0.1 * tokens[:, :2].mean((0, 1)), atol=1e-6)


class Read(NamedTuple):
    """An encoder's inputs with tensors and a number per row."""

    values: Tensor
    lengths: tuple[int, ...]
    mask: Tensor | None = None


@pytest.mark.parametrize("labelled", [True, False])
def test_batch_moves_completely_or_is_returned_unchanged(labelled):
    whole = batch()
    whole = whole._replace(inputs={**whole.inputs, "text": Read(whole.inputs["text"], (3, 1, 2, 1, 1, 1))})
    if not labelled:
        whole = whole._replace(labels=None)
    model = made()
    assert model.transfer_batch_to_device(whole, torch.device("cpu"), 0) is whole
    away = model.transfer_batch_to_device(whole, torch.device("meta"), 0)
    tensors = [away.present, away.inputs["image"], away.inputs["text"].values]
    assert {t.device.type for t in (*tensors, *([away.labels] if labelled else []))} == {"meta"}
    assert (away.labels is None) is not labelled
    assert (away.ids, away.inputs["text"].lengths, away.inputs["text"].mask) == (whole.ids, (3, 1, 2, 1, 1, 1), None)
    assert [t.shape for t in tensors] == [whole.present.shape, whole.inputs["image"].shape, whole.inputs["text"].values.shape]


def test_gradients_are_clipped_by_their_total_norm():
    model = made(optimizer=adamw)
    optimizer = model.configure_optimizers()
    model.trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=None))
    for scale, expected in ((100.0, 0.5), (1e-9, None)):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, scale)
        before = sum(p.grad.square().sum() for p in model.parameters()) ** 0.5
        model.configure_gradient_clipping(optimizer, 0.5, "norm")
        after = sum(p.grad.square().sum() for p in model.parameters()) ** 0.5
        assert after == pytest.approx(expected or float(before), rel=1e-4)
