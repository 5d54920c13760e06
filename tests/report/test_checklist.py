"""The checklist: each item can be a yes and a no, names the file that proves it, and gives the command that helps."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gmu_lightning.files import write_json, write_rows
from gmu_lightning.report.checklist.items import Item, checklist, markdown, verdict, write_checklist
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.page.movies import ExampleMovies
from gmu_lightning.report.page.write import page
from gmu_lightning.run import Run

from .made_runs import Sweep, write_diagnosis, write_study
from .page_reader import Tables

SEEDS, BUDGETS, ALONE, CONTROLS, COSTS, INTERVALS, TEST, SPLITS, MISSING, GATES, VERSIONS = range(11)
MONITOR = "val/ap_micro"


def check(runs: Sequence[Run], item: int) -> Item:
    """Return one item, once its proof is known to exist."""
    found = checklist(compare(runs), runs[0].folder.parent)[item]
    proof = runs[0].folder.parent / found.proof
    assert proof.exists() or found.proof in ("leaderboard.csv", "comparison.json")
    assert found.command is None if found.ok else True
    return found


def words(command: str | None) -> list[str]:
    """Return the words of the only command of an item."""
    assert command is not None
    assert "\n" not in command and " && " not in command
    return shlex.split(command)


def test_three_seeds_of_each_setting(sweep):
    runs = [*sweep.three_seeds("mean"), *(sweep.run("concat", seed) for seed in (1, 2, 3, 4))]
    found = check(runs, SEEDS)
    assert found.ok and found.why == "3 to 4 seeds of each of 2 settings"
    few = check([*runs, *(sweep.run("max", seed) for seed in (1, 2))], SEEDS)
    assert not few.ok and "max (2)" in few.why and "mean" not in few.why
    assert words(few.command)[-1] == "seed=3"


def search(sweep: Sweep, trials: int) -> None:
    """Write a search for the learning rate into the sweep's folder."""
    space = {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
    write_json(sweep.folder / "search/search.json", {"trials": trials, "space": space, "seed": 9, "monitor": "x", "settings": []})


def test_searches_of_one_budget_are_equal(tmp_path):
    typed: dict[str, Any] = {"typed": ["sweep=search", "optimizer.lr=0.001"], "choices": {"sweep": "search"}}
    tuned, other = Sweep(tmp_path / "tuned"), Sweep(tmp_path / "other")
    search(tuned, 12), search(other, 12)
    runs = [
        *tuned.three_seeds("mean", optimizer={"lr": 0.001}, **typed),
        *other.three_seeds("concat", optimizer={"lr": 0.002}, **typed),
    ]
    found = check(runs, BUDGETS)
    assert found.ok and found.why.startswith("12 trials of each") and found.proof == "search/search.json"
    search(other, 3)
    unequal = check(runs, BUDGETS)
    assert not unequal.ok
    assert "3 trials of concat" in unequal.why and "12 trials of mean" in unequal.why
    assert unequal.command and unequal.command.count("sweep=search") == 2 and "optimizer.lr" not in unequal.command


def test_without_a_search_all_values_must_be_equal(sweep):
    runs = [sweep.run(fusion, optimizer={"lr": 0.001}) for fusion in ("mean", "concat")]
    found = check(runs, BUDGETS)
    assert found.ok and found.why.startswith("Nothing was searched")
    other: dict[str, Any] = {"typed": ["optimizer.lr=0.01"], "optimizer": {"lr": 0.01}}
    more = [*runs, sweep.run("concat", skill=0.4, **other)]
    uneven = check(more, BUDGETS)
    assert not uneven.ok and "optimizer.lr: 0.001 in concat optimizer.lr=0.001 and mean optimizer.lr=0.001" in uneven.why
    line = words(uneven.command)
    assert "sweep=search" in line and "fusion=mean,concat" in line and not any(word.startswith("optimizer") for word in line)
    assert check([*more, sweep.run("mean", skill=0.3, **other)], BUDGETS).ok  # each fusion was tried with both


def test_defaults_that_follow_from_a_fusion_are_no_tuning(sweep):
    runs = [sweep.run("mean", optimizer={"lr": 0.001}), sweep.run("bottleneck", optimizer={"lr": 0.002})]
    assert check(runs, BUDGETS).ok


def test_each_modality_has_a_run_of_its_own(sweep):
    runs = [*sweep.three_seeds("mean"), sweep.run("none", modalities="text")]
    lacking = check(runs, ALONE)
    assert not lacking.ok and lacking.why.endswith("for image")
    assert {"fusion=none", "modalities=image", "seed=1,2,3"} <= set(words(lacking.command))
    assert not {"fusion=mean", "modalities=text+image"} & set(words(lacking.command))
    assert check([*runs, sweep.run("none", modalities="image")], ALONE).ok
    assert check(runs[3:], ALONE).ok  # nothing is fused


def test_each_choice_of_modalities_has_its_controls(sweep):
    runs = [sweep.run(fusion) for fusion in ("concat", "mean", "self_gate", "late_transformer")]
    assert check(runs, CONTROLS).ok
    assert check([*runs[:3], sweep.run("late_transformer_vectors")], CONTROLS).ok
    lacking = check(runs[:2], CONTROLS)
    assert not lacking.ok and lacking.why == "Missing: self_gate and late_transformer on text+image"
    assert "fusion=self_gate,late_transformer" in words(lacking.command)
    other = check([*runs, sweep.run("mean", modalities="text+audio")], CONTROLS)
    assert not other.ok and other.why == "Missing: self_gate and late_transformer on text+audio"
    ungated = [*runs[:2], runs[3], sweep.run("self_gate", options={"gate": False})]
    assert check(ungated, CONTROLS).why == "Missing: self_gate on text+image"


@pytest.mark.parametrize("change", [{"parameters/total": 0}, {"seconds/total": 0}])
def test_parameters_and_seconds_must_be_known(sweep, change):
    runs = sweep.rivals()
    assert check(runs, COSTS).ok
    write_json(runs[4] / "metrics.json", {**runs[4].metrics, **change})
    found = check(runs, COSTS)
    assert not found.ok and found.why == "Not recorded for concat" and found.proof == f"{runs[4].folder.name}/metrics.json"
    assert "fusion=concat" in words(found.command)


def test_intervals_need_seeds(sweep):
    runs = sweep.rivals()
    assert check(runs, INTERVALS).ok
    found = check(runs[:-1], INTERVALS)
    assert not found.ok and "concat (2 seeds, 80 movies)" in found.why and words(found.command)[-1] == "seed=3"


def rewrite_history(run: Run, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change each row of a run's history."""
    write_rows(run / "history.csv", [change(dict(row)) for row in run.history])


def test_val_alone_chose_the_weights(sweep):
    runs = [*sweep.three_seeds("mean", monitor=MONITOR), *sweep.three_seeds("concat", monitor=MONITOR)]
    found = check(runs, TEST)
    assert found.ok and found.proof.endswith("/history.csv")
    write_json(runs[5] / "metrics.json", {**runs[5].metrics, "best_epoch": 1})
    late = check(runs, TEST)
    assert not late.ok and late.why.endswith("best.ckpt is of epoch 1, which is not the best by val/ap_micro (concat)")
    assert late.proof == f"{runs[5].folder.name}/history.csv" and f"monitor={MONITOR}" in words(late.command)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda run: rewrite_history(run, lambda row: {**row, "test/f1_micro": 0.5}), "history.csv holds scores of test"),
        (lambda run: (run / "history.csv").unlink(), "there is no history.csv"),
        (lambda run: rewrite_history(run, lambda row: {"epoch": row["epoch"]}), "best.ckpt is of epoch 3, which is not the best"),
    ],
)
def test_a_history_without_proof_is_a_no(sweep, spoil, reason):
    runs = sweep.three_seeds("mean", monitor=MONITOR)
    assert check(runs, TEST).ok
    spoil(runs[1])
    found = check(runs, TEST)
    assert not found.ok and reason in found.why


