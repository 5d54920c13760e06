"""The leaderboard has one row per setting, in CSV, Markdown, the console and LaTeX."""

from __future__ import annotations

import csv
import re
import statistics
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from gmu_lightning.files import write_json, write_text
from gmu_lightning.movie import UserError
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.leaderboard import latex, latex_escaped, rows, table, write_leaderboard
from gmu_lightning.report.scoring import SCORES
from gmu_lightning.report.settings import settings_of
from gmu_lightning.run import Run, runs_under

from .made_runs import Sweep, replace_predictions


def run(folder: Path, fusion: str = "mean", seed: int = 1, f1: float = 0.5, modalities: str = "text+image", **more) -> Run:
    """Write a finished run of a small configuration; `text` is its text encoder, `typed` are further overrides."""
    text, typed, dim = more.pop("text", "tiny"), more.pop("typed", []), more.pop("dim", 256)
    encoders = {m: text if m == "text" else "tiny" for m in modalities.split("+")}
    config = {
        "modalities": modalities,
        "seed": seed,
        "fusion": {"_target_": f"x.{fusion}", "dim": dim},
        "choices": {"fusion": fusion} | {f"encoder/{m}": name for m, name in encoders.items()},
        "encoder": {m: {"name": name, "lr": 0.1} for m, name in encoders.items()},
        **more,
    }
    made = Run(folder / f"{fusion}-{modalities}-{seed}-{len(list(folder.glob('*')))}")
    made.begin(config, [f"fusion={fusion}", f"modalities={modalities}", f"seed={seed}", *typed])
    scores = dict.fromkeys(SCORES, f1)
    counts = {"parameters/total": 1000, "parameters/fusion": 10, "seconds/total": 2.0 + seed}
    write_json(made / "metrics.json", scores | counts)
    made.end("finished")
    return made


def failed(folder: Path, why: str = "the disk is full", **more) -> Run:
    """Write a failed run without scores."""
    made = run(folder, **more)
    (made / "metrics.json").unlink()
    made.end("failed", why)
    return made


def test_row_has_mean_and_sample_deviation_over_seeds(tmp_path):
    values = [0.1, 0.2, 0.6]
    for seed, f1 in zip((3, 1, 2), values, strict=True):
        run(tmp_path, seed=seed, f1=f1)
    (row,) = rows(settings_of(runs_under(tmp_path)))
    assert row["seeds"] == 3
    assert row["seed_list"] == "1,2,3"
    for score in SCORES:
        assert row[f"{score}/mean"] == statistics.fmean(values)
        assert row[f"{score}/sd"] == statistics.stdev(values)
    assert row["seconds/mean"] == 4.0
    assert (row["parameters"], row["parameters_fusion"]) == (1000, 10)


def test_columns_are_in_order(tmp_path):
    run(tmp_path)
    names = [
        "setting",
        "modalities",
        "fusion",
        "seeds",
        "seed_list",
        "warnings",
        "parameters",
        "parameters_fusion",
        "seconds/mean",
    ]
    kinds = ("f1_micro", "f1_macro", "f1_weighted", "f1_samples", "ap_micro", "ap_macro")
    scores = [f"{split}/{kind}/{what}" for split in ("test", "val") for kind in kinds for what in ("mean", "sd")]
    assert list(rows(settings_of(runs_under(tmp_path)))[0]) == names + scores


def test_single_seed_has_an_empty_deviation(tmp_path):
    run(tmp_path / "runs")
    write_leaderboard(tmp_path, rows(settings_of(runs_under(tmp_path / "runs"))))
    (row,) = csv.DictReader((tmp_path / "leaderboard.csv").open())
    assert row["test/f1_micro/sd"] == ""
    assert row["test/f1_micro/mean"] == "0.5"


def test_csv_numbers_are_not_rounded(tmp_path):
    third = 1 / 3
    run(tmp_path / "runs", f1=third)
    write_leaderboard(tmp_path, rows(settings_of(runs_under(tmp_path / "runs"))))
    (row,) = csv.DictReader((tmp_path / "leaderboard.csv").open())
    assert float(row["test/f1_micro/mean"]) == third


def test_rows_are_sorted_by_test_micro_f1(tmp_path):
    run(tmp_path, "mean", f1=0.4)
    failed(tmp_path, fusion="concat")
    run(tmp_path, "sum", f1=0.0, seed=2)
    run(tmp_path, "gmu_hier", f1=0.6)
    assert [row["fusion"] for row in rows(settings_of(runs_under(tmp_path)))] == ["gmu_hier", "mean", "sum", "concat"]


