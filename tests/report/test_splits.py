"""Runs that differ in seed and split alone are one setting, compared over the splits."""

from __future__ import annotations

import csv
import json
import shlex

import numpy as np
import pytest

from gmu_lightning.report.closing import closing
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.leaderboard import latex, rows, write_leaderboard
from gmu_lightning.report.page.movies import ExampleMovies
from gmu_lightning.report.page.write import page
from gmu_lightning.report.reproduce import more_seeds
from gmu_lightning.report.sentences import as_json, markdown, pair_sentence, summary
from gmu_lightning.report.settings import settings_of
from gmu_lightning.run import runs_under

from .made_runs import replace_predictions
from .page_reader import Tables
from .split_runs import Pool


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Pool:
    """Return runs of three settings on five splits; the lead of `mean` over `lucky` is of the published split alone."""
    pool = Pool(tmp_path_factory.mktemp("splits"), {"val": 60, "test": 200})
    pool.on_splits("gmu_original", 1.6)
    pool.on_splits("mean", 1.0)
    pool.on_splits("lucky", 1.0, published=-0.3)
    return pool


@pytest.fixture(scope="module")
def found(pool):
    return compare(runs_under(pool.folder))


@pytest.fixture
def few(tmp_path) -> Pool:
    """Return an empty pool."""
    return Pool(tmp_path / "few", {"val": 30, "test": 60})


def pair_of(comparison, *names):
    return next(pair for pair in comparison.pairs if {pair.a.name, pair.b.name} == set(names))


def test_seed_and_split_together_make_one_setting(found):
    assert {one.name for one in found.settings} == {"gmu_original", "mean", "lucky"}
    assert found.splits == ["published", "random 1", "random 2", "random 3", "random 4"]
    assert {len(one.test) for one in found.settings} == {15}
    assert not found.refused
    assert set(found.letters) == {"gmu_original", "mean", "lucky"}


def test_mean_gives_each_split_the_same_weight(few):
    few.on_splits("mean", 0.5, splits=(None,), seeds=(1, 2, 3, 4, 5, 6))
    few.on_splits("mean", 2.0, splits=(1, 2))
    runs = runs_under(few.folder)
    of_split: dict[str, list[float]] = {}
    for run in runs:
        of_split.setdefault(str(run.config["data"]["split_seed"]), []).append(run.metrics["test/f1_micro"])
    expected = np.mean([np.mean(scores) for scores in of_split.values()])
    comparison = compare(runs)
    assert as_json(comparison)["settings"][0]["mean"] == pytest.approx(expected)
    (row,) = rows(settings_of(runs))
    assert row["test/f1_micro/mean"] == pytest.approx(expected)
    assert row["test/f1_micro/sd"] == pytest.approx(np.std(np.concatenate(list(of_split.values())), ddof=1))


def test_verdict_holds_over_splits(found):
    sentence = pair_sentence(pair_of(found, "gmu_original", "mean"))
    assert sentence.startswith("gmu_original beats mean by ")
    assert "5 splits of 3 seeds" in sentence
    assert "# Micro F1 over 5 splits" in markdown(found)


def test_differences_on_a_split_equal_those_of_its_runs_alone(found, pool):
    alone = compare([run for run in runs_under(pool.folder) if run.config["data"]["split"] == "published"])
    assert not alone.splits
    for pair in alone.pairs:
        there = pair_of(found, pair.a.name, pair.b.name).by_split["published"]
        assert abs(there.difference.mean) == pytest.approx(abs(pair.difference.mean))
        assert (there.difference.p, there.p_holm) == pytest.approx((pair.difference.p, pair.p_holm))


def test_verdict_of_one_split_is_reported_separately(found, pool):
    pair = pair_of(found, "mean", "lucky")
    assert pair.verdict == "none"
    (row,) = (row for row in as_json(found)["pairs"] if {row["a"], row["b"]} == {"mean", "lucky"})
    assert {of["split"]: of["verdict"] for of in row["splits"]}["published"] == ("a" if row["a"] == "mean" else "b")
    assert row["one_split_only"].startswith("mean beats lucky on the split published by ")
    assert "This holds on one split only: over 5 splits the difference is" in row["one_split_only"]
    for text in (markdown(found), page(found, runs_under(pool.folder), ExampleMovies())):
        assert row["one_split_only"] in text
    assert "1 difference is significant on single splits only." in summary(found)


def test_verdict_that_holds_over_splits_is_not_one_of_a_split(found):
    assert not pair_of(found, "gmu_original", "mean").on_single_splits


def test_one_split_is_compared_as_before(pool):
    runs = [run for run in runs_under(pool.folder) if run.config["data"]["split_seed"] == 2]
    text = json.dumps(as_json(compare(runs)))
    assert '"splits"' not in text
    assert "splits" not in rows(settings_of(runs))[0]


def test_other_splits_without_a_common_setting_are_refused_as_before(few):
    few.on_splits("mean", 1.0, splits=(None,))
    few.on_splits("concat", 1.0, splits=(1,))
    comparison = compare(runs_under(few.folder))
    assert not comparison.splits
    (row,) = comparison.refused
    assert row["why"].startswith("data.split is ")
    assert ", data.split_seed is " in row["why"]


def test_published_split_has_no_seed(few):
    """A sweep over both options trains the published split once for each number."""
    runs = few.on_splits("mean", 1.0, splits=(None, 1, 2))
    again = few.on_splits("mean", 1.0, splits=(None,), data={"split": "published", "split_seed": 2})
    for one, other in zip(runs, again, strict=False):
        for split in ("val", "test"):
            replace_predictions(other, one.predictions(split))
    comparison = compare(runs_under(few.folder))
    assert not comparison.refused
    assert [len(part.test) for part in comparison.settings[0].splits.values()] == [3, 3, 3]


