"""Where a run took place: environment.json."""

from __future__ import annotations

import platform
import resource
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from gmu_lightning.data.threads import cores
from gmu_lightning.experiment.hardware import processor

PACKAGES = (
    "gmu-lightning",
    "torch",
    "openvino",
    "onnxruntime",
    "pytorch-lightning",
    "transformers",
    "timm",
    "hydra-core",
    "numpy",
    "torchmetrics",
    "pillow",
    "av",
    "wandb",
)


def environment(
    device: torch.device, seed: int, data_fingerprint: Mapping[str, str], encode: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """What a reader needs to judge whether two runs should agree.

    Args:
        encode: {modality: backend, precision and whether from the cache} of features that were computed once.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({processor()})",
        "threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in PACKAGES},
        "command": shlex.join(sys.argv),
        "cwd": str(Path.cwd()),
        "git_commit": _git_commit(),
        "seed": seed,
        "data_fingerprint": dict(data_fingerprint),
        "encode": {modality: dict(how) for modality, how in (encode or {}).items()},
    }


def peak_memory_mb(device: torch.device) -> float:
    """Most memory held so far, in 10^6 bytes: the device's on a GPU, the process's elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def use_threads(threads: int | None) -> None:
    """Pin the job's CPU threads; None takes all cores this process may use."""
    torch.set_num_threads(threads or cores())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the checkout this package runs from; None where it is installed."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    found = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
