"""python -m gmu_lightning.train [-m] data=mmimdb data.root=PATH modalities=text+image fusion=gmu_original"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from gmu_lightning.experiment.conf import conf_folder
from gmu_lightning.sweep import command_line, task


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")
def main(config: DictConfig) -> None:
    """Train one run, or with -m every sensible one of a cross product."""
    task.past_hydra(task.train)(config)


def cli() -> None:
    """The console script."""
    command_line.call(main)


if __name__ == "__main__":
    cli()
