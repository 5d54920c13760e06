"""A network cut in two: what enters one of its modules, and the network going on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

FIRST = "hidden_states"  # what the transformers library calls a layer's first argument, where it names it


class _Reached(Exception):
    def __init__(self, hidden: Any):
        super().__init__("the module that was asked for is reached")
        self.hidden = hidden


def entering(module: nn.Module, run: Callable[[], Any]) -> Tensor:
    """The first argument that a module gets when `run()` is called, which goes no further.

    Raises:
        ValueError: the module is never called, or not with one tensor.
    """

    def stop(_: nn.Module, given: tuple, named: dict[str, Any]) -> None:
        raise _Reached(given[0] if given else named[FIRST])

    handle = module.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        run()
    except _Reached as reached:
        if isinstance(reached.hidden, Tensor):
            return reached.hidden
        raise ValueError("the first block that is trained takes more than one tensor") from None
    finally:
        handle.remove()
    raise ValueError("the first block that is trained is never called by itself")


@contextmanager
def entered_with(module: nn.Module, hidden: Tensor) -> Iterator[None]:
    """While inside, the module's first argument is `hidden`, whatever it is called with."""

    def put(_: nn.Module, given: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return ((hidden, *given[1:]), named) if given else (given, named | {FIRST: hidden})

    handle = module.register_forward_pre_hook(put, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def skipped(modules: Sequence[nn.Module]) -> Iterator[None]:
    """While inside, these modules compute nothing.

    They hand on what they got, as the first of several outputs: whoever takes an output for a tensor hands that on as well.
    """

    def handed_on(*given: Any, **named: Any) -> tuple[Any]:
        return (given[0] if given else named[FIRST],)

    for module in modules:
        module.forward = handed_on
    try:
        yield
    finally:
        for module in modules:
            del module.forward  # the class's own shows again
