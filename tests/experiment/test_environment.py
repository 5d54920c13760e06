"""The allocator reuses freed memory, unless the environment configures it."""

import os
import subprocess
import sys

import pytest

KEPT = """
import os, resource, sys
from gmu_lightning.experiment.environment import keep_pages
print(keep_pages(), keep_pages())
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(60_000_000)
before = faults()
for _ in range(5):
    bytearray(60_000_000)
print(faults() - before)
"""


def environment(**variables):
    own = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k not in ("GLIBC_TUNABLES", "LD_PRELOAD")}
    return own | variables


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_pages_are_used_again():
    done = subprocess.run([sys.executable, "-c", KEPT], env=environment(), capture_output=True, text=True, check=True)
    answers, faults = done.stdout.splitlines()
    if answers != "True True":
        pytest.skip("another C library")
    assert int(faults) < 100  # five fresh blocks of 60 MB would cause thousands


def test_updates_search_for_no_library_of_nvidia_where_there_is_no_device():
    code = "import os; from gmu_lightning.lightning import pl; from gmu_lightning.experiment import environment as e\n"
    code += "before = e.NVML_CHECK in os.environ; e.prepare_process(); print(before, e.NVML_CHECK in os.environ)"
    variables = environment(CUDA_VISIBLE_DEVICES="")
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize("variable", ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_variables_of_the_allocator_take_precedence(variable):
    value = "glibc.malloc.arena_max=4" if variable == "GLIBC_TUNABLES" else "1000000"
    done = subprocess.run(
        [sys.executable, "-c", KEPT], env=environment(**{variable: value}), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0] == "False False"