def test_a_monitor_of_test_is_a_no(sweep):
    runs = sweep.three_seeds("mean", monitor="test/f1_micro")
    assert "monitor=test/f1_micro is no score of val" in check(runs, TEST).why


def other_split(folder: Path, seed: int) -> list[Run]:
    """Write two seeds of `mean` on a random split, whose movies have a fingerprint of their own."""
    sweep = Sweep(folder, fingerprint={"movies": f"m{seed}", "text": "t1", "image": "i1"})
    typed = ["data.split=random", f"data.split_seed={seed}"]
    data = {"split": "random", "split_seed": seed}
    return [sweep.run("mean", n, 1 + seed / 10, typed=typed, data=data) for n in (1, 2)]


def test_several_splits_of_every_setting(sweep):
    runs = [*other_split(sweep.folder, 1), *other_split(sweep.folder, 2)]
    found = check(runs, SPLITS)
    assert found.ok and found.why == "2 splits for every setting" and found.proof.endswith("/config.yaml")
    one = check(runs[:2], SPLITS)
    assert not one.ok and "random 1" in one.why
    line = words(one.command)
    assert {"data.split=random", "data.split_seed=1,2,3,4,5", "fusion=mean"} <= set(line)
    assert sum(word.startswith("data.split") for word in line) == 2  # the typed ones are replaced
    lame = check([*runs, sweep.run("concat")], SPLITS)
    assert not lame.ok and lame.why == "1 of 2 settings: one split only (published)"
    assert "fusion=concat" in words(lame.command)


