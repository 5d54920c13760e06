"""List the commands: python -m gmu_lightning."""

import sys
from collections.abc import Sequence

from gmu_lightning.cli.page_contents import PAGES
from gmu_lightning.cli.pages import commands, version


def main(typed: Sequence[str]) -> int:
    """Print the list of commands, or the version for `--version`. Return the exit code: 1 for any other argument."""
    first = typed[0] if typed else "--help"
    if first == "--version":
        print(version())
        return 0
    if first in ("--help", "-h"):
        print(commands())
        return 0
    name = first if first in PAGES else "COMMAND"
    print(f"{first} is not read here: type python -m gmu_lightning.{name}, with a dot", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
