"""Compare the settings in folders of runs and sweeps.

python -m gmu_lightning.compare runs=FOLDER,FOLDER metric=f1_micro
"""

from gmu_lightning.cli import tasks
from gmu_lightning.cli.command_line import call


def cli() -> None:
    """Compare the runs named on the command line.

    Raises SystemExit with 1 after an error, and with 130 after Ctrl-C.
    """
    call(tasks.compare)


if __name__ == "__main__":
    cli()
