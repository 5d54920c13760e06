"""The process that a run trains in: memory, threads, logs of libraries, and the description in environment.json."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import resource
import shlex
import subprocess
import sys
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from gmu_lightning.config import packages
from gmu_lightning.config.hardware import processor
from gmu_lightning.config.schema import TrainerConfig
from gmu_lightning.parallel import cores

PACKAGES = (
    *("gmu-lightning", "torch", "openvino", "pytorch-lightning", "transformers", "timm"),
    *("hydra-core", "numpy", "torchmetrics", "pillow", "av", "wandb"),
)
# Constants of malloc.h. By default, glibc maps each large block anew and returns it when it is freed, so that the kernel clears
# every page again.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
ALLOCATOR = (
    (M_MMAP_MAX, 0),  # take large blocks from the heap, too
    (M_ARENA_MAX, 1),  # share one heap between threads: the heap of a thread is too small for large blocks, and is returned
    (M_TOP_PAD, 64 << 20),  # bytes by which the heap grows
    (M_TRIM_THRESHOLD, 2**31 - 1),  # free bytes at the end of the heap from which on it shrinks
)
NVML_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"  # Lightning sets it, and each update then searches for NVIDIA's library
ALLOCATOR_VARIABLES = (
    *("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_ARENA_MAX"),
    *("GLIBC_TUNABLES", "LD_PRELOAD"),
)


def prepare_process() -> None:
    """Set up the process for training or encoding.

    The allocator keeps freed memory, Lightning logs only errors, and without an NVIDIA device updates do not search for one.
    """
    keep_pages()
    quiet_libraries()
    if not torch.cuda.device_count():
        os.environ.pop(NVML_CHECK, None)


def keep_pages() -> bool:
    """Set glibc's allocator to keep freed pages for reuse. Return True if every option was set.

    Fresh pages for each activation cost a convolution as much time as its arithmetic. The process then hardly returns memory
    before it ends. With another C library, or if a variable in `ALLOCATOR_VARIABLES` is set, set nothing and return False. Call
    it before anything large is allocated. A second call changes nothing.
    """
    if sys.platform != "linux" or any(os.environ.get(name) for name in ALLOCATOR_VARIABLES):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version") or not hasattr(library, "mallopt"):
        return False
    done = [library.mallopt(option, value) == 1 for option, value in ALLOCATOR]  # set each one, even if another fails
    return all(done)


def quiet_libraries() -> None:
    """Let Lightning's loggers show only errors, and ignore its warnings that do not apply to our runs, in the whole process.

    Set `TOKENIZERS_PARALLELISM` to false, unless the environment sets it.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*Checkpoint directory.*",
        ".*LeafSpec.*",
        ".*overridden `transfer_batch_to_device`.*",
        ".*sync_dist=True.*",
        ".*in eval mode at the start of training.*",
    ):
        warnings.filterwarnings("ignore", message)


def use_threads(threads: int | None) -> None:
    """Set torch's number of CPU threads to `threads`, at least 1. None takes every core that this process may use."""
    torch.set_num_threads(threads or cores())


def has_accelerator(name: str) -> bool:
    """Return whether this machine has the accelerator `gpu`, `cuda` or `mps`. Return True for any other name."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return {**found, "gpu": any(found.values())}.get(name, True)


def device_of(config: TrainerConfig) -> torch.device:
    """Return the device for encoding and for loops without a Trainer: CUDA if the accelerator allows it, else the CPU."""
    if config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def own_environment() -> list[Any]:
    """Return, in a list, the plugin that makes a run on one device ignore the variables of Slurm and other clusters.

    Lightning then takes this process for the one of rank 0.
    """
    from pytorch_lightning.plugins.environments import LightningEnvironment
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    rank_zero_only.rank = 0  # type: ignore[attr-defined]  # read from SLURM_PROCID when Lightning is imported
    return [LightningEnvironment()]


def environment(
    device: torch.device, seed: int, data_fingerprint: Mapping[str, str], encode: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Return the content of environment.json, by which to judge whether two runs should agree.

    Besides the arguments it holds versions, platform, threads, command, folder and Git commit, as they are at this moment.

    Args:
        device: the device that the run trained on.
        seed: the run's seed.
        data_fingerprint: {part of the data: hash}.
        encode: {modality: {`backend`, `precision`, `from_cache`}} of features that were computed once.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({processor()})",
        "threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in PACKAGES} | {one.name: one.version for one in packages.installed()},
        "command": shlex.join(sys.argv),
        "cwd": str(Path.cwd()),
        "git_commit": _git_commit(),
        "seed": seed,
        "data_fingerprint": dict(data_fingerprint),
        "encode": {modality: dict(how) for modality, how in (encode or {}).items()},
    }


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory so far, in units of 10^6 bytes.

    For a CUDA device, count the memory that torch allocated on it. For any other device, return this process's resident memory.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of the checkout that holds this package. None if the package is installed, or git is not."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        found = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return None
    return found.stdout.strip() or None
