"""A row per setting, honest about its seeds."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

import pytest

from gmu_lightning.files import write_json, write_text
from gmu_lightning.movie import UserError
from gmu_lightning.report.leaderboard import SCORES, rows, table, write_leaderboard
from gmu_lightning.run import Run, runs_under


def run(folder: Path, fusion: str = "mean", seed: int = 1, f1: float = 0.5, modalities: str = "text+image", **more) -> Run:
    """A finished run of a small configuration, as train leaves it; `text` is its text encoder, `typed` further overrides."""
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
    """A run that did not get to its scores."""
    made = run(folder, **more)
    (made / "metrics.json").unlink()
    made.end("failed", why)
    return made


def test_a_setting_is_one_row_with_mean_and_sample_deviation_of_its_seeds(tmp_path):
    values = [0.1, 0.2, 0.6]
    for seed, f1 in zip((3, 1, 2), values, strict=True):
        run(tmp_path, seed=seed, f1=f1)
    (row,) = rows(runs_under(tmp_path))
    assert row["seeds"] == 3
    assert row["seed_list"] == "1,2,3"
    for score in SCORES:
        assert row[f"{score}/mean"] == statistics.fmean(values)
        assert row[f"{score}/sd"] == statistics.stdev(values)
    assert row["seconds/mean"] == 4.0
    assert (row["parameters"], row["parameters_fusion"]) == (1000, 10)


def test_columns_are_the_promised_ones_in_order(tmp_path):
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
    assert list(rows(runs_under(tmp_path))[0]) == names + scores


def test_one_seed_has_no_deviation_and_its_csv_cell_is_empty(tmp_path):
    run(tmp_path / "runs")
    write_leaderboard(tmp_path, rows(runs_under(tmp_path / "runs")))
    (row,) = csv.DictReader((tmp_path / "leaderboard.csv").open())
    assert row["test/f1_micro/sd"] == ""
    assert row["test/f1_micro/mean"] == "0.5"


def test_csv_numbers_are_not_rounded(tmp_path):
    third = 1 / 3
    run(tmp_path / "runs", f1=third)
    write_leaderboard(tmp_path, rows(runs_under(tmp_path / "runs")))
    (row,) = csv.DictReader((tmp_path / "leaderboard.csv").open())
    assert float(row["test/f1_micro/mean"]) == third


def test_rows_fall_by_test_micro_f1_and_a_setting_without_scores_comes_last(tmp_path):
    run(tmp_path, "mean", f1=0.4)
    failed(tmp_path, fusion="concat")
    run(tmp_path, "sum", f1=0.0, seed=2)
    run(tmp_path, "gmu_hier", f1=0.6)
    assert [row["fusion"] for row in rows(runs_under(tmp_path))] == ["gmu_hier", "mean", "sum", "concat"]


def test_a_setting_whose_runs_all_failed_keeps_a_row_that_says_why(tmp_path):
    failed(tmp_path, seed=1)
    failed(tmp_path, seed=2)
    (row,) = rows(runs_under(tmp_path))
    assert row["seeds"] == 0
    assert row["seed_list"] == ""
    assert row["test/f1_micro/mean"] is None
    assert row["warnings"] == "failed: the disk is full (2 of 2 seeds)"


def test_a_failed_seed_is_no_score_but_a_warning(tmp_path):
    run(tmp_path, seed=1, f1=0.4)
    failed(tmp_path, seed=2)
    (row,) = rows(runs_under(tmp_path))
    assert (row["seeds"], row["test/f1_micro/mean"]) == (1, 0.4)
    assert row["warnings"] == "failed: the disk is full (1 of 2 seeds)"


def test_an_interrupted_seed_is_no_failure(tmp_path):
    run(tmp_path, seed=1, f1=0.4)
    run(tmp_path, seed=2).end("interrupted", "interrupted")
    (row,) = rows(runs_under(tmp_path))
    assert (row["seeds"], row["warnings"]) == (1, "interrupted (1 of 2 seeds)")


@pytest.mark.parametrize("state", ["skipped", "running"])
def test_skipped_and_unended_runs_have_no_row(tmp_path, state):
    run(tmp_path).end(state, "why")
    assert rows(runs_under(tmp_path)) == []


def test_one_identity_counts_once_and_its_finished_run_before_its_failed_one(tmp_path):
    failed(tmp_path, seed=1)
    run(tmp_path, seed=1, f1=0.4)
    run(tmp_path, seed=1, f1=0.4)
    (row,) = rows(runs_under(tmp_path))
    assert (row["seeds"], row["seed_list"], row["warnings"]) == (1, "1", "")


def test_a_warning_stands_once_with_how_many_seeds_it_is_true_of(tmp_path):
    for seed in (1, 2, 3):
        made = run(tmp_path, seed=seed)
        if seed > 1:
            made.warn(f"flat_loss: the train loss went from 0.{seed} to 0.{seed}; no more")
    (row,) = rows(runs_under(tmp_path))
    assert row["warnings"] == "flat_loss: the train loss went from 0.2 to 0.2, no more (2 of 3 seeds)"


def test_what_differs_between_settings_is_a_column_and_a_row_that_did_not_type_it_shows_its_own_value(tmp_path):
    run(tmp_path, f1=0.4)
    run(tmp_path, f1=0.6, dim=32, typed=["fusion.dim=32", "encoder.text.lr=0.1"])
    typed, by_default = rows(runs_under(tmp_path))
    assert (typed["fusion.dim"], by_default["fusion.dim"]) == ("32", "256")
    assert "encoder.text.lr" not in typed


def test_a_group_that_differs_is_a_column_with_its_choice(tmp_path):
    for text in ("minilm", "tiny"):
        run(tmp_path, text=text, typed=[f"encoder/text={text}"])
    run(tmp_path, modalities="image", fusion="none", typed=["encoder/text=tiny"])
    assert {(row["modalities"], row["encoder/text"]) for row in rows(runs_under(tmp_path))} == {
        ("text+image", "minilm"),
        ("text+image", "tiny"),
        ("image", None),  # it has no text encoder
    }


def test_an_encoder_that_only_some_settings_have_is_no_difference(tmp_path):
    run(tmp_path, typed=["encoder.text.lr=0.1"])
    run(tmp_path, modalities="image", fusion="none", typed=["encoder.text.lr=0.1"])
    assert all("encoder.text.lr" not in row for row in rows(runs_under(tmp_path)))


@pytest.mark.parametrize("key", ["seed", "data.root", "store.dir", "logger", "hydra.sweep.dir", "trainer.threads"])
def test_what_is_no_part_of_a_setting_is_no_column(tmp_path, key):
    group, _, leaf = key.partition(".")
    for n, fusion in enumerate(("mean", "concat")):
        more = {} if key == "seed" else {group: {leaf: n} if leaf else n}
        run(tmp_path, fusion, seed=n, typed=[f"{key}={n}"], **more)
    assert all(key not in row for row in rows(runs_under(tmp_path)))


def test_markdown_says_that_two_gates_are_one_result_at_two_modalities(tmp_path):
    run(tmp_path / "runs", "gmu_hier", f1=0.5)
    run(tmp_path / "runs", "gmu_original", f1=0.5 + 1e-8)
    write_leaderboard(tmp_path, rows(runs_under(tmp_path / "runs")))
    assert "`gmu_hier` equals `gmu_original` on text+image by definition" in (tmp_path / "leaderboard.md").read_text()


@pytest.mark.parametrize(
    ("modalities", "other", "dim"), [("text+image", 0.51, 256), ("text+image+video", 0.5, 256), ("text+image", 0.5, 32)]
)
def test_markdown_does_not_say_so_of_other_scores_more_modalities_or_other_sizes(tmp_path, modalities, other, dim):
    run(tmp_path / "runs", "gmu_hier", f1=0.5, modalities=modalities)
    run(tmp_path / "runs", "gmu_original", f1=other, modalities=modalities, dim=dim, typed=[f"fusion.dim={dim}"])
    write_leaderboard(tmp_path, rows(runs_under(tmp_path / "runs")))
    assert "by definition" not in (tmp_path / "leaderboard.md").read_text()


def test_markdown_lists_what_was_skipped_and_what_failed(tmp_path):
    run(tmp_path / "runs", f1=0.4, seed=1)
    run(tmp_path / "runs", f1=0.6, seed=2)
    write_leaderboard(tmp_path, rows(runs_under(tmp_path / "runs")), [("a", "takes one"), ("b", "takes one")], [("c", "no disk")])
    text = (tmp_path / "leaderboard.md").read_text()
    assert "| text+image | mean | 2 | 0.5000 ± 0.1414 |" in text
    assert "## Skipped\n\n- takes one (`a`, `b`)\n" in text
    assert "## Failed\n\n- no disk (`c`)\n" in text


def test_a_sweep_without_rows_still_leaves_a_readable_csv(tmp_path):
    write_leaderboard(tmp_path, [], skipped=[("all", "no sense")])
    reader = csv.DictReader((tmp_path / "leaderboard.csv").open())
    assert list(reader) == []
    assert reader.fieldnames is not None
    assert {"setting", "modalities", "fusion", "seeds", "test/f1_micro/mean"} <= set(reader.fieldnames)
    assert "no sense" in (tmp_path / "leaderboard.md").read_text()


def test_console_table_fits_120_columns_and_names_warnings_by_their_code(tmp_path):
    for seed in (1, 2):
        made = run(tmp_path, "gmu_original", seed, modalities="text+image+video+audio+metadata", f1=0.5 + seed / 10)
    made.warn("flat_loss: a sentence that would fill the whole line and more than that, which no console has the room for")
    failed(tmp_path, fusion="concat", why="no_code_here but a long sentence about it")
    text = table(rows(runs_under(tmp_path)))
    assert max(map(len, text.splitlines())) <= 120
    assert "0.650 ± 0.071" in text
    assert "1/2" in text
    assert "would fill" not in text
    assert table([]) == "no run finished or failed: there is nothing to compare"


def test_runs_whose_test_has_no_labels_are_ranked_by_val_and_have_empty_test_cells(tmp_path):
    for fusion, f1 in (("mean", 0.4), ("concat", 0.6)):
        one = run(tmp_path, fusion=fusion)
        kept = {key: f1 if key in SCORES else value for key, value in one.metrics.items() if not key.startswith("test/")}
        write_json(one / "metrics.json", kept | {"test/movies_with_genre": 0})
    found = rows(runs_under(tmp_path))
    assert [row["fusion"] for row in found] == ["concat", "mean"]
    assert found[0]["val/f1_micro/mean"] == 0.6
    assert {found[0][f"{score}/{part}"] for score in SCORES if score.startswith("test/") for part in ("mean", "sd")} == {None}
    assert "0.600" in table(found)
    write_leaderboard(tmp_path, found)


def test_a_run_with_labels_that_lacks_its_test_scores_is_damaged(tmp_path):
    one = run(tmp_path)
    write_json(
        one / "metrics.json", {k: v for k, v in one.metrics.items() if k != "test/f1_micro"} | {"test/movies_with_genre": 3}
    )
    with pytest.raises(UserError, match="lacks test/f1_micro"):
        rows(runs_under(tmp_path))


def test_an_option_that_a_fusion_lacks_is_no_part_of_its_name(tmp_path):
    run(tmp_path, "mean", typed=["fusion.dim=256"])
    for join in ("mean", "concat"):
        made = run(tmp_path, "self_gate", typed=[f"fusion.join={join}"])
        write_text(made / "config.yaml", (made / "config.yaml").read_text().replace("fusion:\n", f"fusion:\n  join: {join}\n", 1))
        write_json(made / "status.json", made.status | {"identity": join, "setting": join})
    assert {(row["fusion"], row["fusion.join"]) for row in rows(runs_under(tmp_path))} == {
        ("mean", None),
        ("self_gate", "mean"),
        ("self_gate", "concat"),
    }
