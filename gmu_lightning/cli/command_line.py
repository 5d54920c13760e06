"""Hand the arguments typed to Hydra, and end any error in one sentence and an exit code."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from gmu_lightning import console
from gmu_lightning.cli.completion import asks_for_completion, completion
from gmu_lightning.cli.help import is_expected, sentence
from gmu_lightning.cli.pages import asks_for_a_page, help_page, version
from gmu_lightning.cli.search_path import FurtherChoices, at_home, use_folders
from gmu_lightning.confidential import holds_secret, is_secret_name, secret_sentence, without_any
from gmu_lightning.config.groups import choices_of, conf_folder, refuse_broken_packages, trusting
from gmu_lightning.config.hydra_versions import base
from gmu_lightning.files import sound
from gmu_lightning.machine import refused_file
from gmu_lightning.movie import UserError
from gmu_lightning.signals import Raises, Terminated, as_interruption, handle
from gmu_lightning.sweep import dry_run
from gmu_lightning.sweep.job import register_resolvers
from gmu_lightning.sweep.rerun import with_choices
from gmu_lightning.sweep.session import Command, Session, Stopped
from gmu_lightning.visible import guarded_streams

logger = logging.getLogger(__name__)
# Values that are paths or free text: they are taken as typed, outside Hydra's grammar and its sweeps.
AS_TYPED = re.compile(
    r"^\+{0,2}(data\.root|data\.separator|store\.dir|hydra\.run\.dir|hydra\.sweep\.dir|run|runs|rerun|trust|input|output|against|remove|predictions|name|"
    r"encoder\.\w+\.(preparation\.)?(?P<weights>name|weights|vectors))=(?P<value>.*)$",
    re.S,
)
MOVIE = re.compile(r"^\+{0,2}movie\.(?P<key>[^=]+)=(?P<value>.*)$", re.S)  # a part of the movie that predict reads, as typed
MEDIA = re.compile(r"movie\.(image|video|audio)=")
QUOTED = re.compile(r"""(['"])(\\.|(?!\1).)*\1""", re.S)  # one string from end to end
DOT_FOR_SLASH = re.compile(r"encoder\.\w+=")
CHOICE = re.compile(r"\+?(?P<group>[\w/]+)(@[\w.:]*)?=")
RERUNS = ("train", "prepare")  # commands that take rerun=RUN
TRUST = "trust="
REMOVABLE = ("callbacks", "logger", "experiment", "hydra", "encoder.", "fusion.", "optimizer.", "scheduler.")


def call(task: Callable[[DictConfig, Session], None]) -> None:
    """Run a task: let Hydra compose the configuration of the task's name, and pass it on. Ends as `run` does.

    With `--help` or `--version` among the arguments, print the command's page or the version instead. For a shell that completes
    a word, print the candidates.
    """
    name = task.__name__

    def command(session: Session) -> None:
        _refuse_broken_packages(name)
        hydra.main(**base(), config_path=str(conf_folder()), config_name=name)(Command(task, name, session))()

    if asks_for_completion(sys.argv[1:]):
        register_plugins()
        for line in completion(name, sys.argv[1:], is_path):
            print(line)
    elif asks_for_a_page(sys.argv[1:]):
        show_page(name, sys.argv[1:])
    else:
        run(command, reads_movie=name == "predict", reruns=name in RERUNS)


def is_path(word: str) -> bool:
    """Return whether the value of an argument, complete or not, is a path."""
    return (AS_TYPED.match(word) is not None and not word.startswith("name=")) or MEDIA.match(word) is not None


def show_page(name: str, typed: Sequence[str]) -> None:
    """Print the version, or the help page of a command. Raises SystemExit with 1 if configuration files are missing or broken."""
    console.settle_in()
    with guarded_streams():
        try:
            if "--version" in typed:
                print(version())
            else:
                _refuse_broken_packages(name)
                print(help_page(name, *use_folders(typed)))
        except UserError as error:
            _exit(1, sentence(error))


def _refuse_broken_packages(command: str) -> None:
    if command != "doctor":  # it lists them
        refuse_broken_packages()


def run(command: Callable[[Session], Any], reads_movie: bool = False, reruns: bool = False) -> None:
    """Run a command on the arguments typed, and return if it succeeds. In the main thread, SIGTERM ends it as Ctrl-C does.

    Control characters in messages are made visible, because names in files are a stranger's.

    Args:
        command: the work.
        reads_movie: whether `movie.KEY=TEXT` arguments are taken out, for `Session.movie`.
        reruns: whether `rerun=RUN` adds the choices of that run to the arguments.

    Raises:
        SystemExit: with 1 after an error or a failed job, with 130 after Ctrl-C, and with 143 after SIGTERM. An error's last line
            on stderr is its reason.
    """
    console.settle_in()
    with guarded_streams(), ends_by_signals():
        _run(command, reads_movie, reruns)


@contextmanager
def ends_by_signals() -> Iterator[None]:
    """Let SIGTERM raise Terminated within the context, and Ctrl-C KeyboardInterrupt.

    Outside the main thread, which alone gets signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = handle(Raises(Terminated), "SIGTERM") | handle(Raises(), "SIGINT")
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(command: Callable[[Session], Any], reads_movie: bool, reruns: bool) -> None:
    full = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra re-raises instead of printing and exiting
    scratch: str | None = None
    session = Session()
    try:
        typed = sys.argv[1:]
        refuse_other_bytes([*typed, f"GMU_STORE={os.environ.get('GMU_STORE', '')}", f"the current folder {current_folder()}"])
        if reads_movie:
            session.movie, typed = movie_in(typed)
        refuse_secrets(typed)
        arguments = [escaped(argument) for argument in typed]
        session.typed = dict(zip(arguments, typed, strict=True))
        refuse_dot_for_slash(arguments)
        refuse_removal(arguments)
        arguments = options_first(arguments)
        arguments, session.config_dir = use_folders(arguments)
        refuse_other_than_names(arguments, session.config_dir)
        trusted = [name for word in typed if word.startswith(TRUST) for name in word.removeprefix(TRUST).split(",")]
        if reruns:
            arguments = options_first(with_choices(arguments, session))
        if "check=true" in (a.lower() for a in arguments):  # a check leaves no files and no folders
            scratch = tempfile.mkdtemp()
            arguments += [f"hydra.sweep.dir={scratch}", f"hydra.run.dir={scratch}"]
        sys.argv[1:] = arguments
        register_plugins()
        with as_interruption(), trusting(trusted):
            command(session)
        dry_run.show(session.checked, session.refused)
        failed = session.end_sweep(interrupted=False)
    except KeyboardInterrupt as signalled:
        _end_sweep(session, interrupted=True)
        _exit(143 if isinstance(signalled, Terminated) else 130, "interrupted")
    except (Exception, Stopped) as stopped:
        error = stopped.error if isinstance(stopped, Stopped) else stopped
        if session.folder is not None and session.planned and session.folder.exists():
            _end_sweep(session, interrupted=False)
        if full or not is_expected(error):
            traceback.print_exception(error)
        _exit(1, sentence(error, session.config_dir))
    else:
        if failed:
            raise SystemExit(1)
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def _end_sweep(session: Session, interrupted: bool) -> None:
    """Write the files of the running sweep. A refused file becomes a warning: the command ends with its first error."""
    try:
        session.end_sweep(interrupted)
    except OSError as error:
        logger.warning("%s", refused_file(error))


def _exit(code: int, line: str) -> None:
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
    raise SystemExit(code)


def movie_in(typed: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return {KEY: text} of the arguments `movie.KEY=TEXT`, and the other arguments.

    Hydra reads neither free text nor keys with blanks, such as those of a table's columns.
    """
    found = [(MOVIE.match(argument), argument) for argument in typed]
    return {part["key"]: part["value"] for part, _ in found if part}, [argument for part, argument in found if not part]


def escaped(argument: str) -> str:
    """Quote an argument that is a path or free text for Hydra's grammar, and expand a leading `~`.

    Other arguments, `null`, hub names and interpolations are returned unchanged. Raises UserError if no home folder is known.
    """
    match = AS_TYPED.match(argument)
    if match is None:
        return argument
    key, value = argument[: match.start("value")], match["value"]
    quoted = QUOTED.fullmatch(value) is not None
    hub_name = match["weights"] == "name" and not value.startswith(("/", "~", ".")) and not Path(value).exists()
    if value in ("", "null", "???") or hub_name or (("${" in value or quoted) and not Path(value).exists()):
        return argument
    path = str(at_home(argument, value)) if value.startswith("~") else value
    text = re.sub(r"\\+(?='|\Z)", lambda run: run[0] * 2, path).replace("'", "\\'")  # a backslash counts only before a quote
    return f"{key}'{text.replace('${', chr(92) + '${')}'"  # a folder of such a name is no interpolation


def current_folder() -> Path:
    """Return the folder that the command was typed in. Raises UserError where it was deleted."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise UserError("the current folder does not exist any more: change to another one and type the command again") from None


def refuse_other_bytes(strings: Sequence[str]) -> None:
    """Refuse strings that UTF-8 cannot hold, because runs write paths and overrides in UTF-8. Raises UserError."""
    for string in strings:
        if sound(string) != string:
            raise UserError(f"{sound(string)} holds bytes that are not UTF-8: rename that file or folder, or give another")


def refuse_secrets(arguments: Sequence[str]) -> None:
    """Refuse arguments that hold a password or a token, because runs record them. Raises UserError, which does not show it."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        if value and (is_secret_name(key) or holds_secret(value)):
            raise UserError(secret_sentence(without_any(key)))
        if not value and holds_secret(argument):
            raise UserError(secret_sentence("an argument"))


def refuse_dot_for_slash(arguments: Sequence[str]) -> None:
    """Refuse `encoder.text=minilm`, which would replace a node by a word. Raises UserError."""
    for argument in arguments:
        group, _, choice = argument.partition("=")
        group = group.replace(".", "/")
        if DOT_FOR_SLASH.match(argument) and (conf_folder() / group).is_dir():
            choices = choices_of(group)
            if choice.split(",")[0] not in choices:
                raise UserError(
                    f"{argument} sets a value where a group is chosen: write {group}=CHOICE, with one of {', '.join(choices)}"
                )
            raise UserError(f"{argument} sets a value where a group is chosen: write {group}={choice} (slash, not dot)")


def refuse_other_than_names(arguments: Sequence[str], config_dir: str | None) -> None:
    """Refuse choices that are no names, such as `fusion=3` or `experiment=null`. Raises UserError.

    Args:
        arguments: in Hydra's grammar, as `escaped` returns them.
        config_dir: the folder of the user's own choices.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep, Glob, QuotedString
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    for argument in arguments:
        match = CHOICE.match(argument)
        choices = choices_of(match["group"], config_dir) if match else []
        if match is None or not (choices or "/" in match["group"]):
            continue
        try:
            value = parser.parse_override(argument).value()
        except HydraException:  # Hydra reports it
            continue
        values = value.list if isinstance(value, ChoiceSweep) else [value]
        names = [name for each in values for name in (each if isinstance(each, list) else [each])]
        if all(isinstance(name, (str, QuotedString, Glob)) and name != "" for name in names):
            continue
        known = f"choices are {', '.join(choices)}, or " if choices else ""
        raise UserError(f"{argument} names no choice: {known}leave the argument out")


def refuse_removal(arguments: Sequence[str]) -> None:
    """Refuse to remove a key, such as `~trainer.progress`. Raises UserError.

    Callbacks, loggers, experiments, `hydra`, and options below an encoder, fusion, optimizer or scheduler may go.
    """
    for argument in arguments:
        key = argument.removeprefix("~").partition("=")[0]
        if argument.startswith("~") and not key.startswith(REMOVABLE):
            raise UserError(f"{argument} takes away what the command needs: give {key} a value instead")


def options_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with Hydra's options, such as `-m`, before the settings.

    Hydra 1.3 reads the settings in one piece only. Raises UserError for an option that Hydra cannot read, such as `--seed=1`, and
    for one by which Hydra would build whatever classes a file names.
    """

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; see --hydra-help for all options")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    known, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        refuse(f"{unknown[0]} is not an option of this command: type settings as key=value, such as seed=1")
    if known.config_path or known.config_name or known.experimental_rerun:
        raise UserError(
            "--config-path, --config-name and --experimental-rerun run whatever code a file names: type rerun=RUN to train the "
            "configuration of a run again, or --config-dir FOLDER for choices of your own"
        )
    options, settings = [], deque(known.overrides)
    for argument in arguments:
        if settings and argument == settings[0]:
            settings.popleft()
        else:
            options.append(argument)
    return [*options, *known.overrides]


def register_plugins() -> None:
    """Register our launchers and sweepers under the module name hydra_plugins, the only one from which Hydra takes them.

    Register our resolvers and the folders of installed packages too.
    """
    from hydra.core.plugins import Plugins

    from gmu_lightning.sweep.launcher import Cartesian, Processes, Stacked
    from gmu_lightning.sweep.ray_launcher import Ray
    from gmu_lightning.sweep.search import Search
    from gmu_lightning.sweep.slurm_launcher import Slurm

    try:
        import hydra_plugins  # noqa: F401
    except ImportError:
        parent = ModuleType("hydra_plugins")
        parent.__path__ = []
        sys.modules["hydra_plugins"] = parent
    module = sys.modules.setdefault("hydra_plugins.gmu_lightning", ModuleType("hydra_plugins.gmu_lightning"))
    for plugin in (Processes, Stacked, Ray, Slurm, Cartesian, Search, FurtherChoices):
        setattr(module, plugin.__name__, plugin)
        plugin.__module__ = module.__name__
        Plugins.instance().register(plugin)
    register_resolvers()
