"""A profile as a page: the parts of a step, what lies outside of steps, and the pace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DATA, TRANSFER, FORWARD, FUSION, HEAD = "data", "transfer", "forward", "fusion", "head_and_loss"
BACKWARD, OPTIMIZER, REST = "backward", "optimizer", "rest"
VALIDATION, CHECKPOINTS, BETWEEN = "validation", "checkpoints", "between_epochs"
OUTSIDE = (VALIDATION, CHECKPOINTS, BETWEEN)  # of steps
MEANINGS = {
    DATA: "waiting for the batch",
    TRANSFER: "batch to the device",
    FORWARD: "forward",
    FUSION: "forward: fusion",
    HEAD: "forward: normalisation, head, loss",
    BACKWARD: "backward",
    OPTIMIZER: "clipping, optimizer",
    REST: "callbacks, logging, the loop",
    VALIDATION: "validation",
    CHECKPOINTS: "checkpoints",
    BETWEEN: "between epochs",
}


def as_markdown(profile: Mapping[str, Any]) -> str:
    """profile.json as a page."""
    rows = [(_meaning(label), part["seconds"], part["share"]) for label, part in profile["parts"].items()]
    rows.append(("a step", profile["seconds_per_step"], 1.0))
    width = max(len(name) for name, _, _ in rows)
    head = f"{profile['device']}, {profile['threads']} threads, {profile['precision']}"
    return "\n".join(
        [
            f"# Where a training step's time went ({head})",
            "",
            f"Means over {profile['steps']} steps, without the first {profile['skipped_steps']} of the run; "
            f"the median step took {_ms(profile['seconds_per_step_median']).strip()} ms.",
            "",
            f"| {'part':{width}} |      ms | share |",
            f"|{'-' * (width + 2)}|--------:|------:|",
            *(f"| {name:{width}} | {_ms(seconds)} | {share:5.1%} |" for name, seconds, share in rows),
            "",
            *(f"- {line}" for line in _lines(profile)),
            "",
        ]
    )


def _lines(profile: Mapping[str, Any]) -> list[str]:
    outside = ", ".join(f"{_meaning(label)} {seconds:.1f} s" for label, seconds in profile["outside_of_steps"].items())
    lines = [f"outside of steps, in the whole fit: {outside}", f"{profile['movies_per_second']:,.1f} movies a second"]
    for modality, found in profile["sequences"].items():
        lines.append(
            f"{modality}: {found['tokens_per_second']:,.0f} real tokens a second, {found['padding']:.1%} of positions padded"
        )
    flops = profile["flops"]
    if flops is not None:
        lines.append(
            f"the model: {_flops(flops['per_movie'])}FLOP a movie, {_flops(flops['per_second'])}FLOP/s, "
            f"{flops['share_of_peak']:.1%} of the {_flops(flops['peak_per_second'])}FLOP/s of a {flops['peak_dtype']} "
            f"product of {flops['peak_size']} x {flops['peak_size']}"
        )
    return lines


def _meaning(label: str) -> str:
    return MEANINGS.get(label) or f"forward: {label.removeprefix('encoder/')}"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:7.3f}" if seconds < 1 else f"{1000 * seconds:7.0f}"


def _flops(count: float) -> str:
    """With the prefix that leaves one to three digits before the point."""
    for prefix in ("", "k", "M", "G"):
        if count < 1000:
            return f"{count:.3g} {prefix}"
        count /= 1000
    return f"{count:,.3g} T"