def test_failed_setting_keeps_a_row_with_the_reason(tmp_path):
    failed(tmp_path, seed=1)
    failed(tmp_path, seed=2)
    (row,) = rows(settings_of(runs_under(tmp_path)))
    assert row["seeds"] == 0
    assert row["seed_list"] == ""
    assert row["test/f1_micro/mean"] is None
    assert row["warnings"] == "failed: the disk is full (2 of 2 seeds)"


def test_failed_seed_becomes_a_warning(tmp_path):
    run(tmp_path, seed=1, f1=0.4)
    failed(tmp_path, seed=2)
    (row,) = rows(settings_of(runs_under(tmp_path)))
    assert (row["seeds"], row["test/f1_micro/mean"]) == (1, 0.4)
    assert row["warnings"] == "failed: the disk is full (1 of 2 seeds)"


def test_interrupted_seed_is_no_failure(tmp_path):
    run(tmp_path, seed=1, f1=0.4)
    run(tmp_path, seed=2).end("interrupted", "interrupted")
    (row,) = rows(settings_of(runs_under(tmp_path)))
    assert (row["seeds"], row["warnings"]) == (1, "interrupted (1 of 2 seeds)")


@pytest.mark.parametrize("state", ["skipped", "running"])
def test_skipped_and_unended_runs_have_no_row(tmp_path, state):
    run(tmp_path).end(state, "why")
    assert rows(settings_of(runs_under(tmp_path))) == []


def test_finished_run_replaces_a_failed_one_of_its_identity(tmp_path):
    failed(tmp_path, seed=1)
    run(tmp_path, seed=1, f1=0.4)
    run(tmp_path, seed=1, f1=0.4)
    (row,) = rows(settings_of(runs_under(tmp_path)))
    assert (row["seeds"], row["seed_list"], row["warnings"]) == (1, "1", "")


def test_warnings_are_merged_over_seeds(tmp_path):
    for seed in (1, 2, 3):
        made = run(tmp_path, seed=seed)
        if seed > 1:
            made.warn(f"flat_loss: the train loss went from 0.{seed} to 0.{seed}; no more")
    (row,) = rows(settings_of(runs_under(tmp_path)))
    assert row["warnings"] == "flat_loss: the train loss went from 0.2 to 0.2, no more (2 of 3 seeds)"


def test_differing_keys_are_columns_with_defaults(tmp_path):
    run(tmp_path, f1=0.4)
    run(tmp_path, f1=0.6, dim=32, typed=["fusion.dim=32", "encoder.text.lr=0.1"])
    typed, by_default = rows(settings_of(runs_under(tmp_path)))
    assert (typed["fusion.dim"], by_default["fusion.dim"]) == ("32", "256")
    assert "encoder.text.lr" not in typed


def test_differing_group_is_a_column(tmp_path):
    for text in ("minilm", "tiny"):
        run(tmp_path, text=text, typed=[f"encoder/text={text}"])
    run(tmp_path, modalities="image", fusion="none", typed=["encoder/text=tiny"])
    assert {(row["modalities"], row["encoder/text"]) for row in rows(settings_of(runs_under(tmp_path)))} == {
        ("text+image", "minilm"),
        ("text+image", "tiny"),
        ("image", None),  # has no text encoder
    }


def test_encoder_of_some_settings_is_no_column(tmp_path):
    run(tmp_path, typed=["encoder.text.lr=0.1"])
    run(tmp_path, modalities="image", fusion="none", typed=["encoder.text.lr=0.1"])
    assert all("encoder.text.lr" not in row for row in rows(settings_of(runs_under(tmp_path))))


@pytest.mark.parametrize("key", ["seed", "data.root", "store.dir", "logger", "hydra.sweep.dir", "trainer.threads"])
def test_keys_outside_the_setting_are_no_columns(tmp_path, key):
    group, _, leaf = key.partition(".")
    for n, fusion in enumerate(("mean", "concat")):
        more = {} if key == "seed" else {group: {leaf: n} if leaf else n}
        run(tmp_path, fusion, seed=n, typed=[f"{key}={n}"], **more)
    assert all(key not in row for row in rows(settings_of(runs_under(tmp_path))))


