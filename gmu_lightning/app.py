"""Open a page to play with trained runs.

python -m gmu_lightning.app run=RUN[,RUN...]
"""

from gmu_lightning.cli import tasks
from gmu_lightning.cli.command_line import call


def cli() -> None:
    """Serve the page until Ctrl-C.

    Raises SystemExit with 1 after an error, with 130 after Ctrl-C, and with 143 after SIGTERM.
    """
    call(tasks.app)


if __name__ == "__main__":
    cli()
