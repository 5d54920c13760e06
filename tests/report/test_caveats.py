"""Caveats of a comparison: rare genres, mixed software, unequal searches and unequal configurations."""

from __future__ import annotations

import numpy as np
import pytest

from gmu_lightning.files import write_json
from gmu_lightning.report.caveats import differing, unfair
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.page.movies import ExampleMovies
from gmu_lightning.report.page.write import page
from gmu_lightning.report.sentences import as_json, markdown
from gmu_lightning.report.settings import settings_of
from gmu_lightning.run import runs_under
from gmu_lightning.sweep.files import write_board
from tests.report.made_runs import Sweep, replace_predictions


@pytest.mark.parametrize(("metric", "least"), [("f1_macro", 8), ("f1_macro@val", 8), ("ap_macro", 32)])
def test_macro_score_over_rare_genres_has_a_caveat(sweep, metric, least):
    runs = sweep.rivals()

    def caution(movies):
        for run in runs:
            predicted = run.predictions("test")
            predicted.labels[:] = np.arange(len(predicted.ids))[:, None] < 40
            predicted.labels[:, 1] = np.arange(len(predicted.ids)) < movies
            replace_predictions(run, predicted)
        return as_json(compare(runs, metric))["caution"]

    assert caution(least) is None
    sentence = caution(least - 1)
    assert sentence.startswith(f"1 of 4 genres have fewer than {least} test movies (Comedy {least - 1}). Intervals of macro")
    assert ("far less often" in sentence) is (metric == "ap_macro")
    assert sentence in markdown(compare(runs, metric))
    assert as_json(compare(runs))["caution"] is None


def add_environment(run, **more):
    """Add entries to a run's environment.json."""
    write_json(run / "environment.json", {**run.environment, **more})


def test_equal_software_and_device_give_no_caveat(sweep):
    for run in (runs := sweep.rivals()):
        encode = {"text": {"backend": "torch"}, "image": {"backend": "openvino"}}
        packages = {"torch": "2.14.1", "wandb": f"0.30.{len(run.folder.name) % 2}", "av": None}
        add_environment(run, git_commit="a" * 40, python="3.11.7", packages=packages, encode=encode, device="cpu (AMD EPYC)")
    add_environment(runs[0], device="cpu (Intel Xeon)")
    assert as_json(compare(runs))["caution"] is None


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ({"git_commit": "a" * 40}, {"git_commit": "b" * 40}, "commit aaaaaaa in 5, bbbbbbb in 1"),
        ({"git_commit": "a" * 40}, {"git_commit": None}, "commit aaaaaaa in 5, none in 1"),
        ({"packages": {"torch": "2.14.1"}}, {"packages": {"torch": "2.13.0"}}, "torch 2.14.1 in 5, 2.13.0 in 1"),
        ({"python": "3.11.7"}, {"python": "3.12.1"}, "python 3.11.7 in 5, 3.12.1 in 1"),
        ({"device": "cpu (AMD EPYC)"}, {"device": "NVIDIA H100"}, "device cpu in 5, NVIDIA H100 in 1"),
        (
            {"encode": {"text": {"backend": "torch"}}},
            {"encode": {"text": {"backend": "openvino"}}},
            "encode.backend of text torch in 5, openvino in 1",
        ),
        (
            {"encode": {"text": {"backend": "openvino"}}, "packages": {"openvino": "2026.0"}},
            {"encode": {"text": {"backend": "openvino"}}, "packages": {"openvino": "2026.1"}},
            "encode.backend of text openvino 2026.0 in 5, openvino 2026.1 in 1",
        ),
    ],
)
def test_different_software_or_device_has_a_caveat(sweep, one, other, difference):
    *most, last = sweep.rivals()
    for run in most:
        add_environment(run, **one)
    add_environment(last, **other)
    found = compare([*most, last])
    assert (
        as_json(found)["caution"]
        == f"Not all of these runs were computed alike, and some of a difference may be of that: {difference}."
    )
    assert as_json(found)["caution"] in markdown(found)


def write_search(sweep, trials, high=0.01):
    """Write the files of a search for the learning rate into the sweep's folder."""
    space = {"optimizer.lr": {"low": 1e-4, "high": high, "log": True}}
    settings = [{"overrides": ["fusion=x"], "trials": [], "best": None, "why_not": "x"}]
    search = {"trials": trials, "space": space, "seed": 9, "monitor": "val/ap_micro", "settings": settings}
    write_json(sweep.folder / "search/search.json", search)


def test_unequal_searches_have_a_caveat(tmp_path):
    tuned, other, plain = (Sweep(tmp_path / name) for name in ("tuned", "other", "plain"))
    write_search(tuned, 12), write_search(other, 3)
    typed, choices = ["sweep=search", "optimizer.lr=0.001"], {"sweep": "search"}
    runs = [
        *tuned.three_seeds("mean", 1.0, typed=typed, optimizer={"lr": 0.001}, choices=choices),
        *other.three_seeds("concat", 1.5, typed=typed, optimizer={"lr": 0.002}, choices=choices),
        *plain.three_seeds("gmu_hier", 0.5, optimizer={"lr": 0.0003}, choices={"sweep": "default"}),
    ]
    assert as_json(compare(runs))["caution"] == (
        "Not all settings were tuned alike, and some of a difference may be of that: "
        "3 trials of concat tuned; 12 trials of mean tuned; no trials of gmu_hier optimizer.lr=0.0003."
    )
    assert as_json(compare(runs[:3]))["caution"] is None
    assert as_json(compare(runs[6:]))["caution"] is None
    write_search(other, 12, high=0.1)
    assert as_json(compare(runs[:6]))["caution"].endswith(
        "12 trials (optimizer.lr: 0.0001 to 0.1, logarithmic) of concat tuned; "
        "12 trials (optimizer.lr: 0.0001 to 0.01, logarithmic) of mean tuned."
    )


