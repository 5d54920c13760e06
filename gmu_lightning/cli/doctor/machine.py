"""Check the GPU, the processor, memory, and the number of open files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from gmu_lightning.cli.doctor.check import OK, WARNING, WRONG, Check
from gmu_lightning.config.hardware import GPU_NODES, processor
from gmu_lightning.parallel import cores

GB = 1e9
LITTLE_MEMORY, LITTLE_SHARED = 4 * GB, 0.5 * GB
FEW_FILES = 1024
CGROUP = Path("/sys/fs/cgroup")


def gpu() -> Check:
    """Check that torch computes on the CUDA device, if there is one."""
    try:
        import torch
    except (ImportError, OSError) as error:
        why = " ".join(str(error).split())[:300]
        return Check("gpu", WRONG, f"torch cannot be imported ({why})", "pip install --force-reinstall torch")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = "" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible}"
    if not torch.cuda.is_available():
        if not any(Path(node).exists() for node in GPU_NODES):
            return Check("gpu", OK, f"none; runs use the CPU ({processor()})")
        built = f"torch {torch.__version__} is built for CUDA {torch.version.cuda or 'nothing'}"
        remedy = "install the torch of pytorch.org that suits the driver, or update the driver"
        return Check("gpu", WARNING, f"a GPU is there and torch finds none{chosen} ({built}, driver {_driver()})", remedy)
    names = []
    for number in range(torch.cuda.device_count()):
        try:
            device = torch.device("cuda", number)
            ones = torch.ones(8, 8, device=device)
            assert (ones @ ones).sum().item() == 512
            free, total = torch.cuda.mem_get_info(device)
        except (RuntimeError, AssertionError) as error:
            why = (str(error).strip() or "a wrong product").splitlines()[0]
            remedy = f"hide it with CUDA_VISIBLE_DEVICES, or install a torch built for it; driver {_driver()}"
            return Check("gpu", WRONG, f"device {number} fails in a small product ({why})", remedy)
        names.append(f"{torch.cuda.get_device_name(device)}, {free / GB:.0f} of {total / GB:.0f} GB free")
    return Check("gpu", OK, f"{'; '.join(names)}{chosen} (CUDA {torch.version.cuda}, driver {_driver()})")


def _driver() -> str:
    """Return the version of NVIDIA's driver, or `unknown`."""
    with suppress(OSError):
        found = re.search(r"Kernel Module\D*?([\d.]+)", Path("/proc/driver/nvidia/version").read_text(encoding="utf-8"))
        if found:
            return found[1]
    return "unknown"


def threads() -> Check:
    """Check the number of threads against the cores that this process may use, and the share of a container."""
    mine, all_of_them, share = cores(), os.cpu_count() or 1, cpu_share()
    found = f"{mine} of {all_of_them} cores"
    if share is not None:
        found += f", of which the container may use {share:g}"
    asked = os.environ.get("OMP_NUM_THREADS")
    most = mine if share is None else max(1, min(mine, int(share)))
    if asked is not None:
        found += f"; OMP_NUM_THREADS={asked}"
        if not re.fullmatch(r"[1-9]\d{0,4}", asked) or int(asked) > mine:
            return Check("threads", WARNING, found, f"unset OMP_NUM_THREADS, or set it to a number from 1 to {most}")
    if most < mine:
        return Check("threads", WARNING, found, f"add trainer.threads={most} to commands: more threads wait for each other")
    return Check("threads", OK, found)


def cpu_share() -> float | None:
    """Return the number of cores that the control group of this container may use; None without a limit."""
    with suppress(OSError, ValueError):
        quota, period = (CGROUP / "cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota, period = ((CGROUP / f"cpu/cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period"))
        return None if int(quota) < 0 else int(quota) / int(period)
    return None


def memory() -> Check:
    """Check the free memory, and the limit of a container."""
    free, total = _memory_of_machine()
    if free is None or total is None:
        return Check("memory", OK, "unknown on this system")
    found, limit = f"{free / GB:.1f} of {total / GB:.1f} GB free", _memory_of_container()
    if limit is not None and limit < total:
        found, free = f"{found}; the container may use {limit / GB:.1f} GB", min(free, limit)
    if free < LITTLE_MEMORY:
        return Check("memory", WARNING, found, "lower data.batch_size, data.workers or the number of jobs at once")
    return Check("memory", OK, found)


def _memory_of_machine() -> tuple[int | None, int | None]:
    """Return free and total memory in bytes; None where the system does not tell."""
    with suppress(OSError, ValueError, KeyError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        sizes = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return sizes["MemAvailable"], sizes["MemTotal"]
    return None, None


def _memory_of_container() -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            return int((CGROUP / name).read_text(encoding="utf-8"))
    return None


def shared_memory() -> Iterator[Check]:
    """Check the size of /dev/shm, if the system has it. Loader processes send batches through it."""
    with suppress(OSError):
        stat = os.statvfs("/dev/shm")
        size, free = stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize
        found = f"/dev/shm has {free / GB:.2f} of {size / GB:.2f} GB free"
        if free < LITTLE_SHARED:
            remedy = "leave data.workers at 0, or start the container with --shm-size=2g"
            yield Check("shared", WARNING, found, remedy)
        else:
            yield Check("shared", OK, found)


def open_files() -> Iterator[Check]:
    """Check the limit on open files of a process, if the system has one."""
    try:
        import resource
    except ImportError:
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "any number of files" if soft == resource.RLIM_INFINITY else f"{soft:,} files"
    if soft != resource.RLIM_INFINITY and soft < FEW_FILES:
        yield Check("files", WARNING, f"a process may open {most} at once", "type ulimit -n 4096 before the commands")
    else:
        yield Check("files", OK, f"a process may open {most} at once")