def test_markdown_notes_gates_equal_by_definition(tmp_path):
    run(tmp_path / "runs", "gmu_hier", f1=0.5)
    run(tmp_path / "runs", "gmu_original", f1=0.5 + 1e-8)
    write_leaderboard(tmp_path, rows(settings_of(runs_under(tmp_path / "runs"))))
    assert "`gmu_hier` equals `gmu_original` on text+image by definition" in (tmp_path / "leaderboard.md").read_text()


@pytest.mark.parametrize(
    ("modalities", "other", "dim"), [("text+image", 0.51, 256), ("text+image+video", 0.5, 256), ("text+image", 0.5, 32)]
)
def test_markdown_has_no_note_for_unequal_gates(tmp_path, modalities, other, dim):
    run(tmp_path / "runs", "gmu_hier", f1=0.5, modalities=modalities)
    run(tmp_path / "runs", "gmu_original", f1=other, modalities=modalities, dim=dim, typed=[f"fusion.dim={dim}"])
    write_leaderboard(tmp_path, rows(settings_of(runs_under(tmp_path / "runs"))))
    assert "by definition" not in (tmp_path / "leaderboard.md").read_text()


def test_markdown_lists_skipped_and_failed_jobs(tmp_path):
    run(tmp_path / "runs", f1=0.4, seed=1)
    run(tmp_path / "runs", f1=0.6, seed=2)
    write_leaderboard(
        tmp_path, rows(settings_of(runs_under(tmp_path / "runs"))), [("a", "takes one"), ("b", "takes one")], [("c", "no disk")]
    )
    text = (tmp_path / "leaderboard.md").read_text()
    assert "| text+image | mean | 2 | 0.5000 ± 0.1414 |" in text
    assert "## Skipped\n\n- takes one (`a`, `b`)\n" in text
    assert "## Failed\n\n- no disk (`c`)\n" in text


def test_empty_leaderboard_has_a_csv_header(tmp_path):
    write_leaderboard(tmp_path, [], skipped=[("all", "no sense")])
    reader = csv.DictReader((tmp_path / "leaderboard.csv").open())
    assert list(reader) == []
    assert reader.fieldnames is not None
    assert {"setting", "modalities", "fusion", "seeds", "test/f1_micro/mean"} <= set(reader.fieldnames)
    assert "no sense" in (tmp_path / "leaderboard.md").read_text()


def test_console_table_fits_120_columns(tmp_path):
    for seed in (1, 2):
        made = run(tmp_path, "gmu_original", seed, modalities="text+image+video+audio+metadata", f1=0.5 + seed / 10)
    made.warn("flat_loss: a sentence that would fill the whole line and more than that, which no console has the room for")
    failed(tmp_path, fusion="concat", why="no_code_here but a long sentence about it")
    text = table(rows(settings_of(runs_under(tmp_path))))
    assert max(map(len, text.splitlines())) <= 120
    assert "0.650 ± 0.071" in text
    assert "1/2" in text
    assert "would fill" not in text
    assert table([]) == "no run finished or failed: there is nothing to compare"


def test_unlabelled_test_ranks_by_val(tmp_path):
    for fusion, f1 in (("mean", 0.4), ("concat", 0.6)):
        one = run(tmp_path, fusion=fusion)
        kept = {key: f1 if key in SCORES else value for key, value in one.metrics.items() if not key.startswith("test/")}
        write_json(one / "metrics.json", kept | {"test/movies_with_genre": 0})
    found = rows(settings_of(runs_under(tmp_path)))
    assert [row["fusion"] for row in found] == ["concat", "mean"]
    assert found[0]["val/f1_micro/mean"] == 0.6
    assert {found[0][f"{score}/{part}"] for score in SCORES if score.startswith("test/") for part in ("mean", "sd")} == {None}
    assert "0.600" in table(found)
    write_leaderboard(tmp_path, found)


def test_missing_test_scores_are_refused(tmp_path):
    one = run(tmp_path)
    write_json(
        one / "metrics.json", {k: v for k, v in one.metrics.items() if k != "test/f1_micro"} | {"test/movies_with_genre": 3}
    )
    with pytest.raises(UserError, match="lacks test/f1_micro"):
        rows(settings_of(runs_under(tmp_path)))


