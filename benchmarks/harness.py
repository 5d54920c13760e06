"""Shared parts of the benchmarks: alternating variants, medians and spreads, the machine's peak speed, tables.

A benchmark is a module with `measure(options) -> Report`. `run.py` runs several of them, and each also runs as a script.
Ratios are taken round by round, between variants that ran one after the other under the same load.
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

from benchmarks.load import Rounds, Watch, adopt_orphans, others_in, others_in_words

REPOSITORY = Path(__file__).resolve().parents[1]
GEMM_SIZES = (512, 1024, 2048, 4096)
PACKAGES = ("torch", "pytorch-lightning", "transformers", "timm", "numpy", "hydra-core", "openvino")


class Spread(NamedTuple):
    """Median and spread of some measurements."""

    median: float
    low: float
    high: float
    iqr: float  # third quartile minus first


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of one value or more; quartiles are interpolated linearly, with both ends included."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 0.0)
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(statistics.median(values), min(values), max(values), third - first)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return the spread of `ours` / `theirs`, taken round by round."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def alternated(variants: Mapping[str, Callable[[], Any]], rounds: int) -> Rounds:
    """Run every variant once per round, in reversed order every second round (A B B A ...), and return all results.

    Load and heat of the machine thus affect all variants alike. The load of other processes is measured with each result.
    """
    adopt_orphans()
    found = Rounds(variants)
    names = list(variants)
    for n in range(rounds):
        for name in names if n % 2 == 0 else reversed(names):
            with Watch() as watch:
                found[name].append(variants[name]())
            found.others[name].append(watch.share)
    return found


@dataclass
class Options:
    """The options of the command line.

    Attributes:
        data: a folder of real movies in MM-IMDb's layout; None uses generated movies where a benchmark can.
        rounds: number of measurements per variant.
        threads: CPU threads of each variant. One thread is measured in CPU seconds, which other load does not change.
        limit: `data.limit` of every run (movies per split, or train/val/test), for a quick look.
        launcher: `hydra/launcher=` of sweeps.
        words: additional words for our own commands.
        out: folder of the tables; None only prints them.
        scratch: folder of stores and runs.
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
        """Return the folder of real movies. Exits if `--data` is missing."""
        if self.data is None:
            raise SystemExit("this benchmark reads real movies: give --data PATH, a folder in MM-IMDb's layout")
        return self.data.resolve()

    def run_words(self, limited: bool = True) -> list[str]:
        """Return the words of every run of ours: store, threads, additional words, and with `limited` the limit of movies."""
        limit = [f"data.limit={self.limit}"] if limited and self.limit else []
        return [f"store.dir={self.scratch / 'store'}", f"trainer.threads={self.threads}", *limit, *self.words]


@dataclass
class Report:
    """A benchmark's result: rows of one table, notes, and all raw measurements."""

    name: str
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    def markdown(self, facts: Mapping[str, Any]) -> str:
        """Return heading, machine, table and notes as Markdown."""
        lines = [f"## {self.name}", "", machine_lines(facts), "", table(self.rows)]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)]) + "\n"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table with a column per key, in order of first appearance; absent values are empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def cell(value: Any) -> str:
    """Return a value as text for a table: three significant figures; a spread as `median (low to high, IQR)`."""
    if isinstance(value, Spread):
        low, high, iqr = (cell(float(v)) for v in value[1:])
        return f"{cell(float(value.median))} ({low} to {high}, IQR {iqr})"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else f"{value}"


def machine() -> dict[str, Any]:
    """Return the machine's name, cores, load, memory, package versions and the command."""
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


def machine_lines(facts: Mapping[str, Any]) -> str:
    """Return a description of the machine, and the command, in two lines."""
    text = f"{facts['machine']}, {facts['cores']} cores, load {facts['load']}, {facts['memory_gib']} GiB"
    text += f", torch {facts['versions']['torch']}"
    peaks = facts.get("gemm_gflops")
    if peaks:
        text += "; best square product: " + ", ".join(f"{name} {best:,.0f} GFLOP/s" for name, best in peaks.items())
        text += f" on {facts['threads']} thread(s)"
    return f"{text}.\n`{facts['command']}`"


def seconds_of(threads: int) -> Callable[[], float]:
    """Return the clock to use: CPU seconds of the process for one thread, wall time for several threads."""
    return time.process_time if threads == 1 else time.perf_counter


def gemm_gflops(dtype: str, threads: int, sizes: Sequence[int] = GEMM_SIZES, device: str = "cpu") -> dict[int, float]:
    """Return {size n: GFLOP/s of a square product}: 2 n^3 operations over the best of three times (one for the largest)."""
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
            for _ in range(3 if n < GEMM_SIZES[-1] or device != "cpu" else 1):  # a large product takes seconds
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
    """Return the best GFLOP/s over `GEMM_SIZES` in float32 and bfloat16."""
    return {dtype: max(gemm_gflops(dtype, threads).values()) for dtype in ("float32", "bfloat16")}


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--data", type=Path, help="a folder of real movies in MM-IMDb's layout")
    found.add_argument("--rounds", type=int, default=5, help="measurements per variant (5)")
    found.add_argument("--threads", type=int, default=1, help="CPU threads of each variant (1: CPU seconds are counted)")
    found.add_argument("--limit", help="data.limit of every run, for a quick look")
    found.add_argument("--launcher", default="processes", help="hydra/launcher of sweeps (processes)")
    found.add_argument("--words", default="", help="additional words for our own commands, in one pair of quotes")
    found.add_argument("--out", type=Path, help="a folder for NAME.md and NAME.json")
    found.add_argument("--scratch", type=Path, help="a folder for stores and runs; temporary by default")
    return found


def perform(measures: Mapping[str, Callable[[Options], Report]], given: argparse.Namespace) -> None:
    """Run the benchmarks in turn, print their tables, and write tables and raw measurements to `--out` if it is given."""
    if given.rounds < 1 or given.threads < 1:
        raise SystemExit("--rounds and --threads take whole numbers from 1 on")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as temporary:
        scratch = (given.scratch or Path(temporary)).resolve()
        scratch.mkdir(parents=True, exist_ok=True)
        words = shlex.split(given.words)
        options = Options(given.data, given.rounds, given.threads, given.limit, given.launcher, words, given.out, scratch)
        for name, measure in measures.items():
            facts, peaks = machine(), gemm_peaks(options.threads)
            report = measure(options)
            after = gemm_peaks(options.threads)  # the better of the peaks before and after the run counts
            facts |= {"threads": options.threads, "gemm_gflops": {k: max(v, after[k]) for k, v in peaks.items()}}
            finish(report, facts)
            others = others_in(report.raw)
            report.notes.append(others_in_words(others))
            text = report.markdown(facts)
            print(text, flush=True)
            if options.out:
                options.out.mkdir(parents=True, exist_ok=True)
                (options.out / f"{name}.md").write_text(text, encoding="utf-8")
                kept = {"name": report.name, "facts": facts, "rows": report.rows, "notes": report.notes, "raw": report.raw}
                kept["others"] = others
                (options.out / f"{name}.json").write_text(json.dumps(kept, indent=1, default=str), encoding="utf-8")


def finish(report: Report, facts: Mapping[str, Any]) -> None:
    """Add the share of the machine's peak (model FLOP/s utilisation) to rows with model GFLOP/s and a dtype."""
    for row in report.rows:
        rate = row.get("model GFLOP/s")
        if rate is not None:
            row["share of peak"] = f"{rate / facts['gemm_gflops'][row['dtype']]:.1%}"
