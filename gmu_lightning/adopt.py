"""Turn predictions that were made elsewhere into runs.

python -m gmu_lightning.adopt predictions=FILE name=NAME data=mmimdb data.root=PATH
"""

from gmu_lightning.cli import tasks
from gmu_lightning.cli.command_line import call


def cli() -> None:
    """Adopt the predictions named on the command line.

    Raises SystemExit with 1 after an error, and with 130 after Ctrl-C.
    """
    call(tasks.adopt)


if __name__ == "__main__":
    cli()
