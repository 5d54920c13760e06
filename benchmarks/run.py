"""Run the benchmarks, quick ones first: python benchmarks/run.py [NAMES] [--data PATH] [--rounds N] [--out FOLDER]

The names are start_up, comparison, scaling, encoding, fine_tuning and frozen_sweep. The last three read real movies and need
--data. `gpu` needs a machine with CUDA and runs only by name.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.harness import parser, perform

QUICK_FIRST = ("start_up", "comparison", "scaling", "encoding", "fine_tuning", "frozen_sweep")
OF_REAL_MOVIES = ("encoding", "fine_tuning", "frozen_sweep")
NAMED_ONLY = ("gpu",)


def chosen(named: list[str], real: bool) -> list[str]:
    """Return the benchmarks to run, in their order. Exits if a name is unknown."""
    known = (*QUICK_FIRST, *NAMED_ONLY)
    wrong = [name for name in named if name not in known]
    if wrong:
        raise SystemExit(f"{wrong[0]} is no benchmark: choose among {', '.join(known)}")
    if named:
        return [name for name in known if name in named]
    return [name for name in QUICK_FIRST if real or name not in OF_REAL_MOVIES]


def main() -> None:
    """Run the benchmarks of the command line."""
    options = parser(__doc__)
    options.add_argument("names", nargs="*", help="benchmarks to run; all by default")
    given = options.parse_args()
    names = chosen(given.names, given.data is not None)
    perform({name: importlib.import_module(f"benchmarks.{name}").measure for name in names}, given)


if __name__ == "__main__":
    main()
