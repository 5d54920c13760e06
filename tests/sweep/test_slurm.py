"""The launcher of Slurm: the file for sbatch, the plan that workers read, and the jobs that a worker takes."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gmu_lightning.movie import UserError
from gmu_lightning.run import Run
from gmu_lightning.sweep import slurm_crew, slurm_worker
from gmu_lightning.sweep.job import Job
from gmu_lightning.sweep.slurm_crew import perform_shared, turned
from gmu_lightning.sweep.slurm_launcher import Slurm
from gmu_lightning.sweep.slurm_plan import Plan
from gmu_lightning.sweep.slurm_worker import Signalled, Task


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"workers": 0}, "hydra.launcher.workers=0 is not possible: give a whole number from 1 to 1,024"),
        ({"hours": 0}, "hydra.launcher.hours=0 is not possible: give a number above 0"),
        ({"setup": "module load"}, "hydra.launcher.setup=module load is not possible: give a list, or null"),
        ({"extra": {"qos": [1]}}, "hydra.launcher.extra={'qos': [1]} is not possible: give a mapping, or null"),
    ],
)
def test_an_invalid_option_is_refused(option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        Slurm(**option)
    assert str(refused.value) == sentence


def test_a_search_is_refused() -> None:
    config = SimpleNamespace(hydra=SimpleNamespace(runtime=SimpleNamespace(choices={"sweep": "search"})))
    with pytest.raises(UserError, match=r"^sweep=search waits for the scores of its jobs, .* choose hydra/launcher=stacked"):
        Slurm().setup(hydra_context=None, task_function=None, config=config)  # type: ignore[arg-type]


def test_the_file_for_sbatch_holds_every_option(tmp_path: Path) -> None:
    launcher = Slurm("long", 1.5, 8, 4, 1, 12.5, "me", {"qos": "low", "exclusive": True}, ["module load cuda"], 7)
    launcher.session = SimpleNamespace(config_dir="/my parts")  # type: ignore[assignment]
    lines = launcher.script(tmp_path, tmp_path / "slurm/plan.json", jobs=3).splitlines()
    for option in ("partition=long", "time=90", "array=0-2%3", "cpus-per-task=4", "gpus-per-node=1", "mem=12800M", "account=me"):
        assert f"#SBATCH --{option}" in lines
    for option in ("qos=low", "exclusive", "requeue", "signal=USR2@90", f"job-name=gmu-{tmp_path.name}"):
        assert f"#SBATCH --{option}" in lines
    command = next(line for line in lines if line.startswith("srun "))
    assert lines.index("module load cuda") < lines.index(command)
    assert command.endswith(f"{tmp_path}/slurm/plan.json --cpus=4 --requeues=7 --minutes=90 '--config-dir=/my parts'")


PLAN = {"started": "2026-01-01T00:00:00+00:00", "lost": 2, "jobs": [], "skipped": []}


@pytest.mark.parametrize(
    ("jobs", "problem"),
    [
        ([], r"jobs is a list and a list of 1 to .* is expected"),
        ([{"folder": "../a", "config": {}, "overrides": [], "retry": None}], r"jobs\[0\].folder names no folder of the sweep"),
        ([{"folder": "a", "config": {"seed": 1}, "overrides": [], "retry": None}], r"jobs\[0\].config lacks modalities"),
    ],
)
def test_a_strange_plan_is_refused(tmp_path: Path, jobs: list[dict[str, Any]], problem: str) -> None:
    path = tmp_path / "slurm" / "plan.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**PLAN, "jobs": jobs}))
    with pytest.raises(UserError, match=rf"^{path} is damaged, for .*({problem})"):
        Plan.read(path)


def test_a_missing_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"plan.json is damaged, for it is not there: type the sweep's command again$"):
        Plan.read(tmp_path / "plan.json")


def test_workers_begin_at_different_jobs() -> None:
    assert [turned(list("abcde"), task / 3)[0] for task in range(3)] == ["a", "b", "d"]  # type: ignore[arg-type]
    assert turned(list("abc"), 2 / 3) == ["c", "a", "b"]  # type: ignore[arg-type]


def _job(folder: Path, state: str | None) -> Job:
    job = Job(None, [], str(folder), folder.parent.name)  # type: ignore[arg-type]
    if state is not None:
        run = Run(folder)
        run.begin({"seed": 1}, [])
        if state != "running":
            run.end(state, "a reason")
    return job


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """(folder, retry) of the jobs that a worker has taken."""
    found: list[tuple[str, bool]] = []

    def take(jobs: list[Job], cache: object) -> dict[str, str]:
        found.extend((Path(job.folder).name, job.retry) for job in jobs)
        return {}

    monkeypatch.setattr(slurm_crew, "perform_stacked", take)
    return found


def test_a_failed_job_is_tried_again_once(tmp_path: Path, taken: list[tuple[str, bool]]) -> None:
    job = _job(tmp_path / "a", "failed")
    tokens = {job.folder: job.run.status["token"]}
    perform_shared(tokens, 2, [job], None)  # type: ignore[arg-type]
    _job(tmp_path / "a", "failed")  # another worker has tried
    perform_shared(tokens, 2, [job], None)  # type: ignore[arg-type]
    assert taken == [("a", True), ("a", False)]


def test_a_job_that_kills_its_workers_is_given_up(tmp_path: Path, taken: list[tuple[str, bool]]) -> None:
    for _ in range(3):
        perform_shared({}, 2, [_job(tmp_path / "a", "running")], None)  # type: ignore[arg-type]
    assert len(taken) == 2
    status = Run(tmp_path / "a").status
    assert status["state"] == "failed"
    assert status["why"] == f"its worker was killed 3 times: see {tmp_path / 'slurm'}, or ask for more memory"


def test_an_interruption_counts_as_no_loss(tmp_path: Path, taken: list[tuple[str, bool]]) -> None:
    for _ in range(4):
        perform_shared({}, 0, [_job(tmp_path / "a", "interrupted")], None)  # type: ignore[arg-type]
    assert len(taken) == 4


@pytest.mark.parametrize(
    ("sent", "shown", "restarts", "requeued"),
    [
        (signal.SIGUSR2, "JobState=RUNNING", 0, True),
        (signal.SIGUSR2, "JobState=RUNNING", 2, False),
        (signal.SIGALRM, "JobState=RUNNING", 0, True),
        (signal.SIGTERM, "JobState=RUNNING", 0, True),
        (signal.SIGTERM, "JobState=COMPLETING", 0, False),
    ],
)
def test_a_preempted_worker_returns_to_the_queue(
    monkeypatch: pytest.MonkeyPatch, sent: int, shown: str, restarts: int, requeued: bool
) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(slurm_worker, "_scontrol", lambda *words: asked.append(words) or shown)
    monkeypatch.setattr(slurm_worker, "obey_signals", lambda: None)
    variables = {"ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "1", "ARRAY_TASK_COUNT": "2", "RESTART_COUNT": str(restarts)}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)

    def work(path: Path, config_dir: str | None, cpus: int, number: int, workers: int) -> int:
        assert (number, workers) == (1, 2)
        raise Signalled(sent)

    monkeypatch.setattr(slurm_crew, "work", work)
    monkeypatch.setattr("sys.argv", ["worker", "plan.json", "--requeues=2"])
    with pytest.raises(SystemExit) as ended:
        slurm_worker.main()
    assert ended.value.code == 128 + sent
    assert (("requeue", "7_1") in asked) is requeued


def test_outside_slurm_a_worker_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ARRAY_JOB_ID", "ARRAY_TASK_ID", "ARRAY_TASK_COUNT", "RESTART_COUNT"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    assert Task.here() == Task(None, 0, 1, 0)
