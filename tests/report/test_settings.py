"""Settings group runs and collect their warnings."""

from __future__ import annotations

from gmu_lightning.report.leaderboard import rows
from gmu_lightning.report.settings import settings_of

from .made_runs import Sweep


def test_two_results_of_one_run_give_a_warning(sweep):
    runs = [*sweep.rivals(), sweep.run("concat", 1, 1.5)]
    (setting,) = (one for one in settings_of(runs) if one.values["fusion"] == "concat")
    (warning,) = setting.warnings
    assert warning.startswith(f"two_results: {runs[-1].folder} is the same run as {runs[3].folder} with other scores")
    (again,) = (one for one in settings_of([*runs[:-1], runs[-2]]) if one.values["fusion"] == "concat")
    assert not again.warnings


def test_other_movies_give_a_warning(sweep):
    runs = sweep.rivals()
    other = Sweep(sweep.folder, {"val": 30, "test": 10}, fingerprint={"movies": "m2"})
    runs += other.three_seeds("mean")
    warned = {row["fusion"]: row["warnings"] for row in rows(settings_of(runs))}
    assert warned["mean"] == "other_data: it saw other movies, splits or labels than most settings here"
    assert not warned["concat"]


def test_without_a_majority_all_settings_get_a_warning(tmp_path):
    one, two = Sweep(tmp_path / "one"), Sweep(tmp_path / "two", fingerprint={"movies": "b", "text": "t", "image": "i"})
    settings = settings_of([*one.three_seeds("mean"), *two.three_seeds("concat")])
    assert [one.warnings for one in settings] == [["other_data: it saw other movies, splits or labels than others here"]] * 2


def test_older_runs_count_as_plain_training(tmp_path):
    sweep = Sweep(tmp_path)
    method = {"_target_": "gmu_lightning.balance.OGMGE", "alpha": 1.0}
    typed = ["training=ogm_ge", "training.alpha=1.0"]
    runs = [sweep.run("mean"), sweep.run("mean", typed=typed, training=method, choices={"training": "ogm_ge"})]
    assert {one.name for one in settings_of(runs)} == {"mean training=none", "mean training=ogm_ge"}
    runs.append(
        sweep.run("mean", typed=["training.alpha=2.0"], training={**method, "alpha": 2.0}, choices={"training": "ogm_ge"})
    )
    assert "mean training=none" in {one.name for one in settings_of(runs)}
