"""The sweep's own files: status.json and the leaderboard, of whatever its jobs left."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gmu_lightning.files import now, write_json
from gmu_lightning.movie import UserError
from gmu_lightning.report.evidence import check_record
from gmu_lightning.report.fairness import unfair
from gmu_lightning.report.found import readable
from gmu_lightning.report.leaderboard import Row, rows_of, table, write_leaderboard
from gmu_lightning.report.search import FOLDER
from gmu_lightning.report.settings import settings_of
from gmu_lightning.report.verdicts import counted
from gmu_lightning.run import Run, runs_under
from gmu_lightning.sweep.job import INTERRUPTED


def write_sweep(folder: Path, started: str, interrupted: bool = False, waiting: Sequence[Sequence[str]] = ()) -> int:
    """Write the files of a sweep and show its table; how many of the jobs that began since `started` failed.

    A job that is still `running` here was cut off, and is told so.

    Args:
        waiting: overrides of the jobs that never began.
    """
    found, damaged = readable(runs_under(folder), check_record)
    runs = sorted(found, key=lambda run: run.status["started"])
    for run in runs:
        if run.status["state"] == "running":
            run.end(*((INTERRUPTED, INTERRUPTED) if interrupted else ("failed", "its process ended without a word")))
    counts = Counter(run.status["state"] for run in runs)
    counts["failed"] += len(damaged)
    for _, why in damaged:
        print(f"left out: {why}", file=sys.stderr)
    write_json(
        folder / "status.json",
        {
            "state": INTERRUPTED if interrupted else "failed" if counts["failed"] else "finished",
            "why": INTERRUPTED if interrupted else f"{counted(counts['failed'], 'job')} failed" if counts["failed"] else None,
            "started": started,
            "ended": now(),
            "jobs": [*(_job(run) for run in runs), *(_damaged(Path(path), why) for path, why in damaged)],
            "not_begun": [list(overrides) for overrides in waiting],
            **{state: counts[state] for state in ("finished", "failed", INTERRUPTED, "skipped")},
        },
    )
    board, unequal = write_board(runs, folder)
    print("\n".join(filter(None, [table(board), unequal])))
    if interrupted and counts["finished"]:
        print(f"python -m gmu_lightning.compare {_word('runs', folder)} reports what finished", file=sys.stderr)
    elif counts["finished"]:
        _report(runs, folder, board)
    shown = [state for state in ("finished", "failed", INTERRUPTED, "skipped") if state != INTERRUPTED or counts[state]]
    print(f"{folder}: {', '.join(f'{counts[state]} {state}' for state in shown)}")
    if waiting:
        again = f"the same command with {_word('hydra.sweep.dir', folder)} does what is missing"
        missing = "the search is not done" if (folder / FOLDER).exists() else f"{counted(len(waiting), 'job')} not begun"
        print(f"{missing}: {again}", file=sys.stderr)
    return len(damaged) + sum(run.status["state"] == "failed" and run.status["started"] >= started for run in runs)


def write_board(runs: Sequence[Run], folder: Path) -> tuple[list[Row], str | None]:
    """Write leaderboard.csv and .md of these runs, and print what was skipped or failed among them to stderr.

    Returns:
        The rows, and the sentence on what else the settings differ in.
    """
    settings = settings_of(runs)
    board, unequal = rows_of(settings), unfair(settings)
    skipped, failed, interrupted = (_ended_as(state, runs) for state in ("skipped", "failed", INTERRUPTED))
    write_leaderboard(folder, board, skipped, failed, unequal, interrupted)
    for why, count in Counter(why for _, why in skipped).items():
        print(f"skipped, {counted(count, 'job')}: {why}", file=sys.stderr)
    for name, why in failed:
        print(f"failed: {name}: {why}", file=sys.stderr)
    return board, unequal


def _ended_as(state: str, runs: Sequence[Run]) -> list[tuple[str, str]]:
    return [(run.folder.name, str(status["why"])) for run in runs if (status := run.status).get("state") == state]


def _report(runs: list[Run], folder: Path, board: list[dict[str, Any]]) -> None:
    """The comparison and its page, in W&B too if its jobs are. A sweep that is done is not lost by what only tells of it."""
    try:
        from gmu_lightning.experiment.loggers import log_comparison, wandb_of
        from gmu_lightning.sweep.reports import write_comparison

        sound, damaged = readable(runs)
        for _, why in damaged:
            print(f"left out of the report: {why}", file=sys.stderr)
        write_comparison(sound, folder, left=damaged)
        node = wandb_of(run for run in runs if run.status["state"] == "finished")
        if node:
            log_comparison(node, folder, list(board[0]), [list(row.values()) for row in board])
    except Exception as error:
        why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        print(f"no report was made ({why}); python -m gmu_lightning.compare {_word('runs', folder)} tries again", file=sys.stderr)
    else:
        print(folder / "report.html")


def _word(key: str, folder: Path) -> str:
    """`key=folder`, to be typed."""
    return shlex.quote(f"{key}={folder}")


def _damaged(folder: Path, why: str) -> dict[str, object]:
    """The entry of a job whose files cannot be read."""
    return {"folder": folder.name, "overrides": [], "state": "failed", "why": why}


def _job(run: Run) -> dict[str, object]:
    status = run.status
    return {"folder": run.folder.name, "overrides": run.overrides, "state": status["state"], "why": status["why"]}
