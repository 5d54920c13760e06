"""Prepare and audit a data set before any training.

python -m gmu_lightning.prepare data=mmimdb data.root=PATH
"""

from gmu_lightning.cli import tasks
from gmu_lightning.cli.command_line import call


def cli() -> None:
    """Prepare the data set named on the command line.

    Raises SystemExit with 1 after an error, and with 130 after Ctrl-C.
    """
    call(tasks.prepare)


if __name__ == "__main__":
    cli()