def test_splits_that_one_setting_lacks_are_left_out(few):
    few.on_splits("mean", 1.0)
    few.on_splits("concat", 2.0, splits=(None, 1, 2))
    (pair,) = compare(runs_under(few.folder)).pairs
    assert list(pair.by_split) == ["published", "random 1", "random 2"]
    assert pair_sentence(pair).endswith("random 3, random 4 are left out: concat lacks them")


def test_settings_with_one_common_split_are_refused(few):
    few.on_splits("mean", 1.0)
    few.on_splits("concat", 2.0, splits=(None,))
    (row,) = compare(runs_under(few.folder)).refused
    assert row["why"] == "they share one split, published, and a comparison over splits needs at least two"


def test_two_splits_claim_nothing(few):
    few.on_splits("mean", 0.3, splits=(None, 1))
    few.on_splits("concat", 2.0, splits=(None, 1))
    comparison = compare(runs_under(few.folder))
    (pair,) = comparison.pairs
    assert (pair.verdict, pair.p_holm) == ("none", None)
    assert pair_sentence(pair).endswith("cannot be tested: they share 2 splits, and a test over splits needs three")
    assert as_json(comparison)["pairs"][0]["command"] is None


def test_unknown_number_of_train_movies_claims_nothing(few):
    few.on_splits("mean", 0.3, splits=(1, 2, 3))
    runs = few.on_splits("concat", 2.0, splits=(1, 2, 3))
    for run in runs:
        (run / "audit.json").write_text(json.dumps(run.audit | {"movies": {"val": 30, "test": 60}}))
    (pair,) = compare(runs_under(few.folder)).pairs
    assert pair.p_holm is None
    assert "audit.json of the runs on random 1, random 2, random 3 does not count the train movies" in pair_sentence(pair)


def test_seeds_on_a_split_with_other_data_are_refused(few):
    few.on_splits("mean", 1.0, splits=(1, 2, 3))
    run = few.on_splits("concat", 1.0, splits=(1, 2, 3))[-1]
    predicted = run.predictions("test")
    predicted.data_fingerprint["text"] = "other"
    replace_predictions(run, predicted)
    (row,) = compare(runs_under(few.folder)).refused
    assert row["why"] == "on the split random 3, its own seeds differ in it: the content of text differs"


def test_equal_predictions_on_all_splits_are_one_result(few):
    one, other = few.on_splits("mean", 1.0, splits=(1, 2, 3)), few.on_splits("concat", 2.0, splits=(1, 2, 3))
    for a, b in zip(one, other, strict=True):
        for split in ("val", "test"):
            replace_predictions(b, a.predictions(split))
    comparison = compare(runs_under(few.folder))
    assert comparison.family == 0
    assert "are one result" in pair_sentence(comparison.pairs[0])


def test_leaderboard_counts_splits_and_runs(found, pool, tmp_path):
    board = rows(settings_of(runs_under(pool.folder)))
    write_leaderboard(tmp_path, board)
    (first, *_) = csv.DictReader((tmp_path / "leaderboard.csv").open())
    assert (first["setting"], first["splits"], first["seeds"], first["seed_list"]) == (board[0]["setting"], "5", "15", "1,2,3")
    assert "| splits | runs |" in (tmp_path / "leaderboard.md").read_text()
    assert "over 5 splits" in latex(found)


def test_setting_has_its_own_name_without_its_splits(pool):
    assert [one.name for one in settings_of(runs_under(pool.folder))] == ["gmu_original", "lucky", "mean"]


def test_commands_repeat_every_split(found):
    best = found.settings[0].setting
    lines = " ".join(closing(found))
    assert "data.split=random data.split_seed=1,2,3,4 seed=1,2,3" in lines
    published, random = more_seeds(best, 4).split(" && ")[:2]
    assert "data.split" not in published
    assert shlex.split(random)[-3:] == ["data.split=random", "data.split_seed=1", "seed=4"]


def test_two_seeds_on_each_split_lack_none(few):
    for fusion in ("mean", "concat"):
        few.on_splits(fusion, 1.0, splits=(1, 2, 3), seeds=(1, 2))
    runs = runs_under(few.folder)
    comparison = compare(runs)
    assert comparison.pairs[0].p_holm is not None
    assert "seeds that are missing" not in " ".join(closing(comparison))
    assert "Commands for the missing seeds" not in page(comparison, runs, ExampleMovies())


def test_page_shows_scores_by_split_and_sections_of_one_split(found, pool):
    text = page(found, runs_under(pool.folder), ExampleMovies())
    (row,) = (row for row in Tables(text).rows("random 4") if row["setting"][0] == "mean")
    one = next(one for one in found.settings if one.name == "mean")
    expected = one.splits["random 4"].scored("f1_micro").mean
    assert float(row["random 4"][1]) == pytest.approx(expected, abs=1e-6)
    assert "All sections below show the runs of one split, published." in text
    assert 'href="#splits"' in text
    (board, *_) = Tables(text).rows("rerun")
    assert (board["splits"][1], board["runs"][1]) == ("5", "15")


def test_comparison_at_tuned_thresholds_works_over_splits(pool):
    comparison = compare(runs_under(pool.folder), "f1_micro@val_per_genre")
    pair = pair_of(comparison, "gmu_original", "mean")
    assert pair.claimed
    assert pair.difference.parts[1].variance > 0
