"""Train a run, or with -m a sweep.

python -m gmu_lightning.train [-m] data=mmimdb data.root=PATH modalities=text+image fusion=gmu_original
"""

from gmu_lightning.cli import tasks
from gmu_lightning.cli.command_line import call


def cli() -> None:
    """Train the run or sweep typed on the command line.

    Raises SystemExit with 1 after an error, and with 130 after Ctrl-C.
    """
    call(tasks.train)


if __name__ == "__main__":
    cli()
