"""The benchmarks, quick ones first: python tests/benchmarks/run.py [NAMES] [--data PATH] [--rounds N] [--out FOLDER]

Names: start_up, comparison, scaling, encoding, fine_tuning, frozen_sweep; without --data those that read real movies are left
out. `gpu` is for a machine with CUDA and runs only where it is named.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.harness import parser, perform

QUICK_FIRST = ("start_up", "comparison", "scaling", "encoding", "fine_tuning", "frozen_sweep")
OF_REAL_MOVIES = ("encoding", "fine_tuning", "frozen_sweep")
NAMED_ONLY = ("gpu",)


def chosen(named: list[str], real: bool) -> list[str]:
    """The benchmarks to run, in their order. Ends the program where a name is none of them."""
    known = (*QUICK_FIRST, *NAMED_ONLY)
    wrong = [name for name in named if name not in known]
    if wrong:
        raise SystemExit(f"{wrong[0]} is no benchmark: choose among {', '.join(known)}")
    if named:
        return [name for name in known if name in named]
    return [name for name in QUICK_FIRST if real or name not in OF_REAL_MOVIES]


def main() -> None:
    """Measure what was asked for."""
    options = parser(__doc__)
    options.add_argument("names", nargs="*", help="which of them; all unless told")
    asked = options.parse_args()
    names = chosen(asked.names, asked.data is not None)
    perform({name: importlib.import_module(f"tests.benchmarks.{name}").measure for name in names}, asked)


if __name__ == "__main__":
    main()