def test_a_split_seed_that_changes_no_movie_is_no_second_split(sweep):
    runs = [*other_split(sweep.folder, 1), *other_split(sweep.folder, 2)]
    for run in runs:
        write_json(run / "environment.json", {**run.environment, "data_fingerprint": {"movies": "m1"}})
    assert not check(runs, SPLITS).ok


def test_shares_of_a_table_are_drawn_by_a_seed(sweep):
    runs = []
    for seed in (1, 2):
        made = Sweep(sweep.folder, fingerprint={"movies": f"m{seed}"})
        of: dict[str, Any] = {"data": {"split": "0.7/0.1/0.2", "split_seed": seed}, "choices": {"data": "files"}}
        runs.append(made.run("mean", 1, 1 + seed, typed=[f"data.split_seed={seed}"], **of))
    assert check(runs, SPLITS).ok
    found = check(runs[:1], SPLITS)
    assert "random 1" in found.why
    assert {"data.split=0.7/0.1/0.2", "data.split_seed=1,2,3,4,5"} <= set(words(found.command))


def test_missing_modalities_are_stated_in_training_or_studied(sweep):
    runs = sweep.rivals()
    found = check(runs, MISSING)
    assert not found.ok and "concat" in found.why and words(found.command)[3] == f"run={runs[0].folder},{runs[3].folder}"
    write_study(runs[0], {"text": 0.1, "image": 0.2})
    half = check(runs, MISSING)
    assert not half.ok and half.why.endswith(": concat")
    assert words(half.command)[2:] == ["gmu_lightning.evaluate", f"run={runs[3].folder}", "robustness=true"]
    write_study(runs[4], {"text": 0.1, "image": 0.2})
    whole = check(runs, MISSING)
    assert whole.ok and whole.proof == f"{runs[0].folder.name}/evaluate/1/robustness.json"


def test_rates_of_missing_modalities_are_named(sweep):
    rates = {"image": 0.7, "text": 0, "splits": ["train", "test"], "seed": 3}
    runs = sweep.three_seeds("mean", data={"missing": rates})
    assert check(runs, MISSING).why == "data.missing: image 0.7 in train and test"
    write_json(runs[0] / "missing.json", {})
    assert check(runs, MISSING).proof == f"{runs[0].folder.name}/missing.json"
    none = sweep.three_seeds("concat", data={"missing": {**rates, "image": 0}})
    assert not check(none, MISSING).ok


def test_every_gated_run_needs_a_diagnosis(sweep):
    runs = sweep.rivals()
    found = check(runs, GATES)
    assert not found.ok and found.why == "3 of 3 gated runs without a readable diagnosis (gmu_original)"
    assert words(found.command)[3] == "run=" + ",".join(str(run.folder) for run in runs[:3])
    assert check(runs[3:], GATES).ok  # concat has no gates
    for run in runs[:2]:
        write_diagnosis(run)
    third = check(runs, GATES)
    assert not third.ok and words(third.command)[2:] == ["gmu_lightning.evaluate", f"run={runs[2].folder}", "diagnose=true"]
    write_diagnosis(runs[2])
    whole = check(runs, GATES)
    assert whole.ok and whole.proof == f"{runs[0].folder.name}/evaluate/1/diagnosis.json"
    (sweep.folder / whole.proof).write_text("{}")
    assert not check(runs, GATES).ok  # a damaged file proves nothing


def recorded(runs: Sequence[Run], **more: Any) -> Sequence[Run]:
    """Record versions in the runs' environment.json."""
    for run in runs:
        packages = {"gmu-lightning": "1.0", "torch": "2.14.1"}
        write_json(run / "environment.json", {**run.environment, "git_commit": "a" * 40, "packages": packages, **more})
    return runs


