"""Write a sweep's W&B workspace and report.

python -m gmu_lightning.dashboard runs=SWEEP mode=online
"""

from gmu_lightning.cli import tasks
from gmu_lightning.cli.command_line import call


def cli() -> None:
    """Write the dashboard of the sweep named on the command line.

    Raises SystemExit with 1 after an error, and with 130 after Ctrl-C.
    """
    call(tasks.dashboard)


if __name__ == "__main__":
    cli()
