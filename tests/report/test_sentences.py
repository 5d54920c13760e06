"""Sentences, tables and files of a comparison."""

from __future__ import annotations

import json
import shlex

from gmu_lightning.files import write_json
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.leaderboard import latex
from gmu_lightning.report.sentences import as_json, markdown, pair_sentence, seeds_command, summary, write
from gmu_lightning.report.statistics import MOST_SEEDS
from gmu_lightning.report.words import chance
from gmu_lightning.run import runs_under

from .made_runs import replace_predictions


def test_sentence_gives_the_power_of_many_seeds(sweep):
    runs = [*sweep.three_seeds("a", 1.0), *sweep.three_seeds("b", 1.03)]
    (pair,) = compare(runs).pairs
    assert pair.needed is None
    chance = pair.difference.power(MOST_SEEDS, pair.level)
    assert 0 < chance < 0.8
    assert f"even {MOST_SEEDS} seeds of each would show this difference in only {chance:.0%} of comparisons" in pair_sentence(
        pair
    )


def test_single_seed_neither_ties_nor_leads(sweep):
    runs = [*sweep.rivals(), sweep.run("lucky", 1, 4.0)]
    found = compare(runs)
    assert set(found.letters) == {"gmu_original", "concat"}
    assert summary(found).startswith("gmu_original is the best: it beats the other setting.")
    assert "lucky cannot be tested: a test needs three seeds and two test movies." in summary(found)
    assert summary(compare([sweep.run("x"), sweep.run("y")])).startswith("No difference can be claimed. ")


def test_summary_has_the_winner_s_warnings(sweep):
    runs = sweep.rivals()
    for run in runs[:3]:
        run.warn("flat_loss: it never fell")
    found = compare(runs)
    assert "gmu_original has warnings: flat_loss: it never fell (3 of 3 seeds)." in summary(found)
    assert r"% Warning of gmu\_original: flat\_loss: it never fell (3 of 3 seeds)." in latex(found)


def test_summary_against_a_baseline_names_tested_settings(sweep):
    runs = [*sweep.three_seeds("mean"), sweep.run("concat", 1, 3.0), sweep.run("concat", 2, 3.0)]
    assert summary(compare(runs, against="mean")) == (
        "No other setting can be compared with mean. concat cannot be tested: a test needs three seeds and two test movies."
    )
    assert summary(compare(runs[:3], against="mean")) == "There is one setting, mean, so there is no comparison."
    runs[0].warn("flat_loss: it never fell")
    more = [*runs, *sweep.three_seeds("poor", 0.1)]
    verdict = summary(compare(more, against="mean"))
    assert "It beats poor. mean has warnings: flat_loss: it never fell (1 of 3 seeds). concat cannot" in verdict


def test_one_test_movie_gives_no_winner_on_val(sweep):
    sweep.movies = {"val": 400, "test": 1}
    found = compare(sweep.rivals())
    (pair,) = found.pairs
    assert pair.p_val < 0.05
    assert pair.only_on_val is None
    assert "| too few seeds or movies |" in markdown(found)


def test_clear_difference_is_claimed(sweep):
    runs = [*sweep.three_seeds("gmu_original", 2.0), *sweep.three_seeds("concat", 0.7)]
    (pair,) = compare(runs).pairs
    assert (pair.a.name, pair.b.name, pair.verdict, seeds_command(pair)) == ("gmu_original", "concat", "a", None)
    low, high = (100 * end for end in pair.difference.interval[1:])
    lead = f"{100 * pair.difference.mean:.1f} points of micro F1 [{low:.1f}, {high:.1f}]"
    assert pair_sentence(pair).startswith(
        f"gmu_original beats concat by {lead}, p < .001, 3 seeds. At a threshold tuned on val the lead is"
    )
    assert ". Micro AP, which needs no threshold, differs by" in pair_sentence(pair)


def test_sentence_splits_off_the_threshold_s_part(sweep):
    timid = sweep.three_seeds("timid", 1.5)
    for run in timid:  # ranks as well as the other, but predicts few positives
        for split in ("val", "test"):
            predicted = run.predictions(split)
            predicted.logits = predicted.logits - 2.0
            replace_predictions(run, predicted)
    bold, best = sweep.three_seeds("bold", 1.5), sweep.three_seeds("best", 4.0)
    (pair,) = compare([*bold, *timid]).pairs
    assert pair.verdict == "a"
    part = 100 * (pair.difference.mean - pair.companions["f1_micro@val"].mean)
    assert f"so {part:.1f} points come from the threshold. The remaining lead is not significant. Micro AP" in pair_sentence(pair)
    (pair,) = compare([*best, *timid]).pairs
    part = 100 * (pair.difference.mean - pair.companions["f1_micro@val"].mean)
    assert f"so {part:.1f} points come from the threshold. Micro AP" in pair_sentence(pair)
    (pair,) = compare([*best, *timid], "ap_micro").pairs
    assert "threshold" not in pair_sentence(pair)


