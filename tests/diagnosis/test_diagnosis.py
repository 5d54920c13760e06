"""Additive approximations, replaced gates, Shapley values and information agree with their definitions."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from gmu_lightning.diagnosis.additive import Pairing, additive
from gmu_lightning.diagnosis.crossing import CrossedMovies
from gmu_lightning.diagnosis.gates import Gates
from gmu_lightning.diagnosis.information import Split, bits, decomposed, subsets
from gmu_lightning.diagnosis.study import diagnose, subset_logits
from gmu_lightning.fusion import GMU, Concat, Fusion, Late, Max, Mean, MixtureOfExperts, SelfGate, Sum
from gmu_lightning.movie import Fused
from gmu_lightning.report.diagnosis import METRICS
from gmu_lightning.run import Predictions

SIZES = {"text": 5, "image": 7, "audio": 4}
GENRES, DIM = 3, 6
TWO, THREE = ("text", "image"), ("text", "image", "audio")


def crossed(fusion: type[Fusion] | str, modalities: tuple[str, ...] = TWO, movies: int = 14, **options) -> CrossedMovies:
    """Return drawn movies of a fusion with random weights; a word is a variant of GMU. Some movies lack a modality."""
    torch.manual_seed(3)
    sizes = {m: SIZES[m] for m in modalities}
    made = GMU(fusion, sizes, DIM, bias=True, **options) if isinstance(fusion, str) else fusion(sizes, DIM, **options)
    head = made.head(GENRES)
    with torch.no_grad():
        for weights in [*made.parameters(), *head.parameters()]:
            weights.normal_(0, 0.8)
    vectors = {m: torch.randn(movies, size) for m, size in sizes.items()}
    present = torch.ones(movies, len(modalities), dtype=torch.bool)
    present[: movies // 4, 1] = False
    present[0] = False
    return CrossedMovies.of_vectors(made, head, vectors, present)


def predictions(movies: CrossedMovies, modalities: tuple[str, ...] = TWO) -> Predictions:
    logits = movies.logits()
    labels = np.random.default_rng(0).random(logits.shape) < 1 / (1 + np.exp(-2 * logits))
    genres = tuple(f"g{c}" for c in range(GENRES))
    ids = [f"m{n}" for n in range(len(labels))]
    return Predictions(ids, "test", genres, modalities, movies.present.numpy(), logits, labels, {})


def projected(movies: CrossedMovies, rows: list[int]) -> np.ndarray:
    """Return the additive approximation by its definition, over all combinations of two or three modalities."""
    count, modalities = len(rows), movies.present.shape[1]
    grid = torch.cartesian_prod(*[torch.tensor(rows)] * modalities)
    logits = movies.logits(grid).reshape(*[count] * modalities, -1)
    axes = set(range(modalities))
    parts = sum(logits.mean(axis=tuple(axes - {m})) for m in axes)
    return np.asarray(parts - (modalities - 1) * logits.mean(axis=tuple(axes)))


gates = pytest.mark.parametrize("gate", [("original", {}), ("hier", {}), ("softmax", {}), ("softmax", {"gate_input": "concat"})])


@gates
def test_emap_is_the_projection_over_all_pairings(gate):
    movies = crossed(gate[0], **gate[1])
    logits = movies.logits()
    found = additive(movies, logits)
    complete = np.flatnonzero(movies.present.all(dim=1).numpy()).tolist()
    assert found.partners is None
    assert np.abs(found.logits[complete] - logits[complete]).max() > 0.05
    assert np.allclose(found.logits[complete], projected(movies, complete), atol=1e-5)
    alone = ~movies.present.all(dim=1).numpy()
    assert np.array_equal(found.logits[alone], logits[alone])  # one modality has nothing to interact with


def test_emap_of_a_maxout_head_is_the_projection():
    movies = crossed("original", head="maxout")
    complete = np.flatnonzero(movies.present.all(dim=1).numpy()).tolist()
    assert np.allclose(additive(movies, movies.logits()).logits[complete], projected(movies, complete), atol=1e-4)


@pytest.mark.parametrize("fusion", [Mean, Concat, SelfGate, Sum])
@pytest.mark.parametrize("modalities", [TWO, THREE])
def test_emap_of_an_additive_fusion_is_the_model(fusion, modalities):
    movies = crossed(fusion, modalities)
    found = diagnose(movies, predictions(movies, modalities)).measures
    for metric in METRICS:
        assert found[f"emap/{metric}"].score == found[f"score/{metric}"].score


def test_few_partners_come_near_to_the_projection():
    movies = crossed("original", THREE, movies=12)
    movies.present[:] = True
    logits = movies.logits()
    found = additive(movies, logits)
    wanted = projected(movies, list(range(12)))
    assert found.partners == 64
    assert np.sqrt(np.mean((found.logits - wanted) ** 2)) < 0.3 * np.sqrt(np.mean((logits - wanted) ** 2))


def test_partners_give_an_additive_model_back():
    movies = crossed(Concat, THREE, movies=20)
    movies.present[:] = True
    interaction = Pairing.of(movies).of_partners(torch.arange(20), [0, 1, 2], 5, 0)
    assert np.abs(interaction).max() < 1e-5


def test_all_partners_of_two_modalities_are_the_projection():
    movies = crossed(Max)
    complete = np.flatnonzero(movies.present.all(dim=1).numpy()).tolist()
    found = additive(movies, movies.logits())
    assert found.partners is None  # fewer movies than partners
    assert np.allclose(found.logits[complete], projected(movies, complete), atol=1e-5)


class Bent(GMU):
    """A fusion of a user's, which inherits `join` and changes `fuse`."""

    def fuse(self, inputs, present: Tensor) -> Fused:
        """Return the gated sum, bent."""
        fused = super().fuse(inputs, present)
        return Fused((fused.vector * 2).sin())


