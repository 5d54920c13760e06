"""`doctor` finds the faults of a machine, and gives a remedy for each."""

from __future__ import annotations

import fcntl
import os
import platform
import resource
import tempfile
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest
import torch

from gmu_lightning.cli.doctor import accounts, checks, machine, places, software
from gmu_lightning.cli.doctor.check import Check, table
from gmu_lightning.encoders import weights

from ..installed import site

Usage = namedtuple("Usage", "total used free")


def only(found) -> Check:
    """Return the only result of a check."""
    (check,) = [found] if isinstance(found, Check) else list(found)
    return check


@pytest.fixture
def versions(monkeypatch):
    """{package: version}, which replaces the versions of the installed packages; None stands for a missing one."""
    changed: dict[str, str | None] = {}
    version = metadata.version

    def find(name: str) -> str:
        found = changed.get(name, "") or (version(name) if name not in changed else None)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", find)
    return changed


def test_this_machine_has_no_known_problem_of_software(tmp_path):
    found = [software.python(), *software.versions(), *software.bad_releases()]
    assert [check.name for check in found] == ["python", "packages", "releases"]
    assert {check.state for check in found} == {"ok"}


def test_an_old_python_is_wrong(monkeypatch):
    monkeypatch.setattr(platform, "python_version", lambda: "3.10.4")
    check = software.python()
    assert check.state == "wrong" and check.found == "3.10.4, and gmu_lightning needs >=3.11"


@pytest.mark.parametrize(
    ("package", "version", "state", "found", "remedy"),
    [
        ("timm", "0.9", "wrong", "timm 0.9 is not in the range >=1.0.20", "pip install 'timm>=1.0.20'"),
        ("timm", None, "wrong", "timm is not installed", "pip install 'timm>=1.0.20'"),
        ("pytorch-lightning", "3.1", "wrong", "pytorch-lightning 3.1 is not in the range", "pip install 'pytorch-lightning<3"),
        ("openvino", "2024.1", "warning", "openvino 2024.1 is not in the range >=2026.0", "pip install 'openvino>=2026.0'"),
    ],
)
def test_a_package_out_of_its_range_is_named(versions, package, version, state, found, remedy):
    versions[package] = version
    check = next(software.versions())
    assert (check.name, check.state) == ("packages", state)
    assert check.found.startswith(found) and check.remedy.startswith(remedy)


def test_a_missing_package_of_an_extra_is_no_problem(versions):
    versions["openvino"] = None
    assert only(software.versions()).state == "ok"


@pytest.mark.parametrize(
    ("package", "version", "state", "reason"),
    [
        ("pytorch-lightning", "2.6.2", "wrong", "malware"),
        ("lightning", "2.6.3", "wrong", "malware"),
        ("wandb", "0.28.0", "wrong", "wait for ever"),
        ("pillow", "12.1.0", "warning", "CVE-2026-25990"),
        ("torch", "2.9.1", "wrong", "CVE-2026-24747"),
    ],
)
def test_a_known_bad_release_is_named(versions, package, version, state, reason):
    versions[package] = version
    check = only(software.bad_releases())
    assert check.state == state and check.found.startswith(f"{package} {version}: ") and reason in check.found
    assert ("replace every password" in check.remedy) is (reason == "malware")


def test_packages_of_choices_are_checked(tmp_path):
    good = {"fusion/good.yaml": "_target_: builtins.dict", "fusion/bad.yaml": "_target_: mine.Nothing", "loss/no.yaml": "["}
    with site(tmp_path) as install:
        install("mine", files=good, code="")
        install("sound", files={"fusion/sound.yaml": "_target_: builtins.dict"})
        install("lost", "lost.nowhere")
        found = list(software.further_choices())
    assert [check.state for check in found] == ["wrong", "wrong", "wrong", "ok"]
    assert "the package lost declares" in found[0].found
    assert "has no Nothing" in found[1].found and "no.yaml of the package mine is no valid YAML" in found[2].found
    assert found[3].found == "1 from the package sound 1.2"


