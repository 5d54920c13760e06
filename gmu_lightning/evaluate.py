"""Score a finished run again.

python -m gmu_lightning.evaluate run=RUN split=test
"""

from gmu_lightning.cli import tasks
from gmu_lightning.cli.command_line import call


def cli() -> None:
    """Score the run named on the command line.

    Raises SystemExit with 1 after an error, and with 130 after Ctrl-C.
    """
    call(tasks.evaluate)


if __name__ == "__main__":
    cli()
