"""Diagnoses are written, read, combined over seeds and put into words, with claims only where the intervals allow them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from gmu_lightning.movie import UserError
from gmu_lightning.report.diagnosis import CHANGES, METRICS, Combined, Diagnosis, combined, of_setting
from gmu_lightning.report.diagnosis_sentences import gates_weigh, interaction_helps, modality_helps, sentences, told_by
from gmu_lightning.report.influence import Influence
from gmu_lightning.report.statistics import Interval
from gmu_lightning.run import Run

MOVIES, GENRES = 400, ["Drama", "Sci/Fi"]
VALUES = {"score": 0.8, "gates_permuted": 0.66, "gates_mean": 0.7, "emap": 0.72, "empty": 0.3}
SHAPLEY = {"text": 0.4, "image": 0.1}
BY_GENRE = {("text", "Drama"): 0.5, ("image", "Drama"): 0.0, ("text", "Sci/Fi"): 0.0, ("image", "Sci/Fi"): 0.4}


def diagnosis(seed: int = 0, noise: float = 0.1, **values: float) -> Diagnosis:
    """Return the diagnosis of a made run. Influences are independent noise, and `values` replaces entries of VALUES."""
    rng = np.random.default_rng(seed)

    def measure(value: float) -> Influence:
        psi = rng.normal(0, noise, MOVIES)
        return Influence(value + rng.normal(0, noise / 20), (psi - psi.mean()).astype(np.float32).astype(float))

    measures = {f"{word}/{metric}": measure(value) for word, value in (VALUES | values).items() for metric in METRICS}
    measures |= {f"shapley/{m}/{metric}": measure(value) for m, value in SHAPLEY.items() for metric in METRICS}
    measures |= {f"shapley_by_genre/{m}/{g}": measure(value) for (m, g), value in BY_GENRE.items()}
    measures |= {f"information/{word}": measure(0.1) for word in ("redundant", "joint", "unique/text", "unique/image")}
    bits = {g: {"redundant": 0.1, "unique": {"text": 0.2, "image": 0.0}, "joint": 0.3 + seed} for g in GENRES}
    ids = [f"m{n}" for n in range(MOVIES)]
    return Diagnosis("test", ids, list(SHAPLEY), GENRES, "multilabel", measures, bits, {"data_fingerprint": {"movies": "a"}})


def made(**values: float) -> Combined:
    """Return the combined diagnoses of three made runs."""
    return combined([diagnosis(seed, **values) for seed in range(3)])


def test_a_diagnosis_is_read_as_it_was_written(tmp_path):
    written = diagnosis()
    written.write(tmp_path / "evaluate/2026", ["a finding"])
    found = Diagnosis.of(Run(tmp_path))
    assert found is not None
    assert (found.ids, found.modalities, found.genres) == (written.ids, written.modalities, written.genres)
    assert found.measures.keys() == written.measures.keys()
    for key, one in written.measures.items():
        assert found.measures[key].score == pytest.approx(one.score, abs=1e-12)
        assert np.allclose(found.measures[key].psi, one.psi)
    content = json.loads((tmp_path / "evaluate/2026/diagnosis.json").read_text())
    assert content["sentences"] == ["a finding"]
    assert content["gates_permuted"]["f1_micro"].keys() == {"mean", "low", "high"}
    assert content["shapley"]["text"].keys() == {"f1_micro", "ap_micro"}
    assert content["information_bits"]["Drama"].keys() == {"redundant", "unique", "joint"}


def test_the_newest_diagnosis_of_the_split_counts(tmp_path):
    diagnosis(1).write(tmp_path / "evaluate/2026-01")
    diagnosis(2).write(tmp_path / "evaluate/2026-02")
    replace(diagnosis(3), split="val").write(tmp_path / "evaluate/2026-03")
    (tmp_path / "evaluate/2026-04").mkdir()
    found = Diagnosis.of(Run(tmp_path))
    assert found is not None
    assert found.information_bits["Drama"]["joint"] == pytest.approx(2.3)
    assert Diagnosis.of(Run(tmp_path), "train") is None


def test_a_diagnosis_on_other_data_is_not_the_run_s(tmp_path):
    diagnosis().write(tmp_path / "evaluate/2026")
    (tmp_path / "environment.json").write_text('{"data_fingerprint": {"movies": "b"}}')
    assert Diagnosis.of(Run(tmp_path)) is None


@pytest.mark.parametrize("damage", ["no table", "no json", "other number", "odd shape", "no column"])
def test_a_damaged_diagnosis_is_named(tmp_path, damage):
    folder = tmp_path / "evaluate/2026"
    whole = diagnosis()
    whole.write(folder)
    path = folder / "diagnosis.json"
    if damage == "no table":
        (folder / "diagnosis.parquet").unlink()
    elif damage == "no column":
        fewer = {key: one for key, one in whole.measures.items() if key != "emap/f1_micro"}
        left = path.read_text()
        replace(whole, measures=fewer).write(folder)
        path.write_text(left)
    else:
        content = json.loads(path.read_text())
        content |= {"no json": {}, "other number": {"movies": 3}, "odd shape": {"shapley": {"text": 1}}}[damage]
        path.write_text("no" if damage == "no json" else json.dumps(content))
    with pytest.raises(UserError, match=r"diagnosis\.(json|parquet) is damaged"):
        Diagnosis.of(Run(tmp_path))


def test_seeds_are_combined_over_movies_and_seeds(tmp_path):
    runs = [tmp_path / str(seed) for seed in range(3)]
    for seed, folder in enumerate(runs):
        diagnosis(seed).write(folder / "evaluate/2026")
    found = of_setting([Run(folder) for folder in [*runs, tmp_path / "undiagnosed"]])
    assert found is not None
    assert (found.runs, found.over_seeds, found.movies) == (3, True, MOVIES)
    each = [diagnosis(seed).measures for seed in range(3)]
    costs = [one["score/f1_micro"].score - one["emap/f1_micro"].score for one in each]
    cost = found.costs["emap/f1_micro"]
    assert cost.mean == pytest.approx(np.mean(costs))
    assert cost.low < cost.mean < cost.high
    # Seeds that differ more widen the interval, so it is over seeds too.
    assert cost.high - cost.mean > 3 * np.std(costs, ddof=1) / np.sqrt(3)
    assert found.information_bits["Drama"]["joint"] == pytest.approx(1.3)
    assert of_setting([Run(tmp_path / "undiagnosed")]) is None


def test_diagnoses_of_other_movies_are_not_combined():
    other = diagnosis(1)
    with pytest.raises(UserError, match="different ids"):
        combined([diagnosis(), replace(other, ids=[*other.ids[1:], "x"])])


def test_a_large_cost_is_a_claim():
    found = made()
    assert (gates_weigh(found), interaction_helps(found)) == ("yes", "yes")
    text = " ".join(sentences("gmu", found))
    assert "the gates weigh single movies" in text
    assert "interaction of modalities helps" in text


def test_no_cost_is_no_effect():
    found = made(gates_permuted=0.8, emap=0.8, noise=0.01)
    assert (gates_weigh(found), interaction_helps(found)) == ("no", "no")
    assert "they have no effect on single movies here" in " ".join(sentences("gmu", found))


def test_a_cost_in_wide_intervals_is_open():
    found = made(gates_permuted=0.79, emap=0.79, noise=1.0)
    assert (gates_weigh(found), interaction_helps(found)) == ("open", "open")


def test_gates_without_interaction_do_not_weigh():
    found = made(emap=0.8, noise=0.01)
    assert gates_weigh(found) == "open"
    assert "Weighing is not shown by this" in " ".join(sentences("gmu", found))


def test_a_fusion_without_gates_has_no_verdict_on_them():
    without = [one for one in CHANGES if one.startswith("gates")]
    runs = [diagnosis(seed) for seed in range(3)]
    runs = [replace(one, measures={k: v for k, v in one.measures.items() if k.split("/")[0] not in without}) for one in runs]
    found = combined(runs)
    assert gates_weigh(found) is None
    assert not any("gates" in sentence for sentence in sentences("concat", found))


def test_shapley_values_name_useless_modalities_and_genres():
    found = made()
    assert told_by(found) == {"text": ["Drama"], "image": ["Sci/Fi"]}
    assert (modality_helps(found, "text"), modality_helps(found, "image")) == ("yes", "yes")
    useless = replace(found, measures={**found.measures, "shapley/image/ap_micro": Interval(0.0, -0.001, 0.001)})
    assert modality_helps(useless, "image") == "no"
    assert "Image adds nothing here" in " ".join(sentences("gmu", useless))
