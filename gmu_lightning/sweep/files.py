"""Write a sweep's own files from the run folders of its jobs: status.json, the leaderboard and the report."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmu_lightning.files import lease, now, write_json, write_text
from gmu_lightning.movie import UserError
from gmu_lightning.report.caveats import unfair
from gmu_lightning.report.discovery import readable
from gmu_lightning.report.leaderboard import Row, rows, table, write_leaderboard
from gmu_lightning.report.scoring import check_record
from gmu_lightning.report.search import FOLDER
from gmu_lightning.report.sentences import counted
from gmu_lightning.report.settings import ended_as, invalid, is_seed, jobs_of, settings_of, skipped_in, without_folder
from gmu_lightning.run import Run, runs_under
from gmu_lightning.sweep.job import INTERRUPTED

if TYPE_CHECKING:
    from gmu_lightning.report.comparison import Comparison
    from gmu_lightning.report.page.movies import ExampleMovies

logger = logging.getLogger(__name__)


def write_sweep(
    folder: Path,
    started: str,
    interrupted: bool = False,
    waiting: Sequence[Sequence[str]] = (),
    config_dir: str | None = None,
    skipped: Sequence[tuple[Sequence[str], str]] = (),
    asked: Collection[str] = (),
) -> int:
    """Write the files of a sweep and print its table.

    A run that is still `running`, and that no other process holds, becomes `interrupted` if the sweep was interrupted, and
    `failed` otherwise. Of several processes that share the sweep, one at a time writes, so that the last one writes all.

    Args:
        folder: of the sweep.
        started: when the sweep began.
        interrupted: whether Ctrl-C or SIGTERM ended it.
        waiting: overrides of the jobs that never began.
        config_dir: folder of the user's own data sets, for the report; None if there is none.
        skipped: (overrides, reason) of the jobs whose choices do not go together. Those of earlier commands are kept.
        asked: folders of the jobs that the command asked for.

    Returns:
        The number of failed jobs that were asked for or began since `started`, plus the number of runs whose files cannot be
        read.
    """
    with lease(folder / ".writing"):
        return _write_sweep(folder, started, interrupted, waiting, config_dir, skipped, asked)


def _write_sweep(
    folder: Path,
    started: str,
    interrupted: bool,
    waiting: Sequence[Sequence[str]],
    config_dir: str | None,
    skipped: Sequence[tuple[Sequence[str], str]],
    asked: Collection[str],
) -> int:
    found, damaged = readable(runs_under(folder), check_record)
    runs = sorted(found, key=lambda run: run.status["started"])
    for run in (run for run in runs if run.status["state"] == "running"):
        with run.held() as free:  # first, for its process may finish it between a look and the lock
            if free and run.status["state"] == "running":
                run.end(*((INTERRUPTED, INTERRUPTED) if interrupted else ("failed", "its process ended without a word")))
    counts = Counter(run.status["state"] for run in runs)
    counts["failed"] += len(damaged)
    left_out = _skipped(folder, runs, skipped)
    counts["skipped"] += len(left_out)
    for _, why in damaged:
        logger.warning(f"left out: {why}")
    state = INTERRUPTED if interrupted else next((word for word in ("failed", "running") if counts[word]), "finished")
    write_json(
        folder / "status.json",
        {
            "state": state,
            "why": INTERRUPTED if interrupted else f"{counted(counts['failed'], 'job')} failed" if counts["failed"] else None,
            "started": started,
            "ended": now(),
            "jobs": [*(_job(run) for run in runs), *(_damaged(Path(path), why) for path, why in damaged), *left_out],
            "not_begun": [list(overrides) for overrides in waiting],
            **{state: counts[state] for state in ("finished", "failed", INTERRUPTED, "skipped")},
        },
    )
    failed = [run for run in runs if run.status["state"] == "failed"]
    if failed and not interrupted:
        logger.warning(f"{counted(len(failed), 'job')} failed: the same command with retry=failed does what failed again")
    board, unequal = write_board(runs, folder)
    print("\n".join(filter(None, [table(board), unequal])))
    if interrupted and counts["finished"]:
        logger.warning(f"{_compare(folder, config_dir)} reports what finished")
    elif counts["finished"]:
        _report(runs, folder, board, left_out, config_dir)
    shown = [state for state in ("finished", "failed", INTERRUPTED, "skipped") if state != INTERRUPTED or counts[state]]
    print(f"{folder}: {', '.join(f'{counts[state]} {state}' for state in shown)}")
    if waiting:
        again = f"the same command with {_word('hydra.sweep.dir', folder)} does what is missing"
        missing = "the search is not done" if (folder / FOLDER).exists() else f"{counted(len(waiting), 'job')} not begun"
        logger.warning(f"{missing}: {again}")
    mine = [run for run in failed if run.status["started"] >= started or str(run.folder.absolute()) in asked]
    return len(damaged) + len(mine)


def write_board(runs: Sequence[Run], folder: Path) -> tuple[list[Row], str | None]:
    """Write leaderboard.csv and .md of these runs, and print the skipped and the failed ones to stderr.

    Returns:
        The rows, and a sentence on unequal settings; None if the settings differ only in the columns shown.
    """
    settings = settings_of(runs)
    board, unequal = rows(settings), unfair(settings)
    skipped, failed, interrupted = (ended_as(state, runs) for state in ("skipped", "failed", INTERRUPTED))
    skipped = skipped or skipped_in([folder])
    write_leaderboard(folder, board, skipped, failed, unequal, interrupted)
    if skipped:
        others = sum(run.status.get("state") != "skipped" for run in runs)
        logger.warning(f"{invalid(len(skipped), len(skipped) + others)}: leaderboard.md lists {_them(skipped)}")
    for why in dict.fromkeys(why for _, why in skipped) if not board else ():
        logger.warning(why)
    for name, why in failed:
        logger.warning(f"failed: {name}: {why}")
    return board, unequal


def _report(
    runs: list[Run], folder: Path, board: list[dict[str, Any]], skipped: Sequence[dict[str, Any]], config_dir: str | None
) -> None:
    """Write the comparison and its page, to W&B too if the jobs log there, and print the closing lines.

    An error becomes a warning, because the runs are complete.

    Args:
        skipped: entries of status.json.
    """
    try:
        from gmu_lightning.experiment.loggers import log_comparison, wandb_of
        from gmu_lightning.report.closing import closing

        sound, damaged = readable(runs)
        for _, why in damaged:
            logger.warning(f"left out of the report: {why}")
        comparison = write_comparison(sound, folder, left=damaged, config_dir=config_dir)
        overrides = [*(job["overrides"] for job in skipped), *(run.overrides for run in runs if run.status["state"] == "skipped")]
        words = [frozenset(word for word in of_job if not is_seed(word)) for of_job in overrides]
        print("\n".join(closing(comparison, words)))
        node = wandb_of(run for run in runs if run.status["state"] == "finished")
        if node:
            log_comparison(node, folder, list(board[0]), [list(row.values()) for row in board])
    except Exception as error:
        why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        logger.warning(f"no report was made ({why}); {_compare(folder, config_dir)} tries again")
    else:
        print(f"Open {folder / 'report.html'}")


def write_comparison(
    runs: Sequence[Run],
    folder: Path,
    metric: str = "auto",
    against: str | None = None,
    left: Sequence[tuple[str, str]] = (),
    config_dir: str | None = None,
) -> Comparison:
    """Write comparison.json and .md, checklist.json and .md, leaderboard.tex and report.html. Return the comparison.

    With `config_dir`, the page shows movies of the data sets whose classes stand there.

    Raises:
        UserError: the metric or `against` is none, none of the runs finished, or the folder cannot be made.
    """
    from gmu_lightning.report.checklist.items import checklist, write_checklist
    from gmu_lightning.report.comparison import compare
    from gmu_lightning.report.leaderboard import latex
    from gmu_lightning.report.page.write import page
    from gmu_lightning.report.sentences import write

    comparison = compare(runs, metric, against, left)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={folder} cannot be written to ({error}): give another folder") from error
    write(comparison, folder)
    items = checklist(comparison, folder)
    write_checklist(items, folder)
    write_text(folder / "leaderboard.tex", latex(comparison))
    write_text(folder / "report.html", page(comparison, runs, _shown(comparison, config_dir), items))
    return comparison


def _shown(comparison: Comparison, config_dir: str | None) -> ExampleMovies:
    """Return plots and posters for the page; empty, with a warning, if the data can no longer be read."""
    from gmu_lightning.experiment.prepare import read_examples
    from gmu_lightning.report.page.movies import ExampleMovies, chosen_movies

    try:
        known = [one.setting for one in comparison.alike if not one.setting.is_adopted]
        run = (known or [comparison.settings[0].setting])[0].finished[0]
        return read_examples(run, chosen_movies(comparison), config_dir)
    except (UserError, OSError) as reason:
        logger.warning(f"the report shows no movies: {reason}")
    except Exception as reason:  # a stranger's configuration or data may fail in any way, and the comparison does not need them
        logger.warning(f"the report shows no movies ({type(reason).__name__}: {reason})")
    return ExampleMovies()


def _compare(folder: Path, config_dir: str | None) -> str:
    """Return the command that compares a sweep's runs."""
    own = f"--config-dir {shlex.quote(config_dir)} " if config_dir else ""
    return f"python -m gmu_lightning.compare {own}{_word('runs', folder)}"


