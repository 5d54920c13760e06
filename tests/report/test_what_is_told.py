"""What a comparison must not pass over: runs that are no evidence, files that disagree, and what was left out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gmu_lightning.files import write_json
from gmu_lightning.movie import UserError
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.found import left_in, runs_in
from gmu_lightning.report.inference import MOST_SEEDS, holm
from gmu_lightning.report.latex import latex
from gmu_lightning.report.leaderboard import rows
from gmu_lightning.report.markdown import markdown
from gmu_lightning.report.page.shown import Shown
from gmu_lightning.report.page.write import page
from gmu_lightning.report.settings import settings_of

from .made import Sweep, put


def test_seeds_that_predict_the_same_are_no_seeds(sweep):
    one, two, three = sweep.three_seeds("mean")
    put(three, one.predictions("test"))
    found = compare([one, two, three, *sweep.three_seeds("concat")])
    assert [row["why"] for row in found.refused] == ["its seeds 1 and 3 predict the same for every movie, so they are not two"]


def twins(sweep, more=0):
    """Runs of two settings that predict the same, the second with some seeds more, and of a third one."""
    first = sweep.three_seeds("gmu_original", 2.0)
    twin = [sweep.run("gmu_hier", seed, 2.0) for seed in range(1, 4 + more)]
    for a, b in zip(first, twin, strict=False):
        for split in ("val", "test"):
            put(b, a.predictions(split))
    return [*first, *twin, *sweep.three_seeds("concat", 1.9, spread=0.3)]


def test_one_result_in_two_rows_is_one_comparison(sweep):
    found = compare(runs := twins(sweep))
    assert (len(found.pairs), found.family) == (3, 1)
    assert "p are Holm's over 1 comparison." in markdown(found)
    assert "p are Holm's over 1 comparison " in page(found, runs, Shown())
    against = compare(runs, against="concat")
    assert (len(against.pairs), against.family) == (2, 1)
    one, other = against.pairs
    assert one.p_holm == other.p_holm == one.difference.p


def test_settings_that_agree_on_some_seeds_are_tested_on_all(sweep):
    """An epoch limit that the shared seeds never reached does not make two settings one."""
    found = compare(twins(sweep, more=2))
    assert (len(found.pairs), found.family) == (3, 3)
    (pair,) = [pair for pair in found.pairs if {pair.a.name, pair.b.name} == {"gmu_original", "gmu_hier"}]
    assert pair.difference.p is not None
    assert pair.sentence.startswith("no difference between gmu_")
    assert pair.sentence.endswith("; on the 3 seeds that both have they predict the same")
    p = [pair.difference.p for pair in found.pairs]
    assert [pair.p_holm for pair in found.pairs] == pytest.approx(holm(p))


def test_where_no_number_of_seeds_is_enough_it_says_how_often_many_would_be(sweep):
    runs = [*sweep.three_seeds("a", 1.0), *sweep.three_seeds("b", 1.03)]
    (pair,) = compare(runs).pairs
    assert pair.needed is None
    chance = pair.difference.power(MOST_SEEDS, pair.level)
    assert 0 < chance < 0.8
    assert (
        f"even {MOST_SEEDS} seeds of each would show one of this size in only {chance:.0%} of such comparisons" in pair.sentence
    )


def test_a_setting_of_one_seed_ties_with_nobody_and_leads_nobody(sweep):
    runs = [*sweep.rivals(), sweep.run("lucky", 1, 4.0)]
    found = compare(runs)
    assert set(found.letters) == {"gmu_original", "concat"}
    assert found.verdict.startswith("gmu_original is the best: it beats the other setting.")
    assert "Of lucky nothing can be said: three seeds and two test movies are the least." in found.verdict
    assert compare([sweep.run("x"), sweep.run("y")]).verdict.startswith("Nothing can be claimed. Of ")


def test_the_winner_s_warnings_stand_beside_its_name(sweep):
    runs = sweep.rivals()
    for run in runs[:3]:
        run.warn("flat_loss: it never fell")
    found = compare(runs)
    assert "Mind gmu_original's warnings: flat_loss: it never fell (3 of 3 seeds)." in found.verdict
    assert r"% Warning of gmu\_original: flat\_loss: it never fell (3 of 3 seeds)." in latex(found)


def test_another_threshold_stands_in_no_table_of_the_others(sweep):
    runs = sweep.rivals()
    for run in sweep.three_seeds("mean", 1.0):
        said = run.predictions("test")
        said.threshold = 0.3
        put(run, said)
        runs.append(run)
    text = latex(compare(runs))
    assert "mean &" not in text
    assert "predictions are made at the threshold" in text


def test_scores_that_predictions_do_not_give_are_refused(sweep):
    first, *_ = runs = sweep.rivals()
    write_json(first / "metrics.json", first.metrics | {"test/f1_micro": 0.9})
    with pytest.raises(UserError, match=r"metrics.json says 0.9000 of test/f1_micro and its predictions give 0\.\d+, so one of"):
        compare(runs)


@pytest.mark.parametrize("split", ["test", "val"])
def test_logits_that_are_no_numbers_are_refused(sweep, split):
    first, *_ = runs = sweep.rivals()
    said = first.predictions(split)
    said.logits[0, 0] = np.nan
    said.write(first / f"predictions/{split}.parquet")
    with pytest.raises(UserError, match=f"predictions/{split}.parquet is damaged, for it holds logits that are no numbers"):
        compare(runs)


def test_who_wins_on_val_is_judged_over_all_pairs_too(sweep):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for n, fusion in enumerate("abcde"):
        sweep.three_seeds(fusion, 1.0 + 0.25 * n, spread=0.1)
    pairs = compare(runs_in([sweep.folder])).pairs
    _, adjusted, *_ = multitest.multipletests([pair.on_val.p for pair in pairs], method="holm")
    assert [pair.p_val for pair in pairs] == pytest.approx(adjusted.tolist())


def test_who_wins_on_val_and_loses_on_test_is_flagged(sweep):
    better, worse = sweep.three_seeds("better", 2.5), sweep.three_seeds("worse", 0.5)
    for n, (good, bad) in enumerate(zip(better, worse, strict=True)):
        for run, sign in ((good, -1), (bad, 1)):
            said = run.predictions("val")
            said.logits = sign * np.where(said.labels, 3.0 + n, -3.0)
            put(run, said)
    (pair,) = compare([*better, *worse]).pairs
    assert (pair.a.name, pair.verdict, pair.only_on_val) == ("better", "a", "worse")


def test_val_is_compared_too(sweep):
    runs = sweep.rivals()
    for run in runs[:3]:
        said = run.predictions("val")
        said.labels = np.roll(said.labels, 1, axis=0)
        put(run, said)
    (refused,) = compare(runs).refused
    assert refused["why"].startswith("on val ")
    assert refused["why"].endswith(" of 60 movies have other labels")


def test_genres_in_another_order_are_named(sweep):
    runs = sweep.three_seeds("mean")
    other = Sweep(sweep.folder, genres=sweep.genres[::-1])
    (refused,) = compare([*runs, *other.three_seeds("concat")]).refused
    assert refused["why"] == "their genres are in another order"


def test_two_results_of_one_run_are_told(sweep):
    runs = [*sweep.rivals(), sweep.run("concat", 1, 1.5)]
    (setting,) = (one for one in settings_of(runs) if one.values["fusion"] == "concat")
    (warning,) = setting.warnings
    assert warning.startswith(f"two_results: {runs[-1].folder} is the same run as {runs[3].folder} with other scores")
    (again,) = (one for one in settings_of([*runs[:-1], runs[-2]]) if one.values["fusion"] == "concat")
    assert not again.warnings


def test_other_movies_are_a_warning_of_the_leaderboard(sweep):
    runs = sweep.rivals()
    other = Sweep(sweep.folder, {"val": 30, "test": 10}, fingerprint={"movies": "m2"})
    runs += other.three_seeds("mean")
    warned = {row["fusion"]: row["warnings"] for row in rows(runs)}
    assert warned["mean"] == "other_data: it saw other movies, splits or labels than most settings here"
    assert not warned["concat"]


def test_what_cannot_be_read_is_told_and_not_dropped(sweep):
    runs = sweep.rivals()
    (runs[0] / "config.yaml").unlink()
    (runs[1] / "status.json").unlink()
    runs[3].end("running")
    left = left_in([sweep.folder])
    assert dict(left) == {
        str(runs[0].folder): "it lacks config.yaml",
        str(runs[1].folder): "it lacks status.json",
        str(runs[3].folder): "it did not end",
    }
    found = compare(runs_in([sweep.folder]), left=left)
    assert found.as_json()["left_out"][0] == dict(zip(("folder", "why"), left[0], strict=True))
    for text in (markdown(found), page(found, runs_in([sweep.folder]), Shown())):
        assert all(f"{folder}: {why}" in text for folder, why in left)


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("status.json", {"warnings": ...}, "status.json is damaged, for it lacks warnings"),
        ("status.json", {"identity": ...}, "status.json is damaged, for it lacks identity"),
        ("metrics.json", {"test/ap_micro": float("nan")}, "metrics.json is damaged, for it holds NaN, which is no number"),
    ],
)
def test_a_file_that_lacks_something_is_named(sweep, file, change, sentence):
    first, *_ = runs = sweep.rivals()
    content = json.loads((first / file).read_text()) | change
    (first / file).write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    with pytest.raises(UserError, match=sentence):
        compare(runs)


def test_a_damaged_history_or_configuration_is_named(sweep):
    first, *_ = runs = sweep.rivals()
    (first / "history.csv").write_text("epoch,train/loss\nx,y\n")
    with pytest.raises(UserError, match=r"history.csv is damaged"):
        page(compare(runs), runs, Shown())
    (first / "config.yaml").write_text("modalities: text\n")
    with pytest.raises(UserError, match=r"config.yaml is damaged, for it lacks seed"):
        compare(runs)


def test_where_no_data_are_most_settings_each_is_told_that_others_are_on_other(tmp_path):
    one, two = Sweep(tmp_path / "one"), Sweep(tmp_path / "two", fingerprint={"movies": "b", "text": "t", "image": "i"})
    settings = settings_of([*one.three_seeds("mean"), *two.three_seeds("concat")])
    assert [one.warnings for one in settings] == [["other_data: it saw other movies, splits or labels than others here"]] * 2


def test_against_a_setting_only_what_was_tested_is_told(sweep):
    runs = [*sweep.three_seeds("mean"), sweep.run("concat", 1, 3.0), sweep.run("concat", 2, 3.0)]
    assert compare(runs, against="mean").verdict == (
        "No other setting can be compared with mean. "
        "Of concat nothing can be said: three seeds and two test movies are the least."
    )
    assert compare(runs[:3], against="mean").verdict == "There is one setting, mean: nothing to compare it with."
    runs[0].warn("flat_loss: it never fell")
    more = [*runs, *sweep.three_seeds("poor", 0.1)]
    verdict = compare(more, against="mean").verdict
    assert "It beats poor. Mind mean's warnings: flat_loss: it never fell (1 of 3 seeds). Of concat nothing can" in verdict


def test_one_test_movie_says_so_and_no_winner_of_val(sweep):
    sweep.movies = {"val": 400, "test": 1}
    found = compare(sweep.rivals())
    (pair,) = found.pairs
    assert pair.p_val < 0.05
    assert pair.only_on_val is None
    assert "| too few seeds or movies |" in markdown(found)
