"""Read the CPU's model and instructions, without torch, because resolving a configuration needs them."""

from __future__ import annotations

import platform
from pathlib import Path

BFLOAT16_PRODUCTS = {"avx512_bf16", "amx_bf16"}  # as Linux names them
GPU_NODES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, either under Windows


def multiplies_bfloat16(accelerator: str) -> bool:
    """Return whether a run computes on a CPU with instructions for bfloat16, which is slower than float32 without them.

    Args:
        accelerator: Lightning's `auto`, `cpu`, `gpu`, ...; `auto` takes a GPU if there is one.
    """
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not any(Path(node).exists() for node in GPU_NODES))
    return on_cpu and not BFLOAT16_PRODUCTS.isdisjoint(_cpuinfo("flags").split())


def processor() -> str:
    """Return the CPU's model, or its architecture if the system does not give the model."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
