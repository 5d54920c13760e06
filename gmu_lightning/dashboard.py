"""python -m gmu_lightning.dashboard runs=SWEEP mode=online"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from gmu_lightning.experiment.conf import conf_folder
from gmu_lightning.sweep import command_line, task


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="dashboard")
def main(config: DictConfig) -> None:
    """Write a sweep's W&B workspace and report."""
    task.past_hydra(task.dashboard)(config)


def cli() -> None:
    """The console script."""
    command_line.call(main)


if __name__ == "__main__":
    cli()
