"""The only places where Hydra 1.3 and 1.4, or OmegaConf 2.3 and 2.4, differ for this package."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from pkgutil import resolve_name
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict


def base() -> dict[str, str]:
    """Return the arguments that ask Hydra for its defaults of 1.3 on; 1.4 has them, and warns of the argument."""
    import hydra

    return {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}


def register_resolver(name: str, function: Callable[..., Any]) -> None:
    """Register `${name:}` with OmegaConf, in place of an earlier resolver of that name."""
    newer = "replace" in inspect.signature(OmegaConf.register_resolver).parameters  # in 2.3 another function has that name
    register: Any = OmegaConf.register_resolver if newer else OmegaConf.register_new_resolver
    register(name, function, replace=True)


def instantiate(node: Mapping[str, Any], **options: Any) -> Any:
    """Return `hydra.utils.instantiate(node, **options)`.

    Hydra 1.4 takes a list of the classes that the node may name. A user may name any class. A stranger's configuration has
    been checked as it was read (`config.groups.checked_as_data`). So the list holds the classes that the node names.
    """
    from hydra.utils import instantiate as make

    if "_execution_whitelist_" in inspect.signature(make).parameters:
        options["_execution_whitelist_"] = list(_targets(node))
    return make(node, **options)


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            name = str(node["_target_"])
            made = resolve_name(name)
            yield from (name, f"{made.__module__}.{made.__qualname__}")  # Hydra looks for the second
        node = list(node.values())
    if isinstance(node, list | tuple):
        for inner in node:
            yield from _targets(inner)


def name_overrides(config: DictConfig, parsed: Any) -> None:
    """Set `hydra.job.override_dirname` of a composed job for its parsed overrides; Hydra 1.4 computes it as it is read."""
    try:
        from hydra._internal.config_loader_impl import get_overrides_dirname
    except ImportError:
        return
    with open_dict(config.hydra):
        job, of = config.hydra.job, config.hydra.job.config.override_dirname
        job.override_dirname = get_overrides_dirname(
            overrides=parsed, kv_sep=of.kv_sep, item_sep=of.item_sep, exclude_keys=list(of.exclude_keys)
        )
