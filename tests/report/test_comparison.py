"""A comparison tests pairs of settings, corrects p over all pairs, and refuses settings that differ in data."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from gmu_lightning.movie import UserError
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.discovery import runs_in
from gmu_lightning.report.multiplicity import holm
from gmu_lightning.report.page.movies import ExampleMovies
from gmu_lightning.report.page.write import page
from gmu_lightning.report.sentences import as_json, markdown, pair_sentence, seeds_command, summary
from gmu_lightning.run import runs_under

from .made_runs import Sweep, replace_predictions


def test_baseline_limits_the_pairs(sweep):
    for fusion, skill in (("best", 2.5), ("good", 1.2), ("also", 1.25), ("poor", 0.2)):
        sweep.three_seeds(fusion, skill)
    runs = runs_under(sweep.folder)
    every = {frozenset((pair.a.name, pair.b.name)): pair for pair in compare(runs).pairs}
    found = compare(runs, against="good")
    assert (len(every), len(found.pairs)) == (6, 3)
    for pair in found.pairs:
        assert "good" in (pair.a.name, pair.b.name)
        other = every[frozenset((pair.a.name, pair.b.name))]
        assert pair.difference.p == other.difference.p
        assert pair.p_holm <= other.p_holm
    assert not found.letters
    assert as_json(found)["against"] == "good"
    assert "best beats it. It beats poor. 1 does not differ significantly from it." in summary(found)
    assert "## Against good" in markdown(found)


def test_baseline_words_must_match_one_setting(sweep):
    for modalities in ("text", "text+image"):
        sweep.three_seeds("concat", 1.0, modalities=modalities)
        sweep.three_seeds("mean", 1.0, modalities=modalities)
    runs = runs_under(sweep.folder)
    assert compare(runs, against="text mean").against == "mean text"
    for words, sentence in (
        ("concat", "names 2 of the settings: choose one, such as concat text"),
        ("meant", "names 0 of the settings: choose one, such as mean text"),
        (" ", "names 0 of the settings"),
    ):
        with pytest.raises(UserError, match=sentence):
            compare(runs, against=words)


def test_means_equal_scikit_learn(sweep):
    runs = sweep.three_seeds("mean", 1.0)
    test = [run.predictions("test") for run in runs]
    micro = np.mean([f1_score(p.labels, p.probabilities >= 0.5, average="micro", zero_division=0) for p in test])
    ranked = np.mean([average_precision_score(p.labels, p.probabilities, average="macro") for p in test])
    assert as_json(compare(runs))["settings"][0]["mean"] == pytest.approx(micro, abs=1e-9)
    assert as_json(compare(runs, "ap_macro"))["settings"][0]["mean"] == pytest.approx(ranked, abs=1e-9)


@pytest.mark.parametrize("metric", ["f1_micro@val", "f1_macro@val_per_genre", "f1_samples@val"])
def test_tuned_scores_equal_the_runs_scores(sweep, metric):
    runs = sweep.three_seeds("mean", 1.0)
    expected = np.mean([run.metrics[f"test/{metric}"] for run in runs])
    assert as_json(compare(runs, metric))["settings"][0]["mean"] == pytest.approx(expected, abs=1e-9)


def test_needed_seeds_use_the_level_of_holm(sweep):
    for n, skill in enumerate((1.0, 1.15, 1.35, 1.6)):
        sweep.three_seeds(f"s{n}", skill, spread=0.25)
    pairs = sorted(compare(runs_under(sweep.folder)).pairs, key=lambda pair: pair.difference.p)
    assert len(pairs) == 6
    needed_seeds = [pair.needed for pair in pairs]
    assert needed_seeds == [pair.difference.seeds_needed(alpha=0.05 / (6 - smaller)) for smaller, pair in enumerate(pairs)]
    alone = [pair.difference.seeds_needed(alpha=0.05) for pair in pairs]
    assert all(more > less for more, less in zip(needed_seeds[:-1], alone[:-1], strict=True))
    assert needed_seeds[-1] == alone[-1]
    (pair,) = compare([run for one in (pairs[0].a, pairs[0].b) for run in one.setting.runs]).pairs
    assert pair.needed == alone[0] < needed_seeds[0]


def test_fewer_than_three_seeds_claim_nothing(sweep):
    runs = [sweep.run("gmu_hier", 1, 3.0), sweep.run("gmu_hier", 2, 3.0), *sweep.three_seeds("concat", 0.3)]
    found = compare(runs)
    (pair,) = found.pairs
    assert (pair.verdict, pair.p_holm) == ("none", None)
    low, high = (f"{100 * end:.1f}" for end in pair.difference.interval_of_movies[1:])
    tuned = 100 * pair.companions["f1_micro@val"].mean
    assert pair_sentence(pair).endswith(
        "This difference cannot be tested: gmu_hier has 2 seeds, and a test needs three. Over movies, for these runs alone, "
        f"it is {100 * pair.difference.mean:.1f} points [{low}, {high}], and at a threshold tuned on val {tuned:.1f} points"
    )
    assert as_json(found)["settings"][0]["low"] is None
    words = shlex.split(seeds_command(pair))
    assert [word for word in words if word.startswith(("fusion=", "seed="))] == ["fusion=gmu_hier", "seed=3"]


def test_p_values_are_corrected_by_holm(sweep):
    for fusion, skill in (("best", 2.5), ("good", 1.5), ("also", 1.5), ("poor", 0.2)):
        sweep.three_seeds(fusion, skill)
    found = compare(runs_under(sweep.folder))
    corrected, _ = holm([pair.difference.p for pair in found.pairs])
    assert [pair.p_holm for pair in found.pairs] == pytest.approx(corrected)
    assert {pair.claimed for pair in found.pairs} == {True, False}
    for pair in found.pairs:
        shared = set(found.letters[pair.a.name]) & set(found.letters[pair.b.name])
        assert bool(shared) is not pair.claimed
    assert found.letters["best"] == "a"


def test_chance_differences_among_many_pairs_are_not_claimed(sweep):
    for n in range(6):
        sweep.three_seeds(f"s{n}", 1.0 + 0.06 * n)
    pairs = compare(runs_under(sweep.folder)).pairs
    alone = [pair for pair in pairs if pair.difference.p < 0.05 <= pair.p_holm]
    assert alone
    assert {pair.verdict for pair in alone} == {"none"}


def test_seeds_on_different_data_are_refused(sweep):
    sweep.run("mean", 1)
    Sweep(sweep.folder, fingerprint=sweep.fingerprint | {"text": "t2"}).run("mean", 2)
    sweep.three_seeds("concat", 1.0)
    found = compare(runs_under(sweep.folder))
    assert [(row["a"], row["b"]) for row in found.refused] == [("mean", "mean")]
    assert [one.name for one in found.settings] == ["concat"]


def test_configuration_on_other_data_is_listed_as_refused(sweep):
    sweep.three_seeds("mean", 2.0)
    sweep.three_seeds("concat", 1.0)
    other = Sweep(sweep.folder, fingerprint=sweep.fingerprint | {"movies": "m2"})
    other.three_seeds("mean", 0.5, data={"root": "/other"})
    found = compare(runs_under(sweep.folder))
    assert [(row["a"], row["b"]) for row in found.refused] == [("mean", "mean")]
    assert "can be compared, and 1 other cannot, so there is no comparison" in summary(found)


def test_winner_on_val_only_is_flagged(sweep):
    good, bad = sweep.three_seeds("good", 1.0), sweep.three_seeds("lucky", 1.0)
    for run in bad:
        predicted = run.predictions("val")
        predicted.logits = np.where(predicted.labels, 3.0, -3.0)
        replace_predictions(run, predicted)
    (pair,) = compare([*good, *bad]).pairs
    assert pair.only_on_val == "lucky"
    assert "lucky wins on val, and not on test" in markdown(compare([*good, *bad]))


def test_failures_and_warnings_are_listed_by_setting(sweep):
    runs = sweep.three_seeds("mean", 1.0)
    runs[0].warn("flat_loss: the training loss fell by 1 %")
    failed = sweep.run("concat", 1)
    failed.end("failed", "the disk is full")
    text = markdown(compare([*runs, failed]))
    assert "- mean: flat_loss: the training loss fell by 1 % (1 of 3 seeds)" in text
    assert "- concat: failed: the disk is full" in text


def test_equal_predictions_are_one_result(sweep):
    one, other = sweep.three_seeds("gmu_original", 1.0), sweep.three_seeds("gmu_hier", 2.0)
    for a, b in zip(one, other, strict=True):
        for split in ("val", "test"):
            replace_predictions(b, a.predictions(split))
    (pair,) = compare([*one, *other]).pairs
    assert pair.verdict == "none"
    assert seeds_command(pair) is None
    assert "are one result: they predict the same for every movie, seed by seed" in pair_sentence(pair)


def test_zero_difference_needs_no_seeds(sweep):
    one, other = sweep.three_seeds("one", 1.0), sweep.three_seeds("other", 2.0)
    for a, b in zip(one, [*other[1:], other[0]], strict=True):  # equal runs with other seeds
        for split in ("val", "test"):
            replace_predictions(b, a.predictions(split))
    (pair,) = compare([*one, *other]).pairs
    assert pair_sentence(pair).startswith("one and other do not differ significantly (0.0 points of micro F1 [-")
    assert pair_sentence(pair).endswith("The difference is negligible")
    assert seeds_command(pair) is None


def test_copied_result_does_not_enlarge_the_family(sweep):
    runs = [run for name, skill in (("x", 1.0), ("y", 1.1), ("z", 1.3)) for run in sweep.three_seeds(name, skill)]
    alone = {(p.a.name, p.b.name): p.p_holm for p in compare(runs).pairs}
    for run in sweep.three_seeds("copy of z", 5.0):
        original = next(r for r in runs if r.config["choices"]["fusion"] == "z" and r.config["seed"] == run.config["seed"])
        for split in ("val", "test"):
            replace_predictions(run, original.predictions(split))
    found = {(p.a.name, p.b.name): p.p_holm for p in compare(runs_under(sweep.folder)).pairs}
    assert len(found) == 6
    for pair, p in alone.items():
        assert found[pair] == pytest.approx(p)
        copied = tuple("copy of z" if name == "z" else name for name in pair)
        assert found[copied] == pytest.approx(p)


def test_unknown_metric_or_no_finished_run_is_refused(sweep):
    run = sweep.run("mean", 1)
    with pytest.raises(UserError, match="metric=f1_mikro is no score: choose one of f1_micro"):
        compare([run], "f1_mikro")
    with pytest.raises(UserError, match="metric=ap_micro@val is no score"):
        compare([run], "ap_micro@val")
    run.end("failed", "x")
    with pytest.raises(UserError, match="none of these runs finished"):
        compare([run])


def test_equal_seeds_are_refused(sweep):
    one, two, three = sweep.three_seeds("mean")
    replace_predictions(three, one.predictions("test"))
    found = compare([one, two, three, *sweep.three_seeds("concat")])
    assert [row["why"] for row in found.refused] == ["its seeds 1 and 3 predict the same for every movie, so they are not two"]


def twins(sweep, more=0):
    """Return runs of two settings with equal predictions, the second with `more` further seeds, and of a third setting."""
    first = sweep.three_seeds("gmu_original", 2.0)
    twin = [sweep.run("gmu_hier", seed, 2.0) for seed in range(1, 4 + more)]
    for a, b in zip(first, twin, strict=False):
        for split in ("val", "test"):
            replace_predictions(b, a.predictions(split))
    return [*first, *twin, *sweep.three_seeds("concat", 1.9, spread=0.3)]


def test_equal_settings_are_one_comparison(sweep):
    found = compare(runs := twins(sweep))
    assert (len(found.pairs), found.family) == (3, 1)
    assert "p are Holm's over 1 comparison." in markdown(found)
    assert "correction over 1 comparison." in page(found, runs, ExampleMovies())
    against = compare(runs, against="concat")
    assert (len(against.pairs), against.family) == (2, 1)
    one, other = against.pairs
    assert one.p_holm == other.p_holm == one.difference.p


def test_settings_equal_on_some_seeds_are_tested_on_all(sweep):
    """Settings may agree on shared seeds by chance, for example if their epoch limits were not reached."""
    found = compare(twins(sweep, more=2))
    assert (len(found.pairs), found.family) == (3, 3)
    (pair,) = [pair for pair in found.pairs if {pair.a.name, pair.b.name} == {"gmu_original", "gmu_hier"}]
    assert pair.difference.p is not None
    assert pair_sentence(pair).startswith("gmu_")
    assert pair_sentence(pair).endswith("They predict the same on the 3 seeds that both have")
    p = [pair.difference.p for pair in found.pairs]
    assert [pair.p_holm for pair in found.pairs] == pytest.approx(holm(p)[0])


def test_p_values_of_val_are_corrected_by_holm(sweep):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for n, fusion in enumerate("abcde"):
        sweep.three_seeds(fusion, 1.0 + 0.25 * n, spread=0.1)
    pairs = compare(runs_in([sweep.folder])).pairs
    _, adjusted, *_ = multitest.multipletests([pair.on_val.p for pair in pairs], method="holm")
    assert [pair.p_val for pair in pairs] == pytest.approx(adjusted.tolist())


def test_winner_on_val_that_loses_on_test_is_flagged(sweep):
    better, worse = sweep.three_seeds("better", 2.5), sweep.three_seeds("worse", 0.5)
    for n, (good, bad) in enumerate(zip(better, worse, strict=True)):
        for run, sign in ((good, -1), (bad, 1)):
            predicted = run.predictions("val")
            predicted.logits = sign * np.where(predicted.labels, 3.0 + n, -3.0)
            replace_predictions(run, predicted)
    (pair,) = compare([*better, *worse]).pairs
    assert (pair.a.name, pair.verdict, pair.only_on_val) == ("better", "a", "worse")
