"""What `compare` claims of runs, refuses to, and asks for."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from gmu_lightning.files import write_json
from gmu_lightning.movie import UserError
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.found import runs_in
from gmu_lightning.report.markdown import markdown, write
from gmu_lightning.run import runs_under

from .made import Sweep, put


def test_a_clear_difference_is_claimed_in_a_sentence(sweep):
    runs = [*sweep.three_seeds("gmu_original", 2.0), *sweep.three_seeds("concat", 0.7)]
    (pair,) = compare(runs).pairs
    assert (pair.a.name, pair.b.name, pair.verdict, pair.command) == ("gmu_original", "concat", "a", None)
    low, high = (100 * end for end in pair.difference.interval[1:])
    lead = f"{100 * pair.difference.mean:.1f} points of micro F1 [{low:.1f}, {high:.1f}]"
    assert pair.sentence.startswith(f"gmu_original beats concat by {lead}, p < .001, 3 seeds; at a threshold tuned on val it is")
    assert "; micro AP, which needs no threshold, differs by" in pair.sentence


def test_what_of_a_lead_is_threshold_is_said(sweep):
    timid = sweep.three_seeds("timid", 1.5)
    for run in timid:  # ranks as well as the other, but hardly ever says yes
        for split in ("val", "test"):
            said = run.predictions(split)
            said.logits = said.logits - 2.0
            put(run, said)
    bold, best = sweep.three_seeds("bold", 1.5), sweep.three_seeds("best", 4.0)
    (pair,) = compare([*bold, *timid]).pairs
    assert pair.verdict == "a"
    part = 100 * (pair.difference.mean - pair.beside["f1_micro@val"].mean)
    assert f"so {part:.1f} points of it are threshold, and what is left cannot be claimed; micro AP" in pair.sentence
    (pair,) = compare([*best, *timid]).pairs
    part = 100 * (pair.difference.mean - pair.beside["f1_micro@val"].mean)
    assert f"so {part:.1f} points of it are threshold; micro AP" in pair.sentence
    (pair,) = compare([*best, *timid], "ap_micro").pairs
    assert "threshold" not in pair.sentence


def test_against_one_setting_only_its_pairs_are_compared(sweep):
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
    assert found.as_json()["against"] == "good"
    assert "best beats it. It beats poor. 1 cannot be told apart from it." in found.verdict
    assert "## Against good" in markdown(found)


def test_a_baseline_is_named_by_words_that_one_setting_has(sweep):
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


def test_the_whole_is_said_in_one_line(sweep):
    sweep.three_seeds("best", 2.5)
    assert compare(runs_under(sweep.folder)).verdict == "There is one setting, best: nothing to compare it with."
    sweep.three_seeds("good", 1.2)
    assert compare(runs_under(sweep.folder)).verdict == "best is the best: it beats the other setting."
    sweep.three_seeds("also", 2.5)
    found = compare(runs_under(sweep.folder))
    tied = f"{found.settings[0].name} has the highest mean, but cannot be told apart from {found.settings[1].name}."
    assert found.verdict == f"{tied} It beats the other setting."
    assert found.verdict in markdown(found)


def test_means_are_scikit_learn_s_over_the_whole_split(sweep):
    runs = sweep.three_seeds("mean", 1.0)
    test = [run.predictions("test") for run in runs]
    micro = np.mean([f1_score(p.labels, p.probabilities >= 0.5, average="micro", zero_division=0) for p in test])
    ranked = np.mean([average_precision_score(p.labels, p.probabilities, average="macro") for p in test])
    assert compare(runs).as_json()["settings"][0]["mean"] == pytest.approx(micro, abs=1e-9)
    assert compare(runs, "ap_macro").as_json()["settings"][0]["mean"] == pytest.approx(ranked, abs=1e-9)


@pytest.mark.parametrize("metric", ["f1_micro@val", "f1_macro@val_per_genre", "f1_samples@val"])
def test_thresholds_tuned_on_val_are_those_of_the_runs(sweep, metric):
    runs = sweep.three_seeds("mean", 1.0)
    expected = np.mean([run.metrics[f"test/{metric}"] for run in runs])
    assert compare(runs, metric).as_json()["settings"][0]["mean"] == pytest.approx(expected, abs=1e-9)


def test_what_cannot_be_claimed_says_how_many_seeds_would_tell_and_the_command_for_them(sweep):
    runs = [*sweep.three_seeds("a", 1.0, spread=0.3), *sweep.three_seeds("b", 1.25, spread=0.3)]
    write_json(sweep.folder / "status.json", {"jobs": []})
    (pair,) = compare(runs).pairs
    assert pair.verdict == "none"
    assert "no difference between" in pair.sentence
    assert pair.needed is not None
    assert f"about {pair.needed - 3} more seeds of each would be needed" in pair.sentence
    first, second = pair.command.split("; ")
    words = shlex.split(first)
    assert words[:4] == ["python", "-m", "gmu_lightning.train", "-m"]
    assert f"fusion={pair.a.name}" in words
    assert [word for word in words if word.startswith("seed=")] == [f"seed=range(4,{pair.needed + 1})"]
    assert words[-1] == f"hydra.sweep.dir={sweep.folder}"
    assert f"fusion={pair.b.name}" in second


def test_seeds_are_asked_for_at_the_level_that_holm_leaves_a_pair(sweep):
    for n, skill in enumerate((1.0, 1.15, 1.35, 1.6)):
        sweep.three_seeds(f"s{n}", skill, spread=0.25)
    pairs = sorted(compare(runs_under(sweep.folder)).pairs, key=lambda pair: pair.difference.p)
    assert len(pairs) == 6
    asked = [pair.needed for pair in pairs]
    assert asked == [pair.difference.seeds_needed(alpha=0.05 / (6 - smaller)) for smaller, pair in enumerate(pairs)]
    alone = [pair.difference.seeds_needed(alpha=0.05) for pair in pairs]
    assert all(more > less for more, less in zip(asked[:-1], alone[:-1], strict=True))
    assert asked[-1] == alone[-1]
    (pair,) = compare([run for one in (pairs[0].a, pairs[0].b) for run in one.setting.runs]).pairs
    assert pair.needed == alone[0] < asked[0]


def test_of_unequal_numbers_of_seeds_each_is_told_what_it_lacks(sweep):
    runs = [
        *sweep.three_seeds("a", 1.0, spread=0.3),
        *sweep.three_seeds("b", 1.25, spread=0.3),
        sweep.run("b", 4, 1.25, spread=0.3),
    ]
    (pair,) = compare(runs).pairs
    lacks = {one.name: pair.needed - len(one.test) for one in (pair.a, pair.b)}
    assert (
        f"about {lacks[pair.a.name]} more seeds of {pair.a.name} and {lacks[pair.b.name]} of {pair.b.name} would" in pair.sentence
    )


def test_fewer_than_three_seeds_claim_nothing(sweep):
    runs = [sweep.run("gmu_hier", 1, 3.0), sweep.run("gmu_hier", 2, 3.0), *sweep.three_seeds("concat", 0.3)]
    found = compare(runs)
    (pair,) = found.pairs
    assert (pair.verdict, pair.p_holm) == ("none", None)
    assert "of which nothing can be claimed: gmu_hier has 2 seeds, and three are the least" in pair.sentence
    assert found.as_json()["settings"][0]["low"] is None
    words = shlex.split(pair.command)
    assert [word for word in words if word.startswith(("fusion=", "seed="))] == ["fusion=gmu_hier", "seed=3"]


def test_a_single_test_movie_claims_nothing(sweep):
    sweep.movies = {"val": 60, "test": 1}
    (pair,) = compare(sweep.rivals()).pairs
    assert pair.sentence.endswith("of which nothing can be claimed: there is one test movie")
    assert (pair.p_holm, pair.difference.interval.low, pair.command) == (None, None, None)


def test_names_of_any_characters_stay_in_their_cells(sweep):
    sweep.three_seeds("a", 1.0, typed=["note=..."], note="one|two\nthree")
    sweep.three_seeds("a", 1.5, typed=["note=x"], note="x")
    rows = [line for line in markdown(compare(runs_under(sweep.folder))).splitlines() if line.startswith("| a ")]
    assert len(rows) == 2
    assert any("note=one\\|two" in row for row in rows)


def test_one_setting_has_no_pairs_to_list(sweep):
    assert "## Pairs" not in markdown(compare(sweep.three_seeds("mean")))


def test_p_are_holm_s_over_all_pairs_and_letters_follow_them(sweep):
    for fusion, skill in (("best", 2.5), ("good", 1.5), ("also", 1.5), ("poor", 0.2)):
        sweep.three_seeds(fusion, skill)
    found = compare(runs_under(sweep.folder))
    assert len(found.pairs) == 6
    for pair in found.pairs:
        assert pair.p_holm >= pair.difference.p
        shared = set(found.letters[pair.a.name]) & set(found.letters[pair.b.name])
        assert bool(shared) is not pair.claimed
    assert found.letters["best"] == "a"


def test_what_chance_would_give_one_of_many_pairs_is_not_claimed(sweep):
    for n in range(6):
        sweep.three_seeds(f"s{n}", 1.0 + 0.06 * n)
    pairs = compare(runs_under(sweep.folder)).pairs
    alone = [pair for pair in pairs if pair.difference.p < 0.05 <= pair.p_holm]
    assert alone
    assert {pair.verdict for pair in alone} == {"none"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"data": {"label_policy": "mmbt"}}, "data.label_policy is keep23 in one and mmbt in the other"),
        ({"data": {"limit": "20/5/5"}}, "data.limit is None in one and 20/5/5 in the other"),
        ({"choices": {"data": "moviescope"}}, "one was tested on mmimdb, the other on moviescope"),
        ({}, "they saw different movies, splits or labels"),
    ],
)
def test_settings_on_other_data_are_refused_and_the_difference_is_named(sweep, change, why):
    sweep.three_seeds("mean", 1.0)
    other = Sweep(sweep.folder, fingerprint=sweep.fingerprint | {"movies": "m2"})
    other.three_seeds("concat", 1.0, **change)
    found = compare(runs_under(sweep.folder))
    assert not found.pairs
    (refused,) = found.refused
    assert {refused["a"], refused["b"]} == {"mean", "concat"}
    assert why in refused["why"]
    assert why in markdown(found)
    assert not found.letters


def test_other_content_of_a_modality_is_refused_only_where_both_read_it(sweep):
    sweep.three_seeds("mean", 1.0)
    other = Sweep(sweep.folder, fingerprint=sweep.fingerprint | {"image": "i2"})
    other.three_seeds("concat", 1.0)
    other.three_seeds("none", 1.0, modalities="text")
    found = compare(runs_under(sweep.folder))
    assert [row["why"] for row in found.refused] == ["the content of image differs"]
    assert len(found.pairs) == 2


def test_seeds_that_saw_different_data_are_no_setting(sweep):
    sweep.run("mean", 1)
    Sweep(sweep.folder, fingerprint=sweep.fingerprint | {"text": "t2"}).run("mean", 2)
    sweep.three_seeds("concat", 1.0)
    found = compare(runs_under(sweep.folder))
    assert [(row["a"], row["b"]) for row in found.refused] == [("mean", "mean")]
    assert [one.name for one in found.settings] == ["concat"]


def test_one_configuration_on_other_data_does_not_vanish(sweep):
    sweep.three_seeds("mean", 2.0)
    sweep.three_seeds("concat", 1.0)
    other = Sweep(sweep.folder, fingerprint=sweep.fingerprint | {"movies": "m2"})
    other.three_seeds("mean", 0.5, data={"root": "/other"})
    found = compare(runs_under(sweep.folder))
    assert [(row["a"], row["b"]) for row in found.refused] == [("mean", "mean")]
    assert "beside 1 that cannot be compared" in found.verdict


def test_another_threshold_is_refused(sweep):
    sweep.three_seeds("mean", 1.0)
    for run in sweep.three_seeds("concat", 1.0):
        said = run.predictions("test")
        said.threshold = 0.3
        put(run, said)
    (refused,) = compare(runs_under(sweep.folder)).refused
    assert refused["why"] == "predictions are made at the threshold 0.5 and at 0.3"


def test_a_setting_that_wins_on_val_alone_is_flagged(sweep):
    good, bad = sweep.three_seeds("good", 1.0), sweep.three_seeds("lucky", 1.0)
    for run in bad:
        said = run.predictions("val")
        said.logits = np.where(said.labels, 3.0, -3.0)
        put(run, said)
    (pair,) = compare([*good, *bad]).pairs
    assert pair.only_on_val == "lucky"
    assert "lucky wins on val, and not on test" in markdown(compare([*good, *bad]))


def test_failed_runs_and_warnings_stay_with_their_setting(sweep):
    runs = sweep.three_seeds("mean", 1.0)
    runs[0].warn("flat_loss: the training loss fell by 1 %")
    failed = sweep.run("concat", 1)
    failed.end("failed", "the disk is full")
    text = markdown(compare([*runs, failed]))
    assert "- mean: flat_loss: the training loss fell by 1 % (1 of 3 seeds)" in text
    assert "- concat: failed: the disk is full" in text


def test_settings_that_say_the_same_are_one_result(sweep):
    one, other = sweep.three_seeds("gmu_original", 1.0), sweep.three_seeds("gmu_hier", 2.0)
    for a, b in zip(one, other, strict=True):
        for split in ("val", "test"):
            put(b, a.predictions(split))
    (pair,) = compare([*one, *other]).pairs
    assert pair.verdict == "none"
    assert pair.command is None
    assert "are one result: they predict the same for every movie, seed by seed" in pair.sentence


def test_a_difference_of_nothing_asks_for_no_seeds(sweep):
    one, other = sweep.three_seeds("one", 1.0), sweep.three_seeds("other", 2.0)
    for a, b in zip(one, [*other[1:], other[0]], strict=True):  # the same runs, under other seeds
        for split in ("val", "test"):
            put(b, a.predictions(split))
    (pair,) = compare([*one, *other]).pairs
    assert pair.sentence.startswith("no difference between one and other can be claimed (0.0 points of micro F1 [-")
    assert pair.sentence.endswith("there is nothing to look for")
    assert pair.command is None


def test_one_result_in_two_rows_is_compared_once(sweep):
    runs = [run for name, skill in (("x", 1.0), ("y", 1.1), ("z", 1.3)) for run in sweep.three_seeds(name, skill)]
    alone = {(p.a.name, p.b.name): p.p_holm for p in compare(runs).pairs}
    for run in sweep.three_seeds("copy of z", 5.0):
        original = next(r for r in runs if r.config["choices"]["fusion"] == "z" and r.config["seed"] == run.config["seed"])
        for split in ("val", "test"):
            put(run, original.predictions(split))
    found = {(p.a.name, p.b.name): p.p_holm for p in compare(runs_under(sweep.folder)).pairs}
    assert len(found) == 6
    for pair, p in alone.items():
        assert found[pair] == pytest.approx(p)
        copied = tuple("copy of z" if name == "z" else name for name in pair)
        assert found[copied] == pytest.approx(p)


def test_files_hold_what_was_found(sweep, tmp_path):
    runs = [*sweep.three_seeds("mean", 1.0), *sweep.three_seeds("concat", 2.0)]
    found = compare(runs)
    write(found, tmp_path / "out")
    there = json.loads((tmp_path / "out/comparison.json").read_text())
    assert there == json.loads(json.dumps(found.as_json()))
    assert {"metric", "movies", "settings", "pairs", "refused"} <= set(there)
    assert {"name", "seeds", "mean", "low", "high"} <= set(there["settings"][0])
    assert {"a", "b", "difference", "low", "high", "p", "p_holm", "effect", "verdict", "sentence"} <= set(there["pairs"][0])
    for one in there["settings"]:
        assert one["bootstrap"]["low"] < one["mean"] < one["bootstrap"]["high"]
    assert (tmp_path / "out/comparison.md").read_text() == markdown(found)


def test_runs_are_found_in_sweeps_and_alone(sweep, tmp_path):
    alone = sweep.run("mean", 1)
    Sweep(tmp_path / "other").run("mean", 2)
    assert [run.folder for run in runs_in([alone.folder, tmp_path / "other"])] == [alone.folder, *(tmp_path / "other").iterdir()]


@pytest.mark.parametrize(("folder", "sentence"), [("away", "does not exist"), ("empty", "holds no run")])
def test_a_folder_without_runs_is_an_error(tmp_path, folder, sentence):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=sentence):
        runs_in([tmp_path / folder])


def test_nothing_finished_or_no_such_metric_is_an_error(sweep):
    run = sweep.run("mean", 1)
    with pytest.raises(UserError, match="metric=f1_mikro is no score: choose one of f1_micro"):
        compare([run], "f1_mikro")
    with pytest.raises(UserError, match="metric=ap_micro@val is no score"):
        compare([run], "ap_micro@val")
    run.end("failed", "x")
    with pytest.raises(UserError, match="none of these runs finished"):
        compare([run])
