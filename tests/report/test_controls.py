"""Is it the gate? Every gate that weighs modalities stands beside the control whose gates see one modality each."""

from __future__ import annotations

import json
import shlex

import pytest

from gmu_lightning.files import write_json
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.markdown import markdown, write
from gmu_lightning.report.page.shown import Shown
from gmu_lightning.report.page.write import page

BY = "whose gates see one modality each"
NONE = "no benefit of weighing modalities can be claimed here"


def points(value: float) -> str:
    return f"{100 * value:.1f}"


def test_a_gate_that_beats_its_control_is_told_with_its_lead(sweep):
    (found,) = compare([*sweep.three_seeds("gmu_original", 2.0), *sweep.three_seeds("self_gate", 0.5)]).controls
    mean, low, high = found.interval
    size = f"{points(mean)} points [{points(low)}, {points(high)}]"
    assert found.sentence == f"gmu_original beats self_gate, {BY}, by {size}: weighing modalities against each other helps here"
    assert (found.verdict, found.command, low > 0) == ("gate", None, True)


def test_a_gate_that_does_not_beat_its_control_shows_no_benefit(sweep):
    found = compare([*sweep.three_seeds("gmu_original", 1.0), *sweep.three_seeds("self_gate", 1.02)])
    (pair,), (control,) = found.pairs, found.controls
    assert control.sentence.startswith(f"gmu_original does not beat self_gate, {BY} (")
    assert control.sentence.endswith(f"): {NONE}")
    assert (control.verdict, control.p_holm) == ("none", pair.p_holm)


def test_a_gate_that_its_control_beats_shows_no_benefit(sweep):
    found = compare([*sweep.three_seeds("gmu_original", 0.5), *sweep.three_seeds("self_gate", 2.0)])
    (pair,), (control,) = found.pairs, found.controls
    mean, low, high = pair.difference.interval
    assert control.sentence == (
        f"gmu_original is beaten by self_gate, {BY}, by {points(mean)} points [{points(low)}, {points(high)}]: {NONE}"
    )
    assert control.verdict == "control"
    assert control.interval == pytest.approx((-mean, -high, -low))


def test_every_gate_has_every_control_of_its_modalities_and_configuration(sweep):
    gates = [*sweep.three_seeds("gmu_original", 1.4, modalities="text+image"), *sweep.three_seeds("gmu_hier", 1.2)]
    for join in ("mean", "concat"):
        gates += sweep.three_seeds("self_gate", 1.0, typed=[f"fusion.join={join}"], options={"join": join, "gate": True})
    found = compare(gates).controls
    names = {(one.gate, one.control) for one in found}
    assert names == {
        (gate, f"self_gate fusion.join={join}") for gate in ("gmu_original", "gmu_hier") for join in ("mean", "concat")
    }


@pytest.mark.parametrize(
    "other",
    [
        {"modalities": "text+video"},
        {"trainer": {"max_epochs": 3}},
        {"options": {"bias": False}},
        {"options": {"gate": False, "bias": True}},
    ],
)
def test_other_modalities_or_configurations_are_no_control(sweep, other):
    gate = sweep.three_seeds("gmu_original", 1.0, options={"bias": True}, trainer={"max_epochs": 5})
    control = {"options": {"bias": True}, "trainer": {"max_epochs": 5}} | other
    (found,) = compare([*gate, *sweep.three_seeds("self_gate", 0.5, **control)]).controls
    assert (found.control, found.verdict) == (None, None)
    assert "has no control to beat: add fusion=self_gate" in found.sentence


def test_gates_without_a_control_share_one_sentence_and_the_command_that_adds_it(sweep):
    typed = ["fusion.gate_input=concat", "fusion.bias=true", "trainer.max_epochs=5"]
    runs = [run for fusion in ("gmu_original", "gmu_softmax") for run in sweep.three_seeds(fusion, 1.0, typed=typed)]
    write_json(sweep.folder / "status.json", {"jobs": []})
    found = compare([*runs, *sweep.three_seeds("mean", 1.0)])
    assert len(found.controls) == 2
    assert {one.sentence for one in found.controls} == {found.controls[0].sentence}
    assert markdown(found).count("have no control to beat") == 1
    words = shlex.split(found.controls[0].command)
    assert words[:4] == ["python", "-m", "gmu_lightning.train", "-m"]
    assert [word for word in words if word.startswith("fusion")] == ["fusion.bias=true", "fusion=self_gate"]
    assert {"seed=1,2,3", "trainer.max_epochs=5", f"hydra.sweep.dir={sweep.folder}"} <= set(words)


@pytest.mark.parametrize("fusion", ["mean", "concat", "self_gate"])
def test_what_weighs_nothing_needs_no_control(sweep, fusion):
    found = compare([*sweep.three_seeds(fusion, 1.0), *sweep.three_seeds("other", 1.0)])
    assert found.controls == []
    assert "Is it the gate?" not in markdown(found)


def test_too_few_seeds_judge_no_gate(sweep):
    (found,) = compare([*sweep.three_seeds("gmu_original", 2.0), sweep.run("self_gate", 1, 0.5)]).controls
    assert (
        found.sentence == f"gmu_original cannot be judged against self_gate, {BY}: self_gate has 1 seed, and three are the least"
    )
    assert found.verdict is None


def test_a_pair_that_another_baseline_leaves_out_is_not_passed_over(sweep):
    runs = [run for name in ("gmu_original", "self_gate", "concat") for run in sweep.three_seeds(name, 1.0)]
    (found,) = compare(runs, against="concat").controls
    assert found.sentence == f"gmu_original is not compared with self_gate, {BY}: this comparison is against another setting"


def test_files_and_page_state_it(sweep, tmp_path):
    runs = [*sweep.three_seeds("gmu_original", 1.0), *sweep.three_seeds("self_gate", 1.02)]
    found = compare(runs)
    write(found, tmp_path)
    (row,) = json.loads((tmp_path / "comparison.json").read_text())["controls"]
    assert {"gate", "control", "verdict", "sentence", "difference", "low", "high", "p_holm"} <= set(row)
    assert (row["gate"], row["control"], row["low"] < row["difference"] < row["high"]) == ("gmu_original", "self_gate", True)
    for text in (markdown(found), page(found, runs, Shown())):
        assert "Is it the gate?" in text
        assert row["sentence"] in text
