"""The closing lines of a sweep: its verdict, the commands that repeat and extend it, and the movies that it used."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Sequence
from statistics import fmean

from gmu_lightning.movie import SPLITS
from gmu_lightning.report.comparison import Comparison
from gmu_lightning.report.page.gates import gates_about
from gmu_lightning.report.reproduce import add_seeds, command
from gmu_lightning.report.search import trial_seed
from gmu_lightning.report.sentences import counted, summary
from gmu_lightning.report.settings import FEWEST_SEEDS
from gmu_lightning.run import Run

WIDTH = 79
MANY_SEEDS = 20  # the most that the closing lines propose for every setting; report.html names the pairs that need more


def closing(comparison: Comparison, skipped: Collection[frozenset[str]] = ()) -> list[str]:
    """Return the lines: verdict, gates, movies, and the commands for the best setting and for more seeds.

    Args:
        skipped: overrides, without seed, of the jobs that the sweep left out.
    """
    best = comparison.settings[0].setting
    seeds, why = missing_seeds(comparison)
    settings = [one.setting for one in comparison.settings]
    took = {one.name: one.finished[-1].metrics["seconds/total"] for one in settings}
    trained = [one for one in settings if took[one.name] is not None]  # adopted predictions have null
    jobs = len(seeds) * sum(len(one.parts) for one in trained)
    return [
        "",
        *textwrap.wrap(f"Verdict: {summary(comparison)}", WIDTH),
        *textwrap.wrap(f"Gates: {gates}" if (gates := gates_about(comparison.settings)) else "", WIDTH),
        *textwrap.wrap(f"Movies: {movies_used(one.setting.finished[-1] for one in comparison.settings)}", WIDTH),
        "",
        f"Rerun the best, {best.name}:",
        f"  {command(best, [int(seed) for seed in best.seeds])}",
        *textwrap.wrap(
            f"{why} ({counted(jobs, 'job')} of about {fmean(took[one.name] for one in trained):.0f} s):" if trained else "", WIDTH
        ),
        *([f"  {add_seeds(trained, seeds, skipped)}"] if trained else []),
        "",
    ]


def missing_seeds(comparison: Comparison) -> tuple[list[int], str]:
    """Return the seeds to add to every setting, at least one, and a clause on their purpose."""
    settings = comparison.settings
    used = [{int(seed) for seed in one.setting.seeds} for one in settings]
    every, fewest = set.union(*used), min(map(len, used))
    open_pairs = [pair for pair in comparison.pairs if not (pair.claimed or pair.same or pair.negligible)]
    needed = [pair.needed for pair in open_pairs if pair.needed is not None and pair.needed <= MANY_SEEDS]
    if fewest < FEWEST_SEEDS and not comparison.splits:
        wanted, why = FEWEST_SEEDS, f"Add the seeds that are missing: {FEWEST_SEEDS} of each setting are the least"
    elif needed and max(needed) > fewest:
        wanted = max(needed)
        why = f"Add seeds to see {len(needed)} of {counted(len(open_pairs), 'difference')} that cannot be claimed yet"
    else:
        wanted, why = fewest + 2, "Add seeds to this sweep"
    held = {trial_seed(one.setting.finished[-1]) for one in settings}
    new: list[int] = []
    candidate = max(every) + 1
    while len(every) + len(new) < wanted:
        new += [] if candidate in held else [candidate]
        candidate += 1
    return [seed for seed in sorted(every) if any(seed not in of_one for of_one in used)] + new, why


def movies_used(runs: Iterable[Run]) -> str:
    """Return a sentence on the movies that runs used and lost, as their audits count them."""
    used, lost = [], []
    for run in runs:
        audit = run.audit
        used.append(tuple(int(audit.get("movies", {}).get(split, 0)) for split in SPLITS))
        lost.append(len({problem["id"] for problem in audit.get("problems", []) if problem["action"] == "removed"}))
    totals = [sum(sizes) for sizes in used]
    each = f" ({', '.join(f'{n:,} {split}' for n, split in zip(used[0], SPLITS, strict=True))})" if len(set(used)) == 1 else ""
    left = "none lost" if not any(lost) else f"{_range(lost)} lost: audit.json in each run names them"
    return f"{_range(totals)} used{each}, {left}."


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
