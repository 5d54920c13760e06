"""Export a trained run as a folder that predicts anywhere.

python -m gmu_lightning.export run=RUN output=FOLDER
"""

from gmu_lightning.cli import tasks
from gmu_lightning.cli.command_line import call


def cli() -> None:
    """Export the run named on the command line.

    Raises SystemExit with 1 after an error, and with 130 after Ctrl-C.
    """
    call(tasks.export)


if __name__ == "__main__":
    cli()
