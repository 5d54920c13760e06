"""The check at the end of `make demo` fails if a criterion fails or a run is missing, and names it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .shell import SMOKE, environment, typed

CHECK = Path(__file__).parents[2] / "benchmarks" / "known_answer.py"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """One epoch of two baselines and one gate, on sixty generated movies."""
    folder = tmp_path_factory.mktemp("demo")
    words = ("-m", *SMOKE, "hydra.sweep.dir=sweep", "fusion=none,mean,gmu_softmax", "modalities=text,image,text+image")
    said = typed("train", *words, folder=folder, store=folder / "store")
    assert said.returncode == 0, said.stderr
    return folder / "sweep"


def checked(*arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHECK), *map(str, arguments)],
        env=environment(arguments[0].parent / "store") if arguments else None,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.heavy
def test_an_untrained_or_missing_gate_fails_the_check(sweep):
    done = checked(sweep)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].endswith("text+image over text; the worst of seeds 1")
    assert any(line.startswith("FAILS  gmu_softmax against the truth, correlation: ") for line in lines)
    missing = "it needs fusion=gmu_original modalities=text+image seed=1, and no such run finished"
    assert f"FAILS  gmu_original over mean, micro F1: {missing}" in lines
    assert "concat" in next(line for line in lines if line.startswith("FAILS  gmu_softmax over concat"))


@pytest.mark.heavy
def test_without_a_sweep_it_says_what_it_wants(tmp_path):
    assert "name the folders of the sweeps" in checked().stderr
    done = checked(tmp_path)
    assert done.returncode == 1
    assert "is no sweep on generated movies" in done.stderr