def test_a_join_that_differs_from_the_fusion_is_not_used():
    movies = crossed("original")
    movies.fusion.__class__ = Bent
    complete = np.flatnonzero(movies.present.all(dim=1).numpy()).tolist()
    assert np.allclose(additive(movies, movies.logits()).logits[complete], projected(movies, complete), atol=1e-5)


@gates
@pytest.mark.parametrize("modalities", [TWO, THREE])
def test_join_gives_the_fused_vector(gate, modalities):
    movies = crossed(gate[0], modalities, **gate[1])
    inputs = [torch.where(movies.present[:, i, None], x, 0.0) for i, x in enumerate(movies.vectors.values())]
    fused = movies.fusion(movies.vectors, movies.present).vector
    joined = movies.fusion.join(movies.fusion.separate(inputs), movies.present[..., None]).vector
    assert torch.allclose(fused, joined, atol=1e-5)


@gates
def test_replaced_gates_are_those_of_other_movies(gate):
    movies = crossed(gate[0], **gate[1])
    found = Gates.of(movies)
    fused = movies.fusion(movies.vectors, movies.present)
    assert torch.allclose(found.logits_under(found.values).float(), movies.head(fused), atol=1e-5)
    hidden = torch.stack([torch.tanh(movies.fusion.hidden[m](x)) for m, x in movies.vectors.items()], dim=1)
    rng = np.random.default_rng(5)
    source = np.arange(14)
    for rows in ([0], [1, 2], list(range(3, 14))):  # without modalities, without image, complete
        source[rows] = np.array(rows)[rng.permutation(len(rows))]
    swapped = fused._replace(vector=(fused.gates[source] * hidden).sum(dim=1), parts=None)
    assert np.allclose(next(found.permuted(1, 5)), (movies.head(swapped) - movies.head(fused)).detach(), atol=1e-4)
    complete = fused.gates[3:].mean(dim=0)
    averaged = movies.head(Fused((complete * hidden[3:]).sum(dim=1))) - movies.head(Fused(fused.vector[3:]))
    assert np.allclose(found.averaged()[3:], averaged.detach(), atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_the_gates_of_a_mixture_are_its_weights(tied):
    movies = crossed(MixtureOfExperts, tied=tied)
    found = Gates.of(movies)
    assert found.values.shape == (14, 2, 1 if tied else GENRES)
    assert torch.allclose(found.values[1:].sum(dim=1), torch.ones(1).double())
    assert np.allclose(found.logits_under(found.values).detach().numpy(), movies.logits(), atol=1e-4)
    assert np.abs(next(found.permuted(1, 0))[3:]).max() > 0.01


@pytest.mark.parametrize("fusion", [Mean, Late])
def test_equal_gates_are_worth_nothing(fusion):
    movies = crossed(fusion)
    found = diagnose(movies, predictions(movies)).measures
    for change in ("gates_permuted", "gates_mean"):
        assert found[f"{change}/ap_micro"].score == pytest.approx(found["score/ap_micro"].score, abs=1e-12)


@pytest.mark.parametrize("fusion", [Concat, SelfGate, Max])
def test_a_fusion_without_gates_has_no_cost_of_gates(fusion):
    movies = crossed(fusion)
    assert not any(key.startswith("gates") for key in diagnose(movies, predictions(movies)).measures)


@pytest.mark.parametrize("modalities", [TWO, THREE])
def test_shapley_values_are_mean_gains_over_all_orders(modalities):
    movies = crossed("original", modalities, movies=30)
    of = predictions(movies, modalities)
    found = diagnose(movies, of).measures
    worth = {subset: found_score(of, logits) for subset, logits in subset_logits(movies, modalities).items()}
    for metric in METRICS:
        total = sum(found[f"shapley/{m}/{metric}"].score for m in modalities)
        assert total == pytest.approx(found[f"score/{metric}"].score - found[f"empty/{metric}"].score, abs=1e-9)
        for i, m in enumerate(modalities):
            gains = [
                worth[frozenset(order[: order.index(i) + 1])][metric] - worth[frozenset(order[: order.index(i)])][metric]
                for order in permutations(range(len(modalities)))
            ]
            assert found[f"shapley/{m}/{metric}"].score == pytest.approx(np.mean(gains), abs=1e-9)


def found_score(of: Predictions, logits: np.ndarray) -> dict[str, float]:
    from gmu_lightning.metrics import scores

    return scores(of.labels, 1 / (1 + np.exp(-logits)), of.genres)


def test_without_modalities_the_bias_alone_is_scored():
    movies = crossed("original")
    assert np.allclose(subset_logits(movies, TWO)[frozenset()], movies.head.bias.detach().numpy())


def test_information_of_a_certain_modality_is_the_entropy():
    rng = np.random.default_rng(0)
    labels = rng.random((4000, 2)) < (0.5, 0.2)
    certain, noise = np.where(labels, 8.0, -8.0), rng.normal(size=labels.shape)
    text, image, both = frozenset([0]), frozenset([1]), frozenset([0, 1])
    split = Split(labels, {text: certain, image: 5 * noise, both: certain})
    found = decomposed({s: one.mean(axis=0) for s, one in bits(split, None, "multilabel").items()}, 2)
    entropy = [1.0, -0.2 * math.log2(0.2) - 0.8 * math.log2(0.8)]
    assert np.allclose(found["joint"], entropy, atol=0.03)
    assert np.allclose(found["unique/0"], entropy, atol=0.03)
    assert np.allclose(found["unique/1"], 0, atol=0.01)
    assert np.allclose(found["redundant"], 0, atol=0.01)  # the noise is calibrated away


def test_two_copies_of_a_modality_are_redundant():
    labels = np.random.default_rng(0).random((1000, 1)) < 0.5
    logits = np.where(labels, 8.0, -8.0)
    every = subsets(THREE[:2])
    found = decomposed(
        {s: v.mean(axis=0) for s, v in bits(Split(labels, dict.fromkeys(every, logits)), None, "multilabel").items()}, 2
    )
    assert found["redundant"] == pytest.approx(found["joint"], abs=1e-9)
    assert found["co_information"] == pytest.approx(found["redundant"], abs=1e-9)


def test_an_exclusive_or_is_synergy():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 2000, 1)) < 0.5
    labels, nothing = a ^ b, np.zeros((2000, 1))
    split = Split(labels, {frozenset([0]): nothing, frozenset([1]): nothing, frozenset([0, 1]): np.where(labels, 8.0, -8.0)})
    found = decomposed({s: v.mean(axis=0) for s, v in bits(split, None, "multilabel").items()}, 2)
    assert found["redundant"] == pytest.approx(-1, abs=0.02)


def test_overconfident_logits_are_calibrated_on_other_movies():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(6000, 1)) * 8
    p = 1 / (1 + np.exp(-(0.2 * z - 1)))
    y = rng.random(z.shape) < p
    subset = frozenset([0])
    found = bits(Split(y[:1000], {subset: z[:1000]}), Split(y[1000:], {subset: z[1000:]}), "multilabel")[subset]
    share = y[:1000].mean()
    wanted = np.log2(np.where(y, p / share, (1 - p) / (1 - share)))[:1000]
    assert np.allclose(found, wanted, atol=0.2)
    assert found.mean() == pytest.approx(wanted.mean(), abs=0.01)