START = "These settings differ in more than fusion and modalities, and some of a difference may come from that: "


def unfairness(sweep) -> str | None:
    return unfair(settings_of(runs_under(sweep.folder)))


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ({"options": {"bias": True}}, {"options": {"bias": False}}, "fusion.bias: false in concat, true in mean"),
        ({"options": {"dim": 256}}, {"options": {"dim": 512}}, "fusion.dim: 256 in mean, 512 in concat"),
        ({"options": {"head": "linear"}}, {"options": {"head": "maxout"}}, "fusion.head: linear in mean, maxout in concat"),
        ({"trainer": {"max_epochs": 25}}, {"trainer": {"max_epochs": 12}}, "trainer.max_epochs: 12 in concat, 25 in mean"),
        ({"optimizer": {"lr": 0.001}}, {"optimizer": {"lr": 0.01}}, "optimizer.lr: 0.001 in mean, 0.01 in concat"),
        ({"loss": {"pos_weight": "sqrt"}}, {"loss": {"pos_weight": "none"}}, "loss.pos_weight: none in concat, sqrt in mean"),
    ],
)
def test_unfair_names_keys_values_and_settings(sweep, one, other, words):
    sweep.three_seeds("mean", **one)
    sweep.three_seeds("concat", **other)
    assert unfairness(sweep) == f"{START}{words}."


def test_fusion_specific_options_are_no_difference(sweep):
    sweep.run("gmu_original", options={"variant": "original", "gate_input": "self", "dim": 256, "bias": True, "head": "linear"})
    sweep.run("gmu_softmax", options={"variant": "softmax", "gate_input": "concat", "dim": 256, "bias": True, "head": "linear"})
    sweep.run("mmbt", options={"dim": None, "max_tokens_per_modality": 16})
    sweep.run("lmf", options={"dim": 256, "rank": 4, "head": "linear"})
    assert unfairness(sweep) is None


def test_only_shared_encoders_are_compared(sweep):
    sweep.run("mean", encoder={"text": {"name": "minilm", "lr": 0.1}, "image": {"name": "tiny"}})
    sweep.run("none", modalities="image")
    assert unfairness(sweep) is None
    sweep.run("none", modalities="text", encoder={"text": {"name": "minilm", "lr": 0.2}})
    assert unfairness(sweep) == f"{START}encoder.text.lr: 0.1 in mean text+image, 0.2 in none text."


def test_group_choice_stands_for_its_keys(sweep):
    sweep.run("mean", loss={"gamma": 4.0, "clip": 0.1}, choices={"loss": "asymmetric"})
    sweep.run("concat", loss={"gamma": 1.0}, choices={"loss": "bce"})
    assert unfairness(sweep) == f"{START}loss: asymmetric in mean, bce in concat."


@pytest.mark.parametrize("outside", [{"store": {"dir": "/b"}}, {"trainer": {"threads": 2}}, {"choices": {"experiment": "x"}}])
def test_values_without_effect_on_results_are_no_difference(sweep, outside):
    sweep.run("mean")
    sweep.run("concat", **outside)
    assert unfairness(sweep) is None


def test_searched_keys_are_no_difference(sweep):
    typed = ["optimizer.lr=x"]
    for fusion, lr in (("mean", 0.1), ("concat", 0.2)):
        sweep.three_seeds(fusion, typed=typed, optimizer={"lr": lr, "weight_decay": lr})
    space = {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
    search = {"trials": 3, "space": space, "seed": 9, "monitor": "val/ap_micro", "settings": []}
    write_json(sweep.folder / "search/search.json", search)
    assert differing(settings_of(runs_under(sweep.folder))) == ["optimizer.weight_decay"]


def test_long_lists_of_differences_are_shortened(sweep):
    for n in range(9):
        sweep.run(f"f{n}", optimizer={"lr": 0.1 if n else 0.2, **{f"k{k}": bool(n) for k in range(8)}})
    sentence = unfairness(sweep)
    assert "optimizer.lr: 0.1 in f1, f2, f3, f4, f5, f6 and 2 more, 0.2 in f0; optimizer.k0: false in f0, true in" in sentence
    assert sentence.endswith("; and 3 more keys.")


def test_setting_without_scores_is_ignored(sweep):
    sweep.run("mean")
    sweep.run("concat", trainer={"max_epochs": 3}).end("failed", "the disk is full")
    assert unfairness(sweep) is None


def test_caveat_is_in_leaderboard_comparison_and_page(sweep, tmp_path):
    runs = [*sweep.three_seeds("mean", trainer={"max_epochs": 25}), *sweep.three_seeds("concat", trainer={"max_epochs": 12})]
    sentence, found = unfairness(sweep), compare(runs)
    _, unequal = write_board(runs, tmp_path)
    assert unequal == sentence == as_json(found)["caution"] == as_json(found)["caution"]
    assert all(
        sentence in text
        for text in ((tmp_path / "leaderboard.md").read_text(), markdown(found), page(found, runs, ExampleMovies()))
    )