def test_missing_option_is_an_empty_cell(tmp_path):
    run(tmp_path, "mean", typed=["fusion.dim=256"])
    for join in ("mean", "concat"):
        made = run(tmp_path, "self_gate", typed=[f"fusion.join={join}"])
        write_text(made / "config.yaml", (made / "config.yaml").read_text().replace("fusion:\n", f"fusion:\n  join: {join}\n", 1))
        write_json(made / "status.json", made.status | {"identity": join, "setting": join})
    assert {(row["fusion"], row["fusion.join"]) for row in rows(settings_of(runs_under(tmp_path)))} == {
        ("mean", None),
        ("self_gate", "mean"),
        ("self_gate", "concat"),
    }


def test_latex_special_characters_are_escaped():
    assert (
        latex_escaped("gmu_hier &\n 5 % {x} ~ ^ \\")
        == r"gmu\_hier \& 5 \% \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    """Return runs: `good` has the best F1, `timid` ranks best but predicts few positives, `alone` has one seed."""
    sweep = Sweep(tmp_path / "sweep")
    timid = sweep.three_seeds("timid", 2.5, spread=0.4)
    for run in timid:
        predicted = run.predictions("test")
        predicted.logits = predicted.logits - 4.0
        replace_predictions(run, predicted)
    others = [sweep.three_seeds("good", 1.7, spread=0.2), sweep.three_seeds("also", 1.6, spread=0.2)]
    return [*timid, *others[0], *others[1], *sweep.three_seeds("poor", 0.2, spread=0.2), sweep.run("alone", skill=0.3)]


LATEX_SCORES = {
    "Micro F1": lambda p: f1_score(p.labels, p.probabilities >= 0.5, average="micro"),
    "Macro F1": lambda p: f1_score(p.labels, p.probabilities >= 0.5, average="macro"),
    "Micro AP": lambda p: average_precision_score(p.labels, p.probabilities, average="micro"),
    "Macro AP": lambda p: average_precision_score(p.labels, p.probabilities, average="macro"),
}


def test_latex_numbers_equal_scikit_learn(runs):
    rows = latex_rows(latex(compare(runs)))
    assert len(rows) == 5
    best = {}
    for score, of in LATEX_SCORES.items():
        each = {name: [100 * of(run.predictions("test")) for run in runs if fusion_of(run) == name] for name in rows}
        best[score] = max(rows, key=lambda name: np.mean(each[name]))
        for name, row in rows.items():
            mean, count = f"{np.mean(each[name]):.1f}", len(each[name])
            sd = f" $\\pm$ {np.std(each[name], ddof=1):.1f}" if count > 1 else ""
            assert row[score] == (rf"\textbf{{{mean}}}" if name == best[score] else mean) + sd
            assert row["Seeds"] == str(count)
    assert best["Micro F1"] == next(iter(rows)) != "timid"
    assert best["Micro AP"] == "timid"


def test_latex_letters_follow_holm(runs):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    found = compare(runs)
    tested = [pair for pair in found.pairs if pair.difference.p is not None]
    different, *_ = multitest.multipletests([pair.difference.p for pair in tested], method="holm")
    apart = {frozenset((pair.a.name, pair.b.name)) for pair, it in zip(tested, different, strict=True) if it}
    shown = {name: row[""] for name, row in latex_rows(latex(found)).items()}
    assert shown.pop("alone") == ""  # one seed has no letter
    letters = {name: set(re.fullmatch(r"\$\{\}\^\{([a-z]+)\}\$", cell)[1]) for name, cell in shown.items()}
    assert {frozenset(two) for two in combinations(letters, 2) if not letters[two[0]] & letters[two[1]]} == apart
    assert 0 < len(apart) < len(tested)
    assert next(iter(letters.values())) == {"a"}


def fusion_of(run: Run) -> str:
    return run.config["choices"]["fusion"]


def latex_rows(text: str) -> dict[str, dict[str, str]]:
    """Return {fusion: {column: cell}} from the top."""
    lines = [line.removesuffix(r"\\").split("&") for line in text.splitlines() if line.endswith(r"\\")]
    head, *rows = [[cell.strip() for cell in line] for line in lines]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def test_latex_omits_settings_at_another_threshold(sweep):
    runs = sweep.rivals()
    for run in sweep.three_seeds("mean", 1.0):
        predicted = run.predictions("test")
        predicted.threshold = 0.3
        replace_predictions(run, predicted)
        runs.append(run)
    text = latex(compare(runs))
    assert set(latex_rows(text)) == {r"gmu\_original", "concat"}
    assert "% Left out, being tested on other movies, genres or labels, or at another threshold: mean." in text
    assert "predictions are made at the threshold 0.5 and at 0.3" in text