def test_summary_is_one_line(sweep):
    sweep.three_seeds("best", 2.5)
    assert summary(compare(runs_under(sweep.folder))) == "There is one setting, best, so there is no comparison."
    sweep.three_seeds("good", 1.2)
    assert summary(compare(runs_under(sweep.folder))) == "best is the best: it beats the other setting."
    sweep.three_seeds("also", 2.5)
    found = compare(runs_under(sweep.folder))
    tied = f"{found.settings[0].name} has the highest mean, but does not differ significantly from {found.settings[1].name}."
    assert summary(found) == f"{tied} It beats the other setting."
    assert summary(found) in markdown(found)


def test_unclaimed_pair_has_needed_seeds_and_a_command(sweep):
    runs = [*sweep.three_seeds("a", 1.0, spread=0.3), *sweep.three_seeds("b", 1.25, spread=0.3)]
    write_json(sweep.folder / "status.json", {"jobs": []})
    (pair,) = compare(runs).pairs
    assert pair.verdict == "none"
    assert "do not differ significantly" in pair_sentence(pair)
    assert pair.needed is not None
    assert f"About {pair.needed - 3} more seeds of each would be needed" in pair_sentence(pair)
    first, second = seeds_command(pair).split("; ")
    words = shlex.split(first)
    assert words[:4] == ["python", "-m", "gmu_lightning.train", "-m"]
    assert f"fusion={pair.a.name}" in words
    assert [word for word in words if word.startswith("seed=")] == [f"seed=range(4,{pair.needed + 1})"]
    assert words[-1] == f"hydra.sweep.dir={sweep.folder}"
    assert f"fusion={pair.b.name}" in second


def test_unequal_seeds_are_counted_per_setting(sweep):
    runs = [
        *sweep.three_seeds("a", 1.0, spread=0.3),
        *sweep.three_seeds("b", 1.25, spread=0.3),
        sweep.run("b", 4, 1.25, spread=0.3),
    ]
    (pair,) = compare(runs).pairs
    lacks = {one.name: pair.needed - len(one.test) for one in (pair.a, pair.b)}
    assert (
        f"About {lacks[pair.a.name]} more seeds of {pair.a.name} and {lacks[pair.b.name]} of {pair.b.name} would"
        in pair_sentence(pair)
    )


def test_single_test_movie_claims_nothing(sweep):
    sweep.movies = {"val": 60, "test": 1}
    (pair,) = compare(sweep.rivals()).pairs
    assert pair_sentence(pair).endswith("This difference cannot be tested: there is one test movie")
    assert (pair.p_holm, pair.difference.interval.low, seeds_command(pair)) == (None, None, None)


def test_markdown_cells_escape_names(sweep):
    sweep.three_seeds("a", 1.0, typed=["note=..."], note="one|two\nthree")
    sweep.three_seeds("a", 1.5, typed=["note=x"], note="x")
    rows = [line for line in markdown(compare(runs_under(sweep.folder))).splitlines() if line.startswith("| a ")]
    assert len(rows) == 2
    assert any("note=one\\|two" in row for row in rows)


def test_single_setting_has_no_list_of_pairs(sweep):
    assert "## Pairs" not in markdown(compare(sweep.three_seeds("mean")))


def test_files_hold_the_comparison(sweep, tmp_path):
    runs = [*sweep.three_seeds("mean", 1.0), *sweep.three_seeds("concat", 2.0)]
    found = compare(runs)
    write(found, tmp_path / "out")
    there = json.loads((tmp_path / "out/comparison.json").read_text())
    assert there == json.loads(json.dumps(as_json(found)))
    assert {"metric", "movies", "settings", "pairs", "refused"} <= set(there)
    assert {"name", "seeds", "mean", "low", "high"} <= set(there["settings"][0])
    assert {"a", "b", "difference", "low", "high", "p", "p_holm", "effect", "verdict", "sentence"} <= set(there["pairs"][0])
    for one in there["settings"]:
        assert one["bootstrap"]["low"] < one["mean"] < one["bootstrap"]["high"]
    assert (tmp_path / "out/comparison.md").read_text() == markdown(found)


def test_a_p_that_rounds_to_the_limit_has_another_digit():
    assert [chance(value) for value in (0.0497, 0.0503, 0.0494, 0.2, 0.0001, None)] == [
        *("p = .0497", "p = .0503", "p = .049", "p = .200", "p < .001", "")
    ]


def test_an_interval_without_0_is_explained_where_nothing_is_claimed(sweep):
    sweep.movies = {"val": 60, "test": 60}
    found = compare([run for skill, name in enumerate("abcdefgh") for run in sweep.three_seeds(name, 1 + 0.12 * skill)])
    open_pairs = [pair for pair in found.pairs if not (pair.claimed or pair.same)]
    explained = ". The interval excludes 0, but only p is corrected for the number of comparisons"
    assert any(pair.difference.interval.low > 0 for pair in open_pairs)
    assert all((explained in pair_sentence(pair)) == (pair.difference.interval.low > 0) for pair in open_pairs)


def test_a_best_gate_without_its_control_is_no_proof_of_weighing(sweep):
    gate = sweep.three_seeds("gmu_original", 3.0, options={"bias": True})
    control = sweep.three_seeds("self_gate", 1.0, options={"bias": True, "join": "mean"})
    missing = "Whether its gates are the reason is open: fusion=self_gate is missing."
    assert missing in summary(compare([*gate, *sweep.three_seeds("concat", 0.7)]))
    assert missing not in summary(compare([*gate, *control]))