def test_a_gpu_that_torch_cannot_use_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "GPU_NODES", ())
    assert machine.gpu().state == "ok"
    monkeypatch.setattr(machine, "GPU_NODES", (str(tmp_path),))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    check = machine.gpu()
    assert check.state == "warning" and "with CUDA_VISIBLE_DEVICES=7" in check.found and "driver" in check.remedy


def test_a_gpu_that_fails_is_wrong(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    def fail(*_, **__):
        raise RuntimeError("no kernel image is available\nmore")

    monkeypatch.setattr(torch, "ones", fail)
    check = machine.gpu()
    assert check.state == "wrong" and check.found == "device 0 fails in a small product (no kernel image is available)"


@pytest.mark.parametrize(
    ("asked", "share", "state", "said"),
    [
        (None, None, "ok", ""),
        ("2", None, "ok", ""),
        ("5", None, "warning", "unset OMP_NUM_THREADS"),
        ("many", None, "warning", "unset OMP_NUM_THREADS"),
        ("0", None, "warning", "unset OMP_NUM_THREADS"),
        (None, 1.5, "warning", "add trainer.threads=1 to commands"),
        (None, 4.0, "ok", ""),
    ],
)
def test_threads_are_compared_with_cores(monkeypatch, asked, share, state, said):
    monkeypatch.setattr(machine, "cores", lambda: 4)
    monkeypatch.setattr(machine, "cpu_share", lambda: share)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    check = machine.threads()
    assert check.state == state and check.remedy.startswith(said) and "4 of" in check.found


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [("cpu.max", "150000 100000\n", 1.5), ("cpu.max", "max 100000\n", None), ("cpu/cpu.cfs_quota_us", "50000\n", 0.5)],
)
def test_a_containers_share_is_read(monkeypatch, tmp_path, file, content, expected):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / file).write_text(content)
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.cpu_share() == expected


def test_little_memory_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_memory_of_machine", lambda: (8 * 10**9, 16 * 10**9))
    assert machine.memory().state == "ok"
    (tmp_path / "memory.max").write_text("2000000000\n")
    check = machine.memory()
    assert check.state == "warning" and check.found == "8.0 of 16.0 GB free; the container may use 2.0 GB"


