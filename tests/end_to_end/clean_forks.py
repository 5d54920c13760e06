"""Call functions in forks of a clean process: autograd refuses to work in a fork of a process that has used it."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from typing import Any

from gmu_lightning.signals import Terminated

OWN = ("lightning", "experiment.train", "sweep.job", "data.planted", "data.mmimdb", "encoders.image", "encoders.text")
PRELOADED = [*(f"gmu_lightning.{name}" for name in OWN), "pyarrow.parquet", "pandas", "filelock"]


def started(work: Callable[..., Any], *arguments: Any) -> Any:
    """Start a process that calls `work(*arguments)`, both of which can be pickled. It ends with 0, or as a command would."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)  # without effect once another test has started the server
    process = context.Process(target=_call, args=(work, arguments))
    process.start()
    return process


def exit_code(process: Any) -> int:
    """Wait for a process, and return its exit code; -9 if it was killed."""
    process.join()
    code: int = process.exitcode
    return code


def _call(work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    code = 1
    try:
        work(*arguments)
        code = 0
    except Terminated:
        code = 143
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
