"""List or remove what commands prepared and encoded.

python -m gmu_lightning.store [remove=NAME,NAME] [older_than=DAYS]
"""

from gmu_lightning.cli import tasks
from gmu_lightning.cli.command_line import call


def cli() -> None:
    """List the store's entries, or remove those named on the command line.

    Raises SystemExit with 1 after an error, and with 130 after Ctrl-C.
    """
    call(tasks.store)


if __name__ == "__main__":
    cli()
