"""A signal interrupts a process, whatever a library makes of its error."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from gmu_lightning.signals import ENDING, Raises, Terminated, as_interruption, handle


@pytest.fixture(autouse=True)
def before() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (getattr(signal, name) for name in ENDING)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def leave() -> None:
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        sys.exit(1)


def convert() -> None:
    try:
        leave()
    except SystemExit as error:
        raise RuntimeError("not saved") from error


def forget() -> None:
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    raise TypeError("incompatible function arguments")


@pytest.mark.parametrize("library", [leave, convert, forget])
def test_what_a_library_makes_of_a_signal_stays_an_interruption(library: Any) -> None:
    handle(Raises(Terminated), "SIGTERM")
    with pytest.raises(Terminated), as_interruption():
        library()


@pytest.mark.parametrize("library", [leave, convert])
def test_the_context_of_an_error_tells_of_a_signal_to_another_handler(library: Any) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), as_interruption():
        library()


@pytest.mark.parametrize("error", [SystemExit(1), TypeError("incompatible function arguments")])
def test_any_other_error_stays_itself(error: BaseException) -> None:
    handle(Raises(), *ENDING)
    with pytest.raises(type(error)) as raised, as_interruption():
        raise error
    assert raised.value is error


def test_only_pythons_own_handler_of_ctrl_c_is_replaced() -> None:
    handle(Raises(), "SIGINT")
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert handle(Raises(), "SIGINT") == {}
    os.kill(os.getpid(), signal.SIGINT)  # is ignored
