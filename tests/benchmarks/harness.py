"""What every benchmark shares: variants that take turns, medians and spreads, the machine's own peak, tables.

A benchmark is a module with `measure(asked) -> Report`; `run.py` calls those that are asked for, and each runs alone too.
Ratios count: they are taken round by round, between variants that stood side by side on the machine as it was then.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
GEMM_SIZES = (512, 1024, 2048, 4096)
PACKAGES = ("torch", "pytorch-lightning", "transformers", "timm", "numpy", "hydra-core", "onnxruntime", "openvino")


class Spread(NamedTuple):
    """The middle of some measurements, and how far they lie apart."""

    median: float
    low: float
    high: float
    iqr: float  # third quartile minus first


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value; quartiles as medians of the halves are, by linear interpolation."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 0.0)
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(statistics.median(values), min(values), max(values), third - first)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """`ours` over `theirs`, round by round."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def alternated(variants: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """Every variant once a round (A B A B ...), the order turned round each time, so that load and heat hit all alike."""
    found: dict[str, list[Any]] = {name: [] for name in variants}
    names = list(variants)
    for n in range(rounds):
        for name in names if n % 2 == 0 else reversed(names):
            found[name].append(variants[name]())
    return found


@dataclass
class Asked:
    """What the command line says.

    Attributes:
        data: a folder of real movies in MM-IMDb's layout; None takes generated ones where a benchmark can.
        rounds: how often each variant is measured.
        threads: CPU threads of each variant. With one, CPU seconds are counted, which a busy machine does not change.
        limit: `data.limit` of every run (movies per split, or train/val/test), for a quick look.
        launcher: of sweeps, `hydra/launcher=`.
        words: more words for our own commands.
        out: where the tables go; None prints them alone.
        scratch: where stores and runs go.
    """

    data: Path | None
    rounds: int
    threads: int
    limit: str | None
    launcher: str
    words: list[str]
    out: Path | None
    scratch: Path

    def root(self) -> Path:
        """The real movies. Ends the program where none were given."""
        if self.data is None:
            raise SystemExit("this benchmark reads real movies: give --data PATH, a folder in MM-IMDb's layout")
        return self.data.resolve()

    def run_words(self, limited: bool = True) -> list[str]:
        """Words that every run of ours gets: where it reads and writes, on how many threads, and (`limited`) how many movies."""
        limit = [f"data.limit={self.limit}"] if limited and self.limit else []
        return [f"store.dir={self.scratch / 'store'}", f"trainer.threads={self.threads}", *limit, *self.words]


@dataclass
class Report:
    """A benchmark's result: rows of one table, what is to be known beside it, and every single measurement."""

    name: str
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    def markdown(self, facts: Mapping[str, Any]) -> str:
        """Heading, machine, table, notes."""
        lines = [f"## {self.name}", "", said(facts), "", table(self.rows)]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)]) + "\n"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A markdown table with a column per key, in the order in which they first occur; absent values are empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(shown(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def shown(value: Any) -> str:
    """As it stands in a table: three figures; a spread as `median (low to high, IQR)`."""
    if isinstance(value, Spread):
        low, high, iqr = (shown(float(v)) for v in value[1:])
        return f"{shown(float(value.median))} ({low} to {high}, IQR {iqr})"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else f"{value}"


def machine() -> dict[str, Any]:
    """Name, cores, load, memory, versions and command."""
    cpuinfo, meminfo = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    memory = meminfo.read_text().split()[1] if meminfo.exists() else "0"
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "machine": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "memory_gib": round(int(memory) / 2**20, 1),
        "python": platform.python_version(),
        "versions": versions,
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
    }


def said(facts: Mapping[str, Any]) -> str:
    """The machine in a line or two."""
    text = f"{facts['machine']}, {facts['cores']} cores, load {facts['load']}, {facts['memory_gib']} GiB"
    text += f", torch {facts['versions']['torch']}"
    peaks = facts.get("gemm_gflops")
    if peaks:
        text += "; best square product: " + ", ".join(f"{name} {best:,.0f} GFLOP/s" for name, best in peaks.items())
        text += f" on {facts['threads']} thread(s)"
    return f"{text}.\n`{facts['command']}`"


def seconds_of(threads: int) -> Callable[[], float]:
    """The clock to trust: CPU seconds of the process where it has one thread, seconds of the wall where it has more."""
    return time.process_time if threads == 1 else time.perf_counter


def gemm_gflops(dtype: str, threads: int, sizes: Sequence[int] = GEMM_SIZES, device: str = "cpu") -> dict[int, float]:
    """GFLOP/s of square products of each size: 2 n^3 operations over the best of three times, of one where it takes long."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    clock = seconds_of(threads) if device == "cpu" else time.perf_counter
    wait = (lambda: None) if device == "cpu" else torch.cuda.synchronize
    enough = 2 * 1024**3 if device == "cpu" else 8 * 4096**3
    found = {}
    try:
        for n in sizes:
            a, b = (torch.randn(n, n, device=device).to(getattr(torch, dtype)) for _ in range(2))
            repeats = max(1, enough // n**3)
            best = float("inf")
            for _ in range(
                3 if n < GEMM_SIZES[-1] or device != "cpu" else 1
            ):  # a large one takes seconds, and is its own warm-up
                wait()
                start = clock()
                for _ in range(repeats):
                    a @ b
                wait()
                best = min(best, (clock() - start) / repeats)
            found[n] = 2 * n**3 / best / 1e9
    finally:
        torch.set_num_threads(before)
    return found


def gemm_peaks(threads: int) -> dict[str, float]:
    """Best GFLOP/s over `GEMM_SIZES` in float32 and bfloat16."""
    return {dtype: max(gemm_gflops(dtype, threads).values()) for dtype in ("float32", "bfloat16")}


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark takes."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--data", type=Path, help="a folder of real movies in MM-IMDb's layout")
    found.add_argument("--rounds", type=int, default=5, help="how often each variant is measured (5)")
    found.add_argument("--threads", type=int, default=1, help="CPU threads of each variant (1: CPU seconds are counted)")
    found.add_argument("--limit", help="data.limit of every run, for a quick look")
    found.add_argument("--launcher", default="processes", help="hydra/launcher of sweeps (processes)")
    found.add_argument("--words", default="", help="more words for our own commands, in one pair of quotes")
    found.add_argument("--out", type=Path, help="a folder for NAME.md and NAME.json")
    found.add_argument("--scratch", type=Path, help="a folder for stores and runs; a temporary one unless told")
    return found


def perform(measures: Mapping[str, Callable[[Asked], Report]], options: argparse.Namespace) -> None:
    """Measure each in turn, print its table and, where a folder was named, keep it there with every measurement."""
    if options.rounds < 1 or options.threads < 1:
        raise SystemExit("--rounds and --threads take whole numbers from 1 on")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as temporary:
        scratch = (options.scratch or Path(temporary)).resolve()
        scratch.mkdir(parents=True, exist_ok=True)
        words = shlex.split(options.words)
        asked = Asked(options.data, options.rounds, options.threads, options.limit, options.launcher, words, options.out, scratch)
        for name, measure in measures.items():
            facts, peaks = machine(), gemm_peaks(options.threads)
            report = measure(asked)
            after = gemm_peaks(options.threads)  # beside the run, before and after it: the better one is the machine's
            facts |= {"threads": options.threads, "gemm_gflops": {k: max(v, after[k]) for k, v in peaks.items()}}
            finish(report, facts)
            text = report.markdown(facts)
            print(text, flush=True)
            if asked.out:
                asked.out.mkdir(parents=True, exist_ok=True)
                (asked.out / f"{name}.md").write_text(text, encoding="utf-8")
                kept = {"name": report.name, "facts": facts, "rows": report.rows, "notes": report.notes, "raw": report.raw}
                (asked.out / f"{name}.json").write_text(json.dumps(kept, indent=1, default=str), encoding="utf-8")


def finish(report: Report, facts: Mapping[str, Any]) -> None:
    """Where a row says its model GFLOP/s and dtype, add the share of the machine's own peak (model FLOP/s utilisation)."""
    for row in report.rows:
        rate = row.get("model GFLOP/s")
        if rate is not None:
            row["share of peak"] = f"{rate / facts['gemm_gflops'][row['dtype']]:.1%}"
