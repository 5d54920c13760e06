"""Scenarios of missing modalities, and one pass of a model that predicts all of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gmu_lightning.encoders.base import Encoder
from gmu_lightning.experiment.robustness import SHARES, ModalityAblation, Scenario, scenarios
from gmu_lightning.fusion import GMU, MulTGMU
from gmu_lightning.fusion.base import Fusion, encoded
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import MODALITIES, Features, Fused, MovieBatch

N, GENRES = 40, 3
SIZES = {"text": 3, "image": 4}


def having(*shares: float) -> np.ndarray:
    """Return (N, M) bool, whether each movie has each modality, for the shares of movies that have one."""
    return np.random.default_rng(7).random((N, len(shares))) < np.array(shares)


def curve(found: list[Scenario], modality: str) -> dict[float, Scenario]:
    return {s.about["share"]: s for s in found if s.about["modality"] == modality}


def test_larger_shares_remove_from_the_same_movies_and_more():
    found = scenarios(having(0.9, 0.6), ["text", "image"], seed=0)
    for name in ("text", "image", "all"):
        left = [scenario.present for scenario in curve(found, name).values()]
        assert list(curve(found, name)) == list(SHARES)
        assert all((more <= less).all() for less, more in pairwise(left))


def test_shares_count_movies_that_have_the_modality():
    present = having(0.9, 0.6)
    had = present[:, 1].sum()
    for share, scenario in curve(scenarios(present, ["text", "image"], seed=0), "image").items():
        assert scenario.present[:, 1].sum() == had - round(share * had)
        assert scenario.about["realised"] == round(share * had) / had
        assert np.array_equal(scenario.present[:, 0], present[:, 0])
    assert had % 4, "no share would be rounded"


def test_an_absent_modality_stays_absent():
    present = having(0.5, 0.5, 0.0)
    found = scenarios(present, ["text", "image", "audio"], seed=0)
    assert all((scenario.present <= present).all() for scenario in found)
    assert {scenario.about["realised"] for scenario in curve(found, "audio").values()} == {None}


def test_all_removes_each_modality_as_its_own_scenarios_do():
    found = scenarios(np.ones((N, 2), dtype=bool), ["image", "video"], seed=0)
    for share, scenario in curve(found, "all").items():
        for i, modality in enumerate(("image", "video")):
            assert np.array_equal(scenario.present[:, i], curve(found, modality)[share].present[:, i])
    half = curve(found, "all")[0.5].present
    assert (half[:, 0] != half[:, 1]).any()
    assert not curve(found, "all")[1.0].present.any()


def test_an_absent_row_keeps_the_order_of_the_other_movies():
    complete = np.ones((N, 1), dtype=bool)
    without_first = complete.copy()
    without_first[0] = False
    lost, lost_then = (
        set(np.flatnonzero(p ^ curve(scenarios(p, ["text"], 0), "text")[0.5].present)) for p in (complete, without_first)
    )
    assert len(lost) == len(lost_then) == N // 2
    assert len(lost - lost_then - {0}) == 0


def test_a_draw_depends_on_seed_and_modality_alone():
    present = having(0.9, 0.6)

    def lost(seed: int, *modalities: str) -> np.ndarray:
        columns = [("text", "image").index(m) for m in modalities]
        return curve(scenarios(present[:, columns], modalities, seed), "image")[0.5].present[:, modalities.index("image")]

    assert np.array_equal(lost(0, "text", "image"), lost(0, "image", "text"))
    assert np.array_equal(lost(0, "text", "image"), lost(0, "image"))
    assert not np.array_equal(lost(0, "image"), lost(1, "image"))


def test_five_modalities_have_31_subsets():
    present = having(0.9, 0.8, 0.7, 0.6, 0.5)
    subsets = {s.about["subset"]: s.present for s in scenarios(present, MODALITIES, seed=0) if s.about["kind"] == "subset"}
    assert len(subsets) == 31
    for name, left in subsets.items():
        chosen = [modality in name.split("+") for modality in MODALITIES]
        assert np.array_equal(left, present & np.array(chosen))


def test_losing_one_of_two_modalities_leaves_the_other_subset():
    found = scenarios(having(0.9, 0.6), ["text", "image"], seed=0)
    only_text = next(scenario for scenario in found if scenario.about["subset"] == "text")
    assert np.array_equal(curve(found, "image")[1.0].present, only_text.present)


def test_a_single_modality_is_removed_entirely():
    found = scenarios(having(0.9), ["text"], seed=0)
    assert [(s.about["modality"], s.about["share"], s.about["subset"]) for s in found] == [
        *(("text", share, None) for share in SHARES),
        (None, None, "text"),
    ]
    assert not curve(found, "text")[1.0].present.any()


class Toy(Encoder):
    """Return two tokens and their mean, count the calls, and refuse inputs that are not finite."""

    sequences = True

    def __init__(self, modality: str):
        super().__init__(modality, pretrained=False, normalise="layer")
        self.calls = 0

    @property
    def dim(self) -> int:
        return SIZES[self.modality]

    def blocks(self) -> list[nn.Module]:
        return [self.network]

    def _load(self) -> nn.Module:
        return nn.Linear(self.dim, 2 * self.dim)

    def forward(self, inputs: Tensor) -> Features:
        assert torch.isfinite(inputs).all()
        self.calls += 1
        tokens = self.network(inputs).unflatten(1, (2, self.dim))
        return Features(tokens.mean(dim=1), tokens, torch.ones(len(inputs), 2, dtype=torch.bool))


class ReadTogether(Fusion):
    """Encode the text together with the poster, so that it has to be encoded again without the poster."""

    needs = "tokens"

    def encode(self, encoders, batch, *scale) -> dict[str, Features]:
        assert not isinstance(batch.inputs["text"], Features)
        there = dict(zip(self.sizes, batch.present.unbind(dim=1), strict=True))
        found = {m: encoded(encoders[m], batch.inputs[m], there[m]).vector for m in self.sizes}
        poster = torch.where(there["image"][:, None], found["image"], 0.0).sum(dim=1, keepdim=True)
        return {"text": Features(torch.where(there["text"][:, None], found["text"], 0.0) * (1 + poster))}

    def forward(self, inputs, present=None) -> Fused:
        return Fused(inputs["text"])


FUSIONS = {
    "vector": lambda: GMU("original", SIZES, dim=8),
    "sequence": lambda: MulTGMU(SIZES, list(SIZES), dim=8),
    "tokens": lambda: ReadTogether(SIZES, dim=3),
}


def model(needs: str) -> MovieGenreClassifier:
    torch.manual_seed(0)
    encoders = {modality: Toy(modality) for modality in SIZES}
    for encoder in encoders.values():
        encoder.build()
    return MovieGenreClassifier(encoders, FUSIONS[needs](), GENRES, nn.BCEWithLogitsLoss()).eval()


def movies(present: np.ndarray, rows: slice = slice(None)) -> MovieBatch:
    """Return a batch of N movies, with NaN for absent inputs."""
    torch.manual_seed(1)
    there = torch.from_numpy(present)
    inputs = {m: torch.randn(N, d).masked_fill(~there[:, i, None], float("nan"))[rows] for i, (m, d) in enumerate(SIZES.items())}
    return MovieBatch(tuple(str(n) for n in range(N))[rows], inputs, there[rows], torch.zeros(N, GENRES)[rows])


def logits_in_batches(ablation: ModalityAblation, present: np.ndarray) -> Tensor:
    """Return the logits of a pass whose batches are in another order than the movies."""
    with torch.no_grad():
        parts = [ablation.validation_step(movies(present, rows), 0).logits for rows in (slice(25, N), slice(25))]
    return torch.cat(parts[::-1])


@pytest.mark.parametrize("needs", FUSIONS)
def test_a_removed_modality_gives_the_logits_of_an_absent_file(needs):
    present = having(0.9, 0.8)
    drawn = scenarios(present, list(SIZES), seed=0)
    whole = model(needs)
    ablation = ModalityAblation(whole, [str(n) for n in range(N)], drawn, seed=0)
    itself = logits_in_batches(ablation, present)
    with torch.no_grad():
        assert itself.numpy() == pytest.approx(whole(movies(present)).logits.numpy(), abs=1e-6)
        for scenario, place in zip(drawn, ablation.place, strict=True):
            expected = whole(movies(scenario.present)).logits  # NaN wherever the scenario has no file
            assert ablation.logits[place] == pytest.approx(expected.numpy(), abs=1e-6)
    assert np.ptp(ablation.logits, axis=0).max() > 0.01, "no scenario changes a logit"


@pytest.mark.parametrize(("needs", "again"), [("vector", ()), ("sequence", ()), ("tokens", ("text",))])
def test_each_batch_is_encoded_once_for_all_scenarios(needs, again):
    present = np.ones((N, 2), dtype=bool)
    whole = model(needs)
    ablation = ModalityAblation(whole, [str(n) for n in range(N)], scenarios(present, list(SIZES), seed=0), seed=0)
    logits_in_batches(ablation, present)
    once = {modality for modality, encoder in whole.encoders.items() if encoder.calls == 2}
    assert once == set(SIZES) - set(again)


def test_equal_scenarios_are_computed_once():
    present = np.ones((N, 2), dtype=bool)
    drawn = scenarios(present, list(SIZES), seed=0)
    ablation = ModalityAblation(model("vector"), [str(n) for n in range(N)], drawn, seed=0)
    assert len(drawn) == 3 * len(SHARES) + 3
    assert len(ablation.left) == 1 + 3 * (len(SHARES) - 1)
