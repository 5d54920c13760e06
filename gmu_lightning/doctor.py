"""Check this machine.

python -m gmu_lightning.doctor [store.dir=PATH] [output=FOLDER] [hub=true]
"""

from gmu_lightning.cli import tasks
from gmu_lightning.cli.command_line import call


def cli() -> None:
    """Check this machine.

    Raises SystemExit with 1 after an error or where something is wrong, and with 130 after Ctrl-C.
    """
    call(tasks.doctor)


if __name__ == "__main__":
    cli()
