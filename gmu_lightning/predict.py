"""Predict new movies with a trained run.

python -m gmu_lightning.predict run=RUN movie.text="A boy, a dog and the sea." movie.image=poster.jpg
"""

from gmu_lightning.cli import tasks
from gmu_lightning.cli.command_line import call


def cli() -> None:
    """Predict the movies named on the command line.

    Raises SystemExit with 1 after an error, and with 130 after Ctrl-C.
    """
    call(tasks.predict)


if __name__ == "__main__":
    cli()
