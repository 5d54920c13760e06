"""python -m gmu_lightning.evaluate run=RUN split=test"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from gmu_lightning.experiment.conf import conf_folder
from gmu_lightning.sweep import command_line, task


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="evaluate")
def main(config: DictConfig) -> None:
    """Score a finished run on a split, again or on other data."""
    task.past_hydra(task.evaluate)(config)


def cli() -> None:
    """The console script."""
    command_line.call(main)


if __name__ == "__main__":
    cli()
