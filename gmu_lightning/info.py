"""List the choices of every group, and where their weights are.

python -m gmu_lightning.info [group=fusion]
"""

from gmu_lightning.cli import tasks
from gmu_lightning.cli.command_line import call


def cli() -> None:
    """List the choices of every group, and where their weights are.

    Raises SystemExit with 1 after an error, and with 130 after Ctrl-C.
    """
    call(tasks.info)


if __name__ == "__main__":
    cli()
