"""What the CPU is and multiplies fast: found without torch, because a run's identity depends on it."""

from __future__ import annotations

import platform
from pathlib import Path

BFLOAT16_PRODUCTS = {"avx512_bf16", "amx_bf16"}  # as Linux names them
GPU_NODES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, either under Windows


def multiplies_bfloat16(accelerator: str) -> bool:
    """Whether a run computes on a CPU that has instructions for products of bfloat16; without them it is slower than float32.

    Args:
        accelerator: Lightning's `auto`, `cpu`, `gpu`, ...; `auto` takes a GPU where there is one.
    """
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not any(Path(node).exists() for node in GPU_NODES))
    return on_cpu and not BFLOAT16_PRODUCTS.isdisjoint(_said_of_cpu("flags").split())


def processor() -> str:
    """The CPU's model, where the system tells."""
    return _said_of_cpu("model name") or platform.processor() or platform.machine()


def _said_of_cpu(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
