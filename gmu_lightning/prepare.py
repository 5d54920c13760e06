"""python -m gmu_lightning.prepare data=mmimdb data.root=PATH"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from gmu_lightning.experiment.conf import conf_folder
from gmu_lightning.sweep import command_line, task


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="prepare")
def main(config: DictConfig) -> None:
    """Read raw data once, audit it, and store what the encoders read."""
    task.past_hydra(task.prepare)(config)


def cli() -> None:
    """The console script."""
    command_line.call(main)


if __name__ == "__main__":
    cli()