def _word(key: str, folder: Path) -> str:
    """Return `key=folder`, quoted for a shell."""
    return shlex.quote(f"{key}={folder}")


def _damaged(folder: Path, why: str) -> dict[str, object]:
    """Return the entry in status.json of a run whose files cannot be read."""
    return {"folder": folder.name, "overrides": [], "state": "failed", "why": why}


def _them(things: Sequence[object]) -> str:
    return "it" if len(things) == 1 else "them"


def _skipped(folder: Path, runs: Sequence[Run], now: Sequence[tuple[Sequence[str], str]]) -> list[dict[str, Any]]:
    """Return the entries in status.json of skipped jobs: those of this command, and those that status.json listed before.

    An entry is dropped if a run has its overrides by now.
    """
    entries: list[dict[str, Any]] = [
        {"folder": None, "overrides": list(overrides), "state": "skipped", "why": why} for overrides, why in now
    ]
    once = {tuple(sorted(entry["overrides"])): entry for entry in (*without_folder(jobs_of(folder)), *entries)}
    done = {tuple(sorted(run.overrides)) for run in runs} if once else set()
    return [entry for overrides, entry in once.items() if overrides not in done]


def _job(run: Run) -> dict[str, object]:
    status = run.status
    return {"folder": run.folder.name, "overrides": run.overrides, "state": status["state"], "why": status["why"]}