def test_versions_are_recorded_and_equal(sweep):
    runs = sweep.rivals()
    bare = check(runs, VERSIONS)
    assert (
        not bare.ok
        and "no version of the code (gmu_original and concat)" in bare.why
        and "fusion=gmu_original,concat" in str(bare.command)
    )
    assert check(recorded(runs), VERSIONS).ok
    recorded(runs[:1], device="NVIDIA H100")
    assert check(runs, VERSIONS).ok  # a device is no version


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"git_commit": "b" * 40}, "commit aaaaaaa in 5, bbbbbbb in 1"),
        ({"packages": {"gmu-lightning": "1.0", "torch": "2.13.0"}}, "torch 2.14.1 in 5, 2.13.0 in 1"),
        ({"data_fingerprint": {"movies": "m1", "text": "t2"}}, "other data in text (concat)"),
        ({"data_fingerprint": {}}, "no fingerprint of the data (concat)"),
    ],
)
def test_versions_that_differ_are_named(sweep, change, reason):
    runs = sweep.rivals()
    recorded(runs)
    recorded(runs[-1:], **change)
    found = check(runs, VERSIONS)
    assert not found.ok and reason in found.why and found.proof.endswith("/environment.json")


def test_other_splits_may_have_other_movies(sweep):
    runs = [*other_split(sweep.folder, 1), *other_split(sweep.folder, 2)]
    assert check(recorded(runs), VERSIONS).ok


def test_files_hold_every_item(sweep):
    runs = sweep.rivals()
    items = checklist(compare(runs), sweep.folder)
    write_checklist(items, sweep.folder)
    found = json.loads((sweep.folder / "checklist.json").read_text())
    assert [one["item"] for one in found] == [one.item for one in items] and len(found) == 11
    assert all({"item", "ok", "proof"} <= set(one) for one in found)
    text = (sweep.folder / "checklist.md").read_text()
    assert text == markdown(items) and verdict(items) in text and "arXiv 2512.22991" in text
    assert all(one.item in text and (one.ok or str(one.command) in text) for one in items)


def test_proofs_elsewhere_are_absolute(sweep, tmp_path):
    proofs = [one.proof for one in checklist(compare(sweep.rivals()), tmp_path / "elsewhere")]
    assert proofs[0] == "leaderboard.csv"
    assert all(Path(proof).is_absolute() for proof in proofs if "/" in proof)


def test_the_page_shows_the_items_and_escapes_them(compared):
    runs = [compared.run("<b>max</b>"), *compared.rivals()]
    comparison = compare(runs)
    items = checklist(comparison, compared.folder)
    text = page(comparison, runs, ExampleMovies(), items)
    shown = Tables(text)
    section = text[text.index('<section id="checklist">') :].partition("</section>")[0]
    assert section.count('<li class="met">') == sum(one.ok for one in items) and section.count('<li class="open">') > 3
    assert "<b>max" not in section and "&lt;b&gt;max" in section
    commands = [names["data-copy"] for tag, names in shown.tags if tag == "button" and "data-copy" in names]
    assert {one.command for one in items if one.command} <= set(commands)
    assert verdict(items) in shown.words
    assert 'id="checklist"' not in page(comparison, runs, ExampleMovies())


def adopted(sweep: Sweep, modalities: str = "text+image") -> Run:
    """Write a run that looks like adopted predictions: no model, costs, history or monitor."""
    of: dict[str, Any] = {"adopted": {"name": "gpt-x", "sources": []}, "choices": {"fusion": "gpt-x"}}
    run = sweep.run("gpt-x", modalities=modalities, **of)
    write_json(run / "metrics.json", {**run.metrics, "parameters/total": 0, "seconds/total": 0})
    (run / "history.csv").unlink()
    return run


def test_adopted_predictions_prove_little_and_are_never_trained(sweep):
    trained = [*sweep.three_seeds("mean", monitor=MONITOR), sweep.run("self_gate", monitor=MONITOR)]
    runs = [*trained, adopted(sweep)]
    found = checklist(compare(runs), sweep.folder)
    assert [one.item for one in found if not one.ok and "gpt-x" in one.why] == [
        found[item].item for item in (SEEDS, BUDGETS, COSTS, INTERVALS, TEST, MISSING, VERSIONS)
    ]
    assert "these predictions were made elsewhere" in found[BUDGETS].why
    assert not any("gpt-x" in str(one.command) for one in found)
    assert found[COSTS].command is None
