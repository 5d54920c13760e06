"""python -m gmu_lightning.compare runs=FOLDER,FOLDER metric=f1_micro"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from gmu_lightning.experiment.conf import conf_folder
from gmu_lightning.sweep import command_line, task


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="compare")
def main(config: DictConfig) -> None:
    """Say which settings are better, and which cannot be told apart."""
    task.past_hydra(task.compare)(config)


def cli() -> None:
    """The console script."""
    command_line.call(main)


if __name__ == "__main__":
    cli()
