"""What a comparison tells to mind beside its numbers."""

from __future__ import annotations

import numpy as np
import pytest

from gmu_lightning.files import write_json
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.markdown import markdown
from tests.report.made import Sweep, put


@pytest.mark.parametrize(("metric", "least"), [("f1_macro", 8), ("f1_macro@val", 8), ("ap_macro", 32)])
def test_a_macro_score_over_rare_genres_says_that_its_intervals_are_short(sweep, metric, least):
    runs = sweep.rivals()

    def caution(movies):
        for run in runs:
            said = run.predictions("test")
            said.labels[:] = np.arange(len(said.ids))[:, None] < 40
            said.labels[:, 1] = np.arange(len(said.ids)) < movies
            put(run, said)
        return compare(runs, metric).caution

    assert caution(least) is None
    told = caution(least - 1)
    assert told.startswith(f"1 of 4 genres have fewer than {least} test movies (Comedy {least - 1}): intervals of macro")
    assert ("far less often" in told) is (metric == "ap_macro")
    assert told in markdown(compare(runs, metric))
    assert compare(runs).caution is None


def computed_by(run, **more):
    """A run that says more of what computed it."""
    write_json(run / "environment.json", {**run.environment, **more})


def test_runs_of_one_software_on_one_kind_of_device_need_no_caution(sweep):
    for run in (runs := sweep.rivals()):
        encode = {"text": {"backend": "torch"}, "image": {"backend": "openvino"}}
        packages = {"torch": "2.14.1", "wandb": f"0.30.{len(run.folder.name) % 2}", "av": None}
        computed_by(run, git_commit="a" * 40, python="3.11.7", packages=packages, encode=encode, device="cpu (AMD EPYC)")
    computed_by(runs[0], device="cpu (Intel Xeon)")
    assert compare(runs).caution is None


@pytest.mark.parametrize(
    ("one", "other", "said"),
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
def test_runs_that_were_computed_otherwise_are_told(sweep, one, other, said):
    *most, last = sweep.rivals()
    for run in most:
        computed_by(run, **one)
    computed_by(last, **other)
    found = compare([*most, last])
    assert found.caution == f"Not all of these runs were computed alike, and some of a difference may be of that: {said}."
    assert found.caution in markdown(found)


def searched(sweep, trials, high=0.01):
    """The sweep's folder becomes a search's, of the learning rate."""
    space = {"optimizer.lr": {"low": 1e-4, "high": high, "log": True}}
    settings = [{"overrides": ["fusion=x"], "trials": [], "best": None, "why_not": "x"}]
    told = {"trials": trials, "space": space, "seed": 9, "monitor": "val/ap_micro", "settings": settings}
    write_json(sweep.folder / "search/search.json", told)


def test_settings_that_were_not_tuned_alike_are_told(tmp_path):
    tuned, other, plain = (Sweep(tmp_path / name) for name in ("tuned", "other", "plain"))
    searched(tuned, 12), searched(other, 3)
    typed, choices = ["sweep=search", "optimizer.lr=0.001"], {"sweep": "search"}
    runs = [
        *tuned.three_seeds("mean", 1.0, typed=typed, optimizer={"lr": 0.001}, choices=choices),
        *other.three_seeds("concat", 1.5, typed=typed, optimizer={"lr": 0.002}, choices=choices),
        *plain.three_seeds("gmu_hier", 0.5, optimizer={"lr": 0.0003}, choices={"sweep": "default"}),
    ]
    assert compare(runs).caution == (
        "Not all settings were tuned alike, and some of a difference may be of that: "
        "3 trials of concat tuned; 12 trials of mean tuned; no trials of gmu_hier optimizer.lr=0.0003."
    )
    assert compare(runs[:3]).caution is None
    assert compare(runs[6:]).caution is None
    searched(other, 12, high=0.1)
    assert compare(runs[:6]).caution.endswith(
        "12 trials (optimizer.lr: 0.0001 to 0.1, logarithmic) of concat tuned; "
        "12 trials (optimizer.lr: 0.0001 to 0.01, logarithmic) of mean tuned."
    )
