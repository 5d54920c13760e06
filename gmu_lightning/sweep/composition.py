"""The jobs of a sweep, composed: what differs in values alone is composed once, where Hydra composes every job twice."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf, open_dict

from gmu_lightning.sweep.callback import SweepFiles


class Composer:
    """Overrides of a job -> its configuration, as Hydra would compose it.

    Args:
        loader: Hydra's configuration loader.
        master: the sweep's own configuration.
    """

    def __init__(self, loader: Any, master: DictConfig):
        self.loader, self.master = loader, master
        self.parser = OverridesParser.create(config_loader=loader)
        self.composed: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, overrides: Sequence[str], number: int = 0) -> DictConfig:
        """The configuration of one job. Raises what Hydra raises."""
        parsed = self.parser.parse_overrides(list(overrides))
        values = [override for override in parsed if self._sets_a_value(override)]
        rest = tuple(line for line, override in zip(overrides, parsed, strict=True) if override not in values)
        if rest not in self.composed:
            self.composed[rest] = self.loader.load_sweep_config(self.master, list(rest))
        base = self.composed[rest]
        if all(_is_leaf(base, override.key_or_group) for override in values):
            config = deepcopy(base)
            for override in values:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        else:  # Hydra knows how to refuse, or to replace, a node
            config = self.loader.load_sweep_config(self.master, list(overrides))
        with open_dict(config.hydra):
            own = (
                line for line, override in zip(overrides, parsed, strict=True) if not override.key_or_group.startswith("hydra.")
            )
            config.hydra.overrides.task = list(own)
            config.hydra.job.id = config.hydra.job.num = number
            dirname = config.hydra.job.config.override_dirname
            config.hydra.job.override_dirname = get_overrides_dirname(
                overrides=parsed, kv_sep=dirname.kv_sep, item_sep=dirname.item_sep, exclude_keys=list(dirname.exclude_keys)
            )
        return config

    def check(self, batch: Sequence[Sequence[str]]) -> None:
        """Whether all these jobs can be composed. Raises what Hydra raises."""
        for overrides in batch:
            self.compose(overrides)

    def _sets_a_value(self, override: Override) -> bool:
        """Whether it changes one value that is there already, and decides nothing about what else is."""
        key = override.key_or_group
        return (
            override.type == OverrideType.CHANGE
            and override.package is None
            and "/" not in key
            and not key.startswith("hydra")
            and not self.loader.get_group_options(key)
        )


def _is_leaf(config: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return isinstance(node, DictConfig) and name in node and not OmegaConf.is_config(node._get_node(name))


class Cartesian(Sweeper):
    """Hydra's own sweeper of cross products; its check that all jobs can be composed goes through the launcher's composer."""

    def __init__(self, max_batch_size: int | None = None):
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # now: Hydra loads its plugins anew as it starts

        self.basic = BasicSweeper(max_batch_size)

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Called by Hydra."""
        self.basic.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        composer = getattr(self.basic.launcher, "composer", None)
        check = self.basic.validate_batch_is_legal if composer is None else composer.check

        def planned(batch: Sequence[Sequence[str]]) -> None:
            check(batch)
            SweepFiles.plan((None, overrides) for overrides in batch)

        self.basic.validate_batch_is_legal = planned  # type: ignore[method-assign]

    def sweep(self, arguments: list[str]) -> Any:
        """Called by Hydra with what was typed. Raises what Hydra raises."""
        return self.basic.sweep(arguments)
