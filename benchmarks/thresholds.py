"""Measure how often equal settings are called different at thresholds tuned on val.

python benchmarks/thresholds.py [--families N] [--val MOVIES,MOVIES]

The statistics are computed without and with the variance of the thresholds. A family is 4 equal settings of 3 seeds on 460 test
movies. It counts if any of its 6 pairs is claimed to differ under Holm's correction.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.report.simulated import MANY_GENRES, false_claims

WORLDS = {"seeds differ": MANY_GENRES, "seeds hardly differ": replace(MANY_GENRES, own_sd=0.2, seed_sd=0.02)}
METRICS = ("f1_micro", "f1_micro@val", "f1_micro@val_per_genre", "f1_macro@val_per_genre")


def main() -> None:
    """Print a line for each world, metric and number of val movies."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--families", type=int, default=300)
    options.add_argument("--val", default="50,235")
    given = options.parse_args()
    print(f"| world | val movies | metric | thresholds as given | their variance included | ({given.families} families)")
    for name, world in WORLDS.items():
        for val in map(int, given.val.split(",")):
            for metric in METRICS:
                shares = [
                    f"{100 * share:.1f} ± {100 * math.sqrt(share * (1 - share) / given.families):.1f} %"
                    for share in false_claims(world, val, given.families, metric)
                ]
                print(" | ".join([f"| {name}", str(val), metric, *shares, ""]), flush=True)


if __name__ == "__main__":
    main()
