"""Which movies lose which modality, and a model asked about all of them in one pass."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gmu_lightning.encoders.base import Encoder
from gmu_lightning.experiment.robustness import SHARES, Deprived, Scenario, scenarios, seed_of_draw
from gmu_lightning.fusion import GMU, MulTGMU
from gmu_lightning.fusion.base import Fusion, encoded
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import MODALITIES, Features, Fused, MovieBatch, UserError

N, GENRES = 40, 3
SIZES = {"text": 3, "image": 4}


def having(*shares: float) -> np.ndarray:
    """(N, M) bool: which movies have each modality."""
    return np.random.default_rng(7).random((N, len(shares))) < np.array(shares)


def curve(found: list[Scenario], modality: str) -> dict[float, Scenario]:
    return {s.about["share"]: s for s in found if s.about["modality"] == modality}


def test_movies_that_lack_a_modality_at_one_share_lack_it_at_every_larger_one():
    found = scenarios(having(0.9, 0.6), ["text", "image"], seed=0)
    for name in ("text", "image", "all"):
        left = [scenario.present for scenario in curve(found, name).values()]
        assert list(curve(found, name)) == list(SHARES)
        assert all((more <= less).all() for less, more in pairwise(left))


def test_a_share_is_of_the_movies_that_have_the_modality_and_the_realised_one_is_of_whole_movies():
    present = having(0.9, 0.6)
    had = present[:, 1].sum()
    for share, scenario in curve(scenarios(present, ["text", "image"], seed=0), "image").items():
        assert scenario.present[:, 1].sum() == had - round(share * had)
        assert scenario.about["realised"] == round(share * had) / had
        assert np.array_equal(scenario.present[:, 0], present[:, 0])
    assert had % 4, "every share of them would be one of whole movies"


def test_what_a_movie_never_had_it_neither_loses_nor_gets():
    present = having(0.5, 0.5, 0.0)
    found = scenarios(present, ["text", "image", "audio"], seed=0)
    assert all((scenario.present <= present).all() for scenario in found)
    assert {scenario.about["realised"] for scenario in curve(found, "audio").values()} == {None}


def test_all_takes_from_each_modality_what_that_modality_loses_alone_and_from_other_movies():
    found = scenarios(np.ones((N, 2), dtype=bool), ["image", "video"], seed=0)
    for share, scenario in curve(found, "all").items():
        for i, modality in enumerate(("image", "video")):
            assert np.array_equal(scenario.present[:, i], curve(found, modality)[share].present[:, i])
    half = curve(found, "all")[0.5].present
    assert (half[:, 0] != half[:, 1]).any()
    assert not curve(found, "all")[1.0].present.any()


def test_a_movie_that_lacks_a_modality_changes_nobody_else_s_turn_to_lose_it():
    everyone = np.ones((N, 1), dtype=bool)
    but_one = everyone.copy()
    but_one[0] = False
    lost, lost_then = (
        set(np.flatnonzero(p ^ curve(scenarios(p, ["text"], 0), "text")[0.5].present)) for p in (everyone, but_one)
    )
    assert len(lost) == len(lost_then) == N // 2
    assert len(lost - lost_then - {0}) == 0


def test_the_draw_is_the_seed_s_and_the_modality_s_own():
    present = having(0.9, 0.6)

    def lost(seed: int, *modalities: str) -> np.ndarray:
        columns = [("text", "image").index(m) for m in modalities]
        return curve(scenarios(present[:, columns], modalities, seed), "image")[0.5].present[:, modalities.index("image")]

    assert np.array_equal(lost(0, "text", "image"), lost(0, "image", "text"))
    assert np.array_equal(lost(0, "text", "image"), lost(0, "image"))
    assert not np.array_equal(lost(0, "image"), lost(1, "image"))


def test_five_modalities_have_every_subset_but_the_empty_one():
    present = having(0.9, 0.8, 0.7, 0.6, 0.5)
    subsets = {s.about["subset"]: s.present for s in scenarios(present, MODALITIES, seed=0) if s.about["kind"] == "subset"}
    assert len(subsets) == 31
    for name, left in subsets.items():
        chosen = [modality in name.split("+") for modality in MODALITIES]
        assert np.array_equal(left, present & np.array(chosen))


def test_without_a_modality_in_every_movie_is_the_subset_of_the_others():
    found = scenarios(having(0.9, 0.6), ["text", "image"], seed=0)
    only_text = next(scenario for scenario in found if scenario.about["subset"] == "text")
    assert np.array_equal(curve(found, "image")[1.0].present, only_text.present)


def test_one_modality_is_lost_by_itself_down_to_nothing():
    found = scenarios(having(0.9), ["text"], seed=0)
    assert [(s.about["modality"], s.about["share"], s.about["subset"]) for s in found] == [
        *(("text", share, None) for share in SHARES),
        (None, None, "text"),
    ]
    assert not curve(found, "text")[1.0].present.any()


@pytest.mark.parametrize(
    ("robustness", "seed", "sentence"),
    [
        ("maybe", 0, "^robustness=maybe is neither true nor false: give one of them$"),
        (True, -1, "^robustness_seed=-1 is no seed: give a whole number from 0 on, such as robustness_seed=1$"),
        (True, 1.5, "robustness_seed=1.5 is no seed"),
        (True, True, "robustness_seed=True is no seed"),
        (False, "x", "robustness_seed=x is no seed"),
    ],
)
def test_what_is_no_choice_and_no_seed_is_said_in_a_sentence(robustness, seed, sentence):
    with pytest.raises(UserError, match=sentence):
        seed_of_draw(robustness, seed)


def test_nothing_is_drawn_unless_asked_for():
    assert (seed_of_draw(False, 3), seed_of_draw(True, 3), seed_of_draw(True, 0)) == (None, 3, 0)


class Toy(Encoder):
    """Two tokens and their mean; counts how often it was asked, and refuses what is not finite."""

    sequences = True

    def __init__(self, modality: str):
        super().__init__(modality, pretrained=False, normalise="layer")
        self.asked = 0

    @property
    def dim(self) -> int:
        return SIZES[self.modality]

    def blocks(self) -> list[nn.Module]:
        return [self.network]

    def _load(self) -> nn.Module:
        return nn.Linear(self.dim, 2 * self.dim)

    def forward(self, inputs: Tensor) -> Features:
        assert torch.isfinite(inputs).all()
        self.asked += 1
        tokens = self.network(inputs).unflatten(1, (2, self.dim))
        return Features(tokens.mean(dim=1), tokens, torch.ones(len(inputs), 2, dtype=torch.bool))


class ReadTogether(Fusion):
    """A text that is read with the poster before it: it has to be read again whenever the poster is not there."""

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
    """Of N movies, NaN where absent."""
    torch.manual_seed(1)
    there = torch.from_numpy(present)
    inputs = {m: torch.randn(N, d).masked_fill(~there[:, i, None], float("nan"))[rows] for i, (m, d) in enumerate(SIZES.items())}
    return MovieBatch(tuple(str(n) for n in range(N))[rows], inputs, there[rows], torch.zeros(N, GENRES)[rows])


def asked_in_batches(deprived: Deprived, present: np.ndarray) -> Tensor:
    """The logits of the pass itself, its batches being in another order than the movies."""
    with torch.no_grad():
        parts = [deprived.validation_step(movies(present, rows), 0).logits for rows in (slice(25, N), slice(25))]
    return torch.cat(parts[::-1])


@pytest.mark.parametrize("needs", FUSIONS)
def test_without_a_modality_a_model_says_what_it_would_if_the_file_were_absent(needs):
    present = having(0.9, 0.8)
    asked = scenarios(present, list(SIZES), seed=0)
    whole = model(needs)
    deprived = Deprived(whole, [str(n) for n in range(N)], asked, seed=0)
    itself = asked_in_batches(deprived, present)
    with torch.no_grad():
        assert itself.numpy() == pytest.approx(whole(movies(present)).logits.numpy(), abs=1e-6)
        for scenario, place in zip(asked, deprived.place, strict=True):
            expected = whole(movies(scenario.present)).logits  # NaN wherever the scenario has no file
            assert deprived.logits[place] == pytest.approx(expected.numpy(), abs=1e-6)
    assert np.ptp(deprived.logits, axis=0).max() > 0.01, "nothing that is lost is missed"


@pytest.mark.parametrize(("needs", "again"), [("vector", ()), ("sequence", ()), ("tokens", ("text",))])
def test_each_batch_is_encoded_once_however_many_scenarios_there_are(needs, again):
    present = np.ones((N, 2), dtype=bool)
    whole = model(needs)
    deprived = Deprived(whole, [str(n) for n in range(N)], scenarios(present, list(SIZES), seed=0), seed=0)
    asked_in_batches(deprived, present)
    once = {modality for modality, encoder in whole.encoders.items() if encoder.asked == 2}
    assert once == set(SIZES) - set(again)


def test_scenarios_that_are_one_are_computed_once():
    present = np.ones((N, 2), dtype=bool)
    asked = scenarios(present, list(SIZES), seed=0)
    deprived = Deprived(model("vector"), [str(n) for n in range(N)], asked, seed=0)
    assert len(asked) == 3 * len(SHARES) + 3
    assert len(deprived.left) == 1 + 3 * (len(SHARES) - 1)
