"""A comparison with all its files: what `compare` writes, and every sweep at its end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from gmu_lightning.files import write_text
from gmu_lightning.movie import UserError
from gmu_lightning.report.comparison import Comparison, compare
from gmu_lightning.report.latex import latex
from gmu_lightning.report.markdown import write
from gmu_lightning.report.page.movies import chosen_movies
from gmu_lightning.report.page.shown import Shown
from gmu_lightning.report.page.write import write_page
from gmu_lightning.run import Run


def write_comparison(
    runs: Sequence[Run],
    folder: Path,
    metric: str = "f1_micro",
    against: str | None = None,
    left: Sequence[tuple[str, str]] = (),
) -> Comparison:
    """comparison.json and .md, leaderboard.tex and report.html of these runs.

    Raises:
        UserError: the metric or `against` is none, none of the runs finished, or the folder cannot be made.
    """
    comparison = compare(runs, metric, against, left)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={folder} cannot be written to ({error}): give another folder") from error
    write(comparison, folder)
    write_text(folder / "leaderboard.tex", latex(comparison))
    write_page(comparison, runs, folder, _shown(comparison))
    return comparison


def _shown(comparison: Comparison) -> Shown:
    """Plots and posters, if the data are still where the runs found them."""
    from gmu_lightning.experiment.shown import shown_of

    try:
        return shown_of(comparison.settings[0].setting.finished[0], chosen_movies(comparison))
    except (UserError, OSError) as reason:
        print(f"the report shows no movies: {reason}", file=sys.stderr)
    except Exception as reason:  # a stranger's configuration or data may fail in any way, and the comparison does not need them
        print(f"the report shows no movies ({type(reason).__name__}: {reason})", file=sys.stderr)
    return Shown()
