"""The launcher of many machines, with a stand-in for Ray: refusals, and jobs that lose their machine."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from gmu_lightning.movie import UserError
from gmu_lightning.sweep.job import Job
from gmu_lightning.sweep.ray_cluster import Cluster, Node, Sight, difference, probed, sight
from gmu_lightning.sweep.ray_launcher import Ray
from gmu_lightning.sweep.ray_prepare import Files
from gmu_lightning.sweep.ray_worker import Done, Losses, RayWorker, Setting, end_all, how_lost
from gmu_lightning.sweep.workers import Returned, Task, share_out

HERE = Sight({"Python": "3.11.9", "torch": "2.14.1"}, {"/data": "7", "/sweep/.probe": "x"}, "token")
FREE: Any = lambda *_, **__: None  # noqa: E731


class RayError(Exception):
    """Of the stand-in, as is its only child."""


class RayTaskError(RayError):
    def __init__(self, cause: Exception):
        self.cause = cause


class Actor:
    """An actor whose tasks end as the list says: by an error, or with a result."""

    def __init__(self, ends: list[Any], log: list[str]):
        log.append("begin")
        self.ends, self.log = ends, log

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: lambda: self._answer(name))

    def _answer(self, name: str) -> Any:
        if name == "node":
            return "id"
        if name == "do":
            end = self.ends.pop(0)
            if isinstance(end, Exception):
                raise end
            return Done(end, None, ended=end == "interrupted", output=("", ""))
        self.log.append(name)
        return "", ""


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[Any], list[str]]]:
    """The ends of the next tasks of any actor, and the log of actors that begin and end."""
    found: list[Any] = []
    log: list[str] = []
    ray: Any = ModuleType("ray")
    ray.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
    ray.remote = lambda made: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: Actor(found, log)))
    ray.wait = lambda answers, timeout: (answers, [])
    ray.get = lambda answer, timeout=0: answer()
    ray.kill = lambda actor, no_restart: log.append("kill")
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(Cluster, "nodes", lambda self: [Node("north", "id", 4, 0)])
    monkeypatch.setattr(Cluster, "is_lost", lambda self: self.lost)
    yield found, log


@pytest.fixture
def job(tmp_path: Path) -> Job:
    config: Any = SimpleNamespace(mapping={"seed": 1, "modalities": "text", "choices": {}})
    return Job(config, [], str(tmp_path / "run"), "sweep")


def worker(lost: int = 2) -> RayWorker:
    return RayWorker(Cluster("auto"), 1, 0, Losses(lost))


def results(tasks: list[Task], lost: int = 2) -> list[Any]:
    found: list[Any] = []
    assert share_out([worker(lost)], tasks, lambda _, result: found.append(result)) == []
    return found


def test_a_task_whose_machine_is_lost_is_done_by_another(ends, job, caplog):
    planned, log = ends
    planned += [RayError("the node is gone"), "done"]
    assert results([Task(print, (), (job,))]) == ["done"]
    assert log == ["begin", "kill", "begin"]
    assert "run  lost with its worker on node north" in caplog.text
    assert not job.run.status


def test_a_process_interrupted_on_its_node_is_lost_too(ends, job):
    planned, _ = ends
    planned += ["interrupted", "done"]
    assert results([Task(print, (), (job,))]) == ["done"]


def test_a_job_that_is_lost_too_often_fails(ends, job):
    planned, _ = ends
    planned += [RayError("gone"), RayError("gone"), RayError("Task was killed due to the node running low on memory"), "done"]
    assert results([Task(print, (), (job,)), Task(print, ())]) == [None, "done"]
    assert job.run.status["state"] == "failed"
    assert job.run.status["why"] == (
        "its worker was lost 3 times, the last time on node north (Ray ended it because the node was short of memory)"
    )


def test_lost_0_repeats_no_job(ends, job):
    planned, _ = ends
    planned += [RayError("gone")]
    assert results([Task(print, (), (job,))], lost=0) == [None]
    assert job.run.status["state"] == "failed"


def test_an_error_of_the_work_is_raised_and_not_repeated(ends):
    planned, log = ends
    planned += [RayTaskError(KeyError("a key of the work"))]
    with pytest.raises(KeyError, match="a key of the work"):
        share_out([worker()], [Task(print, ())])
    assert log == ["begin"]


def test_a_lost_job_waits_until_its_process_is_gone(ends, job):
    planned, _ = ends
    planned += ["left to another command", RayError("gone"), "done"]
    one, task = worker(), Task(print, (), (job,))
    with job.run.held():
        job.run.begin(job.config.mapping, [])
        assert one.do(task) == "left to another command"
        for _ in range(2):  # lost, and then held by a process that is lost
            with pytest.raises(Returned):
                one.do(task)
        assert planned == ["done"]
    assert one.do(task) == "done"


def test_workers_end_their_actors(ends):
    planned, log = ends
    planned += ["done"]
    one = worker()
    assert one.do(Task(print, ())) == "done"
    end_all([one, worker()])
    assert one.ended
    assert log == ["begin", "end", "kill"]


def test_without_a_node_that_is_large_enough_the_tasks_are_left(ends, monkeypatch):
    ray: Any = sys.modules["ray"]
    monkeypatch.setattr(ray, "wait", lambda answers, timeout: ([], answers))
    monkeypatch.setattr(Cluster, "nodes", lambda self: [])
    task = Task(print, ())
    assert share_out([worker()], [task]) == [task]


def test_tasks_of_a_lost_cluster_are_left_though_a_call_of_ray_never_returns(ends):
    one, asked, never = worker(), threading.Event(), threading.Event()

    def do(task: Task) -> None:
        one.cluster.lost = True
        asked.set()
        never.wait(60)

    one.do = do  # type: ignore[method-assign]
    tasks = [Task(print, (n,)) for n in range(2)]
    assert share_out([one], tasks) == tasks
    assert asked.is_set() and one.ended
    never.set()


def test_a_first_node_that_is_silent_for_long_is_lost(monkeypatch):
    ray: Any = ModuleType("ray")
    moment = [0.0]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr("gmu_lightning.sweep.ray_cluster.time.monotonic", lambda: moment[0])
    cluster = Cluster("auto")
    with socket.create_server(("127.0.0.1", 0)) as first:
        address = f"127.0.0.1:{first.getsockname()[1]}"
        ray.get_runtime_context = lambda: SimpleNamespace(gcs_address=address)
        assert not cluster.is_lost()
    found = []
    for moment[0] in (90, 100, 105, 110, 200):
        found.append(cluster.is_lost())
    assert found == [False, False, False, True, True]


def _fake(do: Callable[[Task], Any]) -> Any:
    return SimpleNamespace(ended=False, do=do, is_cut_off=bool)


def test_a_returned_task_goes_to_another_worker():
    """The second worker is idle by then, and has not gone."""
    started = threading.Event()

    def lose(task: Task) -> None:
        started.set()
        time.sleep(0.05)
        first.ended = True
        raise Returned

    def do(task: Task) -> str:
        started.wait(5)
        return f"second {task.arguments[0]}"

    first, found = _fake(lose), []
    assert share_out([first, _fake(do)], [Task(print, (n,)) for n in range(2)], lambda _, result: found.append(result)) == []
    assert sorted(found) == ["second 0", "second 1"]


@pytest.mark.parametrize(
    ("there", "sentence"),
    [
        (HERE, None),
        (HERE._replace(versions={"Python": "3.11.9", "torch": "2.13"}), "has torch 2.13, and this machine has 2.14.1: install"),
        (
            HERE._replace(files={"/data": None, "/sweep/.probe": "x"}),
            "finds nothing in /data: the sweep, data.root and store.dir",
        ),
        (HERE._replace(files={"/data": "8", "/sweep/.probe": "x"}), "finds other files in /data: the sweep"),
        (HERE._replace(files={"/data": "7", "/sweep/.probe": None}), "does not see the files of /sweep on this machine: the sw"),
        (HERE._replace(mode=None), "takes work from anyone who reaches it: create a token by `ray get-auth-token --generate`"),
    ],
)
def test_a_node_that_differs_is_named_with_the_difference(there, sentence):
    found = difference("north", HERE, there, {"/sweep/.probe": "x"})
    assert found is None if sentence is None else str(found).startswith(f"node north {sentence}")


def test_probes_are_seen_and_removed(tmp_path):
    (tmp_path / "data").mkdir()
    with probed([str(tmp_path / "sweep" / "new"), str(tmp_path)]) as probes:
        assert len(probes) == 1
        seen = sight([str(tmp_path / "data"), str(tmp_path / "absent")], probes)
        assert seen.files.items() >= probes.items()
        assert seen.files[str(tmp_path / "absent")] is None
        before = seen.files[str(tmp_path / "data")]
        (tmp_path / "data" / "more").touch()
        assert sight([str(tmp_path / "data")], {}).files != {str(tmp_path / "data"): before}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [((1, 0, None), 12), ((4, 0, None), 3), ((1, 1, None), 2), ((1, 0.5, None), 4), ((1, 0, 5), 5), ((4, 1, None), 2)],
)
def test_the_cluster_has_room_for_as_many_workers_as_fit(monkeypatch, asked, found):
    monkeypatch.setattr(Cluster, "nodes", lambda self: [Node("a", "1", 4, 0), Node("b", "2", 8, 2)])
    assert Cluster("auto").room(*asked) == found


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ((9, 0, None), "no node of the cluster at auto has room for a worker of 9 CPUs: ask for less (a: 4 CPUs, 0 GPUs; b: 8"),
        ((1, 3, None), "no node of the cluster at auto has room for a worker of 1 CPU and 3 GPUs: ask for less"),
        ((4, 0, 4), "hydra.launcher.workers=4 is not possible: the cluster at auto has room for 3 of 4 CPUs"),
    ],
)
def test_more_than_the_cluster_has_is_refused(monkeypatch, asked, sentence):
    monkeypatch.setattr(Cluster, "nodes", lambda self: [Node("a", "1", 4, 0), Node("b", "2", 8, 2)])
    with pytest.raises(UserError) as refused:
        Cluster("auto").room(*asked)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(("gpus", "cpus"), [(0, 4), (1, 4), (0.5, 2)])
def test_a_job_that_trains_an_encoder_takes_its_share_of_a_node(monkeypatch, gpus, cpus):
    monkeypatch.setattr(Cluster, "nodes", lambda self: [Node("a", "1", 4, 0), Node("b", "2", 8, 2)])
    assert Cluster("auto").largest(gpus) == cpus


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "2.60.0")


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"address": "north"}, "hydra.launcher.address=north is no address: give auto, local, or HOST:PORT of the first node"),
        ({"address": "ray://north:1"}, "hydra.launcher.address=ray://north:1 is no address: give auto, local, or HOST:PORT of"),
        ({"workers": 0}, "hydra.launcher.workers=0 is not possible: give a whole number from 1 to 1,024, or null"),
        ({"gpus": 1.5}, "hydra.launcher.gpus=1.5 is not possible: give a whole number, or a share below 1"),
        ({"lost": -1}, "hydra.launcher.lost=-1 is not possible: give a whole number from 0 to 100"),
    ],
)
def test_an_invalid_option_is_refused(installed, option, sentence):
    with pytest.raises(UserError) as refused:
        Ray(**option)
    assert str(refused.value).startswith(sentence)


def test_without_ray_or_with_an_old_one_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "2.53.1")
    with pytest.raises(UserError, match=r"needs ray 2.54 or newer, and 2.53.1 is installed: pip install --upgrade ray"):
        Ray()

    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(UserError, match=r"needs the package ray: pip install 'gmu-lightning\[ray\]'"):
        Ray()


def test_threads_of_a_node_are_those_of_the_sweep(monkeypatch, tmp_path):
    """Ray sets OMP_NUM_THREADS to the CPUs of a worker, but a job has its own number."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    here = Setting.here()
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "argv", ["of Ray"])
    here.take()
    assert "OMP_NUM_THREADS" not in os.environ
    assert (sys.path, sys.argv) == (here.path, here.command)
    assert os.getcwd() == here.folder  # noqa: PTH109


def test_memory_is_told_from_other_losses():
    assert how_lost(RayError("1 worker(s) were killed due to the node running low on memory.")).startswith("Ray ended it because")
    assert how_lost(RayError("The actor died: its node was terminated")) == "the node is gone, or its process was killed"


@pytest.mark.parametrize(
    ("costly", "files", "sizes"), [(True, 100, [7] * 14 + [2]), (True, 1000, [16] * 62 + [8]), (False, 3, [1] * 3)]
)
def test_files_are_shared_out_in_pieces_for_all_workers(tmp_path, costly, files, sizes):
    pairs = [(tmp_path / str(n), str(n)) for n in range(files)]
    tasks = list(Files(FREE, "video", pairs, costly, tmp_path).tasks("store", 1, workers=4))
    assert [len(task.arguments[-1]) for task in tasks] == sizes
    assert [pair for task in tasks for pair in task.arguments[-1]] == pairs
