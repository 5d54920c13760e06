"""A comparison reports what its settings differ in beside fusion and modalities, and nothing else."""

from __future__ import annotations

import pytest

from gmu_lightning.files import write_json
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.fairness import differing, unfair
from gmu_lightning.report.markdown import markdown
from gmu_lightning.report.page.shown import Shown
from gmu_lightning.report.page.write import page
from gmu_lightning.report.settings import settings_of
from gmu_lightning.run import runs_under
from gmu_lightning.sweep.files import write_board

START = "These settings differ in more than fusion and modalities, and some of a difference may come from that: "


def told(sweep) -> str | None:
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
def test_each_key_is_named_with_its_values_and_settings(sweep, one, other, words):
    sweep.three_seeds("mean", **one)
    sweep.three_seeds("concat", **other)
    assert told(sweep) == f"{START}{words}."


def test_a_fusion_s_own_choices_are_no_difference(sweep):
    sweep.run("gmu_original", options={"variant": "original", "gate_input": "self", "dim": 256, "bias": True, "head": "linear"})
    sweep.run("gmu_softmax", options={"variant": "softmax", "gate_input": "concat", "dim": 256, "bias": True, "head": "linear"})
    sweep.run("mmbt", options={"dim": None, "max_tokens_per_modality": 16})
    sweep.run("lmf", options={"dim": 256, "rank": 4, "head": "linear"})
    assert told(sweep) is None


def test_an_encoder_that_a_setting_lacks_is_no_difference_and_another_one_is(sweep):
    sweep.run("mean", encoder={"text": {"name": "minilm", "lr": 0.1}, "image": {"name": "tiny"}})
    sweep.run("none", modalities="image")
    assert told(sweep) is None
    sweep.run("none", modalities="text", encoder={"text": {"name": "minilm", "lr": 0.2}})
    assert told(sweep) == f"{START}encoder.text.lr: 0.1 in mean text+image, 0.2 in none text."


def test_a_group_stands_for_its_keys(sweep):
    sweep.run("mean", loss={"gamma": 4.0, "clip": 0.1}, choices={"loss": "asymmetric"})
    sweep.run("concat", loss={"gamma": 1.0}, choices={"loss": "bce"})
    assert told(sweep) == f"{START}loss: asymmetric in mean, bce in concat."


@pytest.mark.parametrize("outside", [{"store": {"dir": "/b"}}, {"trainer": {"threads": 2}}, {"choices": {"experiment": "x"}}])
def test_what_no_result_depends_on_is_no_difference(sweep, outside):
    sweep.run("mean")
    sweep.run("concat", **outside)
    assert told(sweep) is None


def test_what_a_search_tuned_is_left_to_the_sentence_on_searches(sweep):
    typed = ["optimizer.lr=x"]
    for fusion, lr in (("mean", 0.1), ("concat", 0.2)):
        sweep.three_seeds(fusion, typed=typed, optimizer={"lr": lr, "weight_decay": lr})
    space = {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
    search = {"trials": 3, "space": space, "seed": 9, "monitor": "val/ap_micro", "settings": []}
    write_json(sweep.folder / "search/search.json", search)
    assert differing(settings_of(runs_under(sweep.folder))) == ["optimizer.weight_decay"]


def test_many_differences_and_settings_are_counted(sweep):
    for n in range(9):
        sweep.run(f"f{n}", optimizer={"lr": 0.1 if n else 0.2, **{f"k{k}": bool(n) for k in range(8)}})
    sentence = told(sweep)
    assert "optimizer.lr: 0.1 in f1, f2, f3, f4, f5, f6 and 2 more, 0.2 in f0; optimizer.k0: false in f0, true in" in sentence
    assert sentence.endswith("; and 3 more keys.")


def test_a_setting_without_scores_is_no_difference(sweep):
    sweep.run("mean")
    sweep.run("concat", trainer={"max_epochs": 3}).end("failed", "the disk is full")
    assert told(sweep) is None


def test_leaderboard_comparison_and_page_report_it(sweep, tmp_path):
    runs = [*sweep.three_seeds("mean", trainer={"max_epochs": 25}), *sweep.three_seeds("concat", trainer={"max_epochs": 12})]
    sentence, found = told(sweep), compare(runs)
    _, unequal = write_board(runs, tmp_path)
    assert unequal == sentence == found.caution == found.as_json()["caution"]
    assert all(
        sentence in text for text in ((tmp_path / "leaderboard.md").read_text(), markdown(found), page(found, runs, Shown()))
    )
