"""Choices that do not go together with this machine."""

from __future__ import annotations

import pytest

from gmu_lightning.experiment import choices
from gmu_lightning.movie import UserError

MANY = "trainer.devices=9"


@pytest.fixture
def on_four_cores(monkeypatch, run_config):
    """Return a function that checks the choices of a run on a machine with four cores, no GPU, and no launcher of processes."""
    monkeypatch.setattr(choices, "cores", lambda: 4)
    monkeypatch.setattr(choices, "has_accelerator", lambda name: name not in ("gpu", "cuda", "mps"))
    for name in ("SLURM_NTASKS", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return lambda *words: choices.check_choices(run_config("experiment=smoke", *words))


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
@pytest.mark.parametrize("devices", ["5", "99", "'7'"])
def test_more_processes_than_cores_are_refused(on_four_cores, accelerator, devices):
    with pytest.raises(
        UserError, match=r"would start \d+ processes on a CPU, and this machine has room for 4: type trainer.devices=1"
    ):
        on_four_cores(f"trainer.devices={devices}", f"trainer.accelerator={accelerator}")


@pytest.mark.parametrize("devices", ["1", "4", "auto", "-1", "[0,1,2,3,4,5]"])  # Lightning refuses the last two itself
def test_other_numbers_of_devices_are_left_to_lightning(on_four_cores, devices):
    on_four_cores(f"trainer.devices={devices}", "trainer.accelerator=cpu")


def test_two_processes_fit_on_one_core(on_four_cores, monkeypatch):
    monkeypatch.setattr(choices, "cores", lambda: 1)
    on_four_cores("trainer.devices=2", "trainer.accelerator=cpu")


@pytest.mark.parametrize("name", ["SLURM_NTASKS", "WORLD_SIZE"])
def test_processes_that_another_program_starts_are_allowed(on_four_cores, monkeypatch, name):
    monkeypatch.setenv(name, "9")
    on_four_cores(MANY, "trainer.accelerator=cpu")


def test_devices_of_a_gpu_are_counted_by_lightning(on_four_cores, monkeypatch):
    monkeypatch.setattr(choices, "has_accelerator", lambda name: True)
    on_four_cores(MANY, "trainer.accelerator=auto")
