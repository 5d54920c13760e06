"""Settings that differ in an amount of data alone make a curve, and are not compared with each other."""

from __future__ import annotations

import pytest

from gmu_lightning.report.comparison import compare
from gmu_lightning.report.page.movies import ExampleMovies
from gmu_lightning.report.page.write import page
from gmu_lightning.report.sentences import as_json, markdown, summary, write
from gmu_lightning.run import runs_under

from .made_runs import Sweep
from .page_reader import Tables
from .split_runs import at_rates, at_shares


@pytest.fixture
def shares(sweep) -> Sweep:
    """Return two settings at three shares of train."""
    at_shares(sweep, "mean", {0.1: 0.5, 0.3: 0.9, 1.0: 1.6})
    at_shares(sweep, "concat", {0.1: 0.6, 0.3: 0.5, 1.0: 0.4})
    return sweep


def test_each_setting_has_a_curve_over_shares(shares):
    comparison = compare(runs_under(shares.folder))
    curves = as_json(comparison)["curves"]
    assert [(one["option"], one["setting"]) for one in curves] == [("data.train_share", "mean"), ("data.train_share", "concat")]
    means = {one["name"]: (one["mean"], one["low"], one["high"]) for one in as_json(comparison)["settings"]}
    for point in curves[0]["points"]:
        assert (point["mean"], point["low"], point["high"]) == means[f"mean data.train_share={point['value']}"]
        assert point["seeds"] == 3
    assert [point["value"] for point in curves[0]["points"]] == [0.1, 0.3, 1.0]


def test_pairs_at_other_shares_are_left_out_of_the_correction(shares):
    comparison = compare(runs_under(shares.folder))
    assert (len(comparison.pairs), comparison.family) == (3, 3)
    assert len(comparison.refused) == 12
    assert {frozenset(row["options"]) for row in comparison.refused} == {frozenset({"data.train_share"})}
    assert "12 pairs with another data.train_share, because their difference answers another question" in markdown(comparison)


def test_settings_are_ranked_at_each_share(shares):
    words = summary(compare(runs_under(shares.folder)))
    assert "With data.train_share=0.1: concat data.train_share=0.1 is the best" in words
    assert "With data.train_share=1: mean data.train_share=1.0 is the best" in words


def test_share_of_train_gives_no_warning_of_other_movies(shares):
    comparison = compare(runs_under(shares.folder))
    assert not [warning for one in comparison.settings for warning in one.setting.warnings]
    assert "differ in more than" not in markdown(comparison)


def test_table_page_and_figure_show_the_curves(shares, tmp_path):
    runs = runs_under(shares.folder)
    comparison = compare(runs)
    write(comparison, tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    assert "| setting | data.train_share=0.1 | data.train_share=0.3 | data.train_share=1 |" in text
    for kind in ("png", "svg"):
        assert (tmp_path / f"curve-train_share.{kind}").stat().st_size > 1_000
    drawn = page(comparison, runs, ExampleMovies())
    (row,) = (row for row in Tables(drawn).rows("0.3") if row["setting"][0] == "mean")
    mean = next(one for one in as_json(comparison)["settings"] if one["name"] == "mean data.train_share=0.3")["mean"]
    assert float(row["0.3"][1]) == pytest.approx(mean, abs=1e-6)
    assert f"<title>mean at 0.3: {mean:.4f} [" in drawn


def test_rates_of_a_missing_modality_make_a_curve_from_zero(sweep):
    at_rates(sweep, "mean", {0.3: 0.8, 0.7: 0.5})
    sweep.three_seeds("mean", 1.2)  # an older run, without the option
    (curve,) = as_json(compare(runs_under(sweep.folder)))["curves"]
    assert (curve["option"], curve["setting"]) == ("data.missing.image", "mean")
    assert [point["value"] for point in curve["points"]] == [0.0, 0.3, 0.7]


def test_other_protocols_of_missing_modalities_are_other_curves(sweep):
    at_rates(sweep, "mean", {0: 1.2, 0.5: 0.7})
    for rate in (0.5, 0.9):
        missing = {"image": rate, "splits": ["train"], "seed": 0}
        sweep.three_seeds(
            "mean", 1 - rate, data={"missing": missing}, typed=[f"data.missing.image={rate}", "data.missing.splits=x"]
        )
    curves = as_json(compare(runs_under(sweep.folder)))["curves"]
    assert sorted([point["value"] for point in curve["points"]] for curve in curves) == [[0, 0.5], [0, 0.5, 0.9]]


def test_without_amounts_there_is_no_curve(compared):
    found = as_json(compare(runs_under(compared.folder)))
    assert "curves" not in found