def test_few_open_files_are_a_warning(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    check = only(machine.open_files())
    assert check.state == "warning" and "256 files" in check.found and "ulimit -n 4096" in check.remedy


@pytest.mark.parametrize(("free", "state"), [(10**8, "wrong"), (10**9, "warning"), (10**11, "ok")])
def test_room_on_the_disk_is_judged(monkeypatch, tmp_path, free, state):
    monkeypatch.setattr(places.shutil, "disk_usage", lambda _: Usage(10**12, 0, free))
    check = places.room("store", tmp_path / "a/new/store", "store.dir")
    assert check.state == state and f"(to be made in {tmp_path})" in check.found
    assert not list(tmp_path.iterdir())


def test_a_file_in_place_of_a_folder_is_wrong(tmp_path):
    (tmp_path / "taken").touch()
    check = places.room("store", tmp_path / "taken/store", "store.dir")
    assert check.state == "wrong" and f"{tmp_path}/taken is no folder" in check.found and "store.dir=FOLDER" in check.remedy


def test_a_folder_without_rights_is_wrong(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    check = places.room("output", tmp_path, "output")
    assert check.state == "wrong" and check.found == f"output={tmp_path} cannot be written to (Permission denied)"


def test_locks_are_tried(tmp_path):
    check = places.locks(tmp_path / "store")
    assert check.state in ("ok", "warning") and "exclude" in check.found
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_wrong(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    check = places.locks(tmp_path)
    assert check.state == "wrong" and "can be locked (No locks available)" in check.found


def test_locks_that_exclude_nobody_are_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    check = places.locks(tmp_path)
    assert check.state == "wrong" and "does not exclude a second one" in check.found


def test_locks_on_a_shared_file_system_are_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "mounted", lambda _: places.Mounted("nfs4", "rw,nolock,local_lock=all"))
    check = places.locks(tmp_path)
    assert check.state == "warning" and "only on this machine on nfs4" in check.found


def test_the_file_system_of_a_folder_is_the_deepest_mount():
    assert places.mounted(Path("/proc/self")).kind == "proc"


def test_a_temporary_folder_that_is_missing_is_a_warning(monkeypatch):
    assert places.temporary().state == "ok"
    monkeypatch.setenv("TMPDIR", "/proc/nowhere")
    check = places.temporary()
    assert check.state == "warning" and check.found.startswith("TMPDIR=/proc/nowhere cannot be written to, so /")


def test_a_home_that_is_missing_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert only(places.home()).state == "ok"
    monkeypatch.setenv("HOME", "/proc/nowhere")
    check = only(places.home())
    assert check.state == "warning" and "HF_HOME" in check.remedy


def test_weights_of_the_default_encoders_are_looked_for(monkeypatch):
    monkeypatch.setattr(weights, "find_here", lambda name, option: None)
    found = list(accounts.default_weights())
    assert [check.state for check in found] == ["warning", "warning"]
    assert found[0].found == "encoder/text=minilm: not on this machine" and "encoder.text.name=FOLDER" in found[0].remedy
    monkeypatch.setattr(weights, "find_here", lambda name, option: weights.Found(name, "cache", Path("/cache")))
    assert [check.state for check in accounts.default_weights()] == ["ok", "ok"]


def test_the_hub_is_asked_on_request_alone(monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(weights, "reachable", lambda name: bool(asked.append(name)))
    assert accounts.hub(False).state == "ok" and not asked
    assert accounts.hub(True).state == "warning" and len(asked) == 1


@pytest.fixture
def account(monkeypatch, tmp_path):
    """A home folder without an account, and no variable of W&B."""
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


SECRET = "0123456789abcdef"


def test_a_missing_login_is_a_warning(account):
    check = accounts.wandb()
    assert check.state == "warning" and "wandb login" in check.remedy


@pytest.mark.parametrize(
    ("variables", "state"),
    [({"WANDB_API_KEY": SECRET}, "ok"), ({"WANDB_MODE": "offline"}, "ok"), ({"WANDB_MODE": "odd"}, "warning")],
)
def test_the_login_may_stand_in_the_environment(account, monkeypatch, variables, state):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check = accounts.wandb()
    assert check.state == state and SECRET not in f"{check}"


@pytest.mark.parametrize(
    ("host", "mode", "state", "said"),
    [
        ("api.wandb.ai", 0o600, "ok", "a key of api.wandb.ai is in"),
        ("api.wandb.ai", 0o644, "warning", "which other users may read"),
        ("example.org", 0o600, "warning", "no key of api.wandb.ai"),
        ("api.wandb.ai password x login", 0o600, "warning", "cannot be read"),
    ],
)
def test_the_login_may_stand_in_a_netrc_file(account, host, mode, state, said):
    file = account / ".netrc"
    file.write_text(f"machine {host}\n  login user\n  password {SECRET}\n")
    file.chmod(mode)
    check = accounts.wandb()
    assert check.state == state and said in check.found and SECRET not in f"{check}"


def test_the_table_counts_and_fits():
    lines = table([Check("one", "ok", "x" * 20), Check("two", "wrong", "word " * 40, "do this"), Check("three", "warning", "y")])
    assert max(map(len, lines)) < 80
    assert lines[0] == "  ok       one          " + "x" * 20
    assert "                        -> do this" in lines
    assert lines[-1] == "3 checks: 1 ok, 1 with a warning, 1 wrong"


def test_a_check_that_fails_itself_is_a_result(monkeypatch, tmp_path):
    def broken() -> Check:
        raise ValueError("odd\nmachine")

    monkeypatch.setattr(machine, "gpu", broken)
    found = checks.all_checks(tmp_path / "store", tmp_path / "outputs", hub=False)
    check = next(one for one in found if one.name == "gpu")
    assert check.state == "wrong" and "ValueError: odd machine" in check.found
    assert len(found) >= 18 and not list(tmp_path.iterdir())
