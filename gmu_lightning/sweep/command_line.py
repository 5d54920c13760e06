"""From what a user typed to Hydra, and from whatever goes wrong to one sentence and an exit code."""

from __future__ import annotations

import difflib
import errno
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from gmu_lightning.experiment.conf import choices_of, conf_folder
from gmu_lightning.files import sound
from gmu_lightning.movie import UserError
from gmu_lightning.sweep import console
from gmu_lightning.sweep.callback import SweepFiles
from gmu_lightning.sweep.plan import Plans
from gmu_lightning.sweep.task import TYPED, Stopped, register_resolvers
from gmu_lightning.visible import guarded_streams

# Values that are paths or free text: taken as typed, never as Hydra's grammar, and never swept over.
AS_TYPED = re.compile(
    r"^\+{0,2}(data\.root|store\.dir|hydra\.run\.dir|hydra\.sweep\.dir|run|runs|output|against|"
    r"encoder\.\w+\.(preparation\.)?(?P<weights>name|weights|vectors))=(?P<value>.*)$",
    re.S,
)
QUOTED = re.compile(r"""(['"])(\\.|(?!\1).)*\1""", re.S)  # one string from end to end
REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR)
HOW = "give a folder that this user may write to, on a disk with room"
DOT_FOR_SLASH = re.compile(r"^(data|encoder\.\w+|fusion|loss|optimizer|scheduler|trainer|callbacks|logger|experiment)=")
REMOVABLE = ("callbacks", "logger", "experiment", "hydra", "encoder.", "fusion.", "optimizer.", "scheduler.")


def call(command: Callable[[], Any]) -> None:
    """Run a command that `hydra.main` made; the process exits with 0, 1 or 130, and the last line on stderr says why.

    Control characters in what it prints are shown, for names in files are a stranger's.
    """
    console.settle_in()
    with guarded_streams():
        _call(command)


def _call(command: Callable[[], Any]) -> None:
    full = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra re-raises instead of printing and exiting
    scratch: str | None = None
    try:
        typed = sys.argv[1:]
        refuse_other_bytes([*typed, f"GMU_STORE={os.environ.get('GMU_STORE', '')}", f"the current folder {Path.cwd()}"])
        arguments = [escaped(argument) for argument in typed]
        TYPED.update(zip(arguments, typed, strict=True))
        refuse_dot_for_slash(arguments)
        refuse_removal(arguments)
        if "check=true" in (a.lower() for a in arguments):  # nothing is left behind, not even an empty folder
            scratch = tempfile.mkdtemp()
            arguments += [f"hydra.sweep.dir={scratch}", f"hydra.run.dir={scratch}"]
        sys.argv[1:] = arguments
        register_plugins()
        command()
        Plans.show()
        failed = SweepFiles.end(interrupted=False)
    except KeyboardInterrupt:
        _end_sweep(interrupted=True)
        _exit(130, "interrupted")
    except (Exception, Stopped) as stopped:
        error = stopped.error if isinstance(stopped, Stopped) else stopped
        if SweepFiles.current is not None and SweepFiles.planned and SweepFiles.current[0].exists():
            _end_sweep(interrupted=False)
        if full or not (_refused(error) or isinstance(_cause(error), (UserError, HydraException, OmegaConfBaseException))):
            traceback.print_exception(error)
        _exit(1, sentence(error))
    else:
        if failed:
            raise SystemExit(1)
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def _end_sweep(interrupted: bool) -> None:
    """The files of the sweep that is running; where they cannot be written either, what stopped it is told all the same."""
    try:
        SweepFiles.end(interrupted)
    except OSError as error:
        print(_refusal(error), file=sys.stderr)


def _exit(code: int, line: str) -> None:
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
    raise SystemExit(code)


def escaped(argument: str) -> str:
    """A path or free text, quoted for Hydra's grammar, `~` expanded; any other argument as it is."""
    match = AS_TYPED.match(argument)
    if match is None:
        return argument
    key, value = argument[: match.start("value")], match["value"]
    quoted = QUOTED.fullmatch(value) is not None
    hub_name = match["weights"] == "name" and not value.startswith(("/", "~", ".")) and not Path(value).exists()
    if value in ("", "null", "???") or hub_name or (("${" in value or quoted) and not Path(value).exists()):
        return argument
    path = str(_at_home(argument, value)) if value.startswith("~") else value
    text = re.sub(r"\\+(?='|\Z)", lambda run: run[0] * 2, path).replace("'", "\\'")  # a backslash counts only before a quote
    return f"{key}'{text.replace('${', chr(92) + '${')}'"  # a folder of such a name is no interpolation


def _at_home(argument: str, value: str) -> Path:
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise UserError(
            f"{argument}: no home folder is known for {value.split('/', maxsplit=1)[0]}, so give the whole path"
        ) from None


def refuse_other_bytes(strings: Sequence[str]) -> None:
    """Refuse what UTF-8 cannot hold: every run writes its paths and overrides to files in UTF-8. Raises UserError."""
    for string in strings:
        if sound(string) != string:
            raise UserError(f"{sound(string)} holds bytes that are not UTF-8: rename that file or folder, or give another")


def refuse_dot_for_slash(arguments: Sequence[str]) -> None:
    """`encoder.text=minilm` would silently replace a node by a word. Raises UserError."""
    for argument in arguments:
        match = DOT_FOR_SLASH.match(argument)
        if match is None:
            continue
        node, value = argument.split("=", 1)
        group = node.replace(".", "/")
        if "." in node and (conf_folder() / group).is_dir():
            choices = choices_of(group)
            if value.split(",")[0] not in choices:
                raise UserError(
                    f"{argument} sets a value where a group is chosen: write {group}=CHOICE, with one of {', '.join(choices)}"
                )
            raise UserError(f"{argument} sets a value where a group is chosen: write {group}={value} (slash, not dot)")


def refuse_removal(arguments: Sequence[str]) -> None:
    """`~trainer.progress` would take away what every run reads; what goes to a constructor has a default. Raises UserError."""
    for argument in arguments:
        key = argument.removeprefix("~").partition("=")[0]
        if argument.startswith("~") and not key.startswith(REMOVABLE):
            raise UserError(f"{argument} takes away what the command needs: give {key} a value instead")


def register_plugins() -> None:
    """Hydra takes launchers and sweepers from modules named hydra_plugins alone: give ours that name."""
    from hydra.core.plugins import Plugins

    from gmu_lightning.sweep.composition import Cartesian
    from gmu_lightning.sweep.launcher import Processes
    from gmu_lightning.sweep.search import Search
    from gmu_lightning.sweep.stacked import Stacked

    try:
        import hydra_plugins  # noqa: F401
    except ImportError:
        parent = ModuleType("hydra_plugins")
        parent.__path__ = []
        sys.modules["hydra_plugins"] = parent
    module = sys.modules.setdefault("hydra_plugins.gmu_lightning", ModuleType("hydra_plugins.gmu_lightning"))
    for plugin in (Processes, Stacked, Cartesian, Search):
        setattr(module, plugin.__name__, plugin)
        plugin.__module__ = module.__name__
        Plugins.instance().register(plugin)
    register_resolvers()


def sentence(error: BaseException) -> str:
    """One sentence for the person who typed the command."""
    cause = _cause(error)
    text = " ".join(str(cause).split())
    if isinstance(cause, UserError):
        return text
    if isinstance(cause, OSError) and _refused(cause):
        return _refusal(cause)
    if isinstance(cause, MissingMandatoryValue):
        return f"a value is missing: give {cause.full_key}=VALUE on the command line"
    missing = re.search(r"Could not find '([^']+)/([^/']+)'", text)
    if isinstance(cause, MissingConfigException) and missing:
        group, choice = missing.groups()
        return f"{group}={choice} is no choice: {_near(choice, choices_of(group))}"
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        key = unknown.group(1)
        lacking = _lacking(key)
        if lacking:
            return lacking
        return f"{key} is no key of the configuration: {_near(key, [known for known in known_keys() if known != key])}"
    if isinstance(cause, OverrideParseException):
        return f"an argument does not follow key=value: {text.split(' See https')[0]}"
    if isinstance(cause, (ConfigCompositionException, ConfigKeyError, HydraException, OmegaConfBaseException)):
        return f"the configuration cannot be composed: {text}"
    return f"{type(cause).__name__}: {text}"


def _lacking(key: str) -> str | None:
    """Return a sentence on a key that some choices of its group have and the chosen one lacks; None for other keys."""
    group = key.rpartition(".")[0].replace(".", "/")
    having = (
        [choice for choice in choices_of(group) if _has(group, choice, key)] if group and not group.startswith("hydra") else []
    )
    if not having:
        return None
    typed = next((word.split("=", 1)[1].split(",") for word in sys.argv if word.startswith(f"{group}=")), [])
    lacking = [choice for choice in typed if choice not in having]
    chosen = " and ".join(f"{group}={choice}" for choice in lacking) or f"the {group} chosen here"
    others = " or ".join(f"{group}={choice}" for choice in having)
    return f"{key} is no key of {chosen}: leave out one of the two, or choose {others}, with this key"


def _has(group: str, choice: str, key: str) -> bool:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        found: dict[str, Any] = OmegaConf.to_container(compose(f"{group}/{choice}"), resolve=False)  # type: ignore[assignment]
    return key in _flat(found)


def _refused(error: BaseException) -> bool:
    """Whether the machine refused a file, which is no bug: rights, a full disk, a file where a folder was meant."""
    cause = _cause(error)
    return isinstance(cause, OSError) and cause.errno in REFUSALS


def _refusal(error: OSError) -> str:
    if isinstance(error.filename, str) and Path(error.filename).exists() and not os.access(error.filename, os.R_OK):
        return f"{error.filename} cannot be read ({error.strerror}): give this user the right to read it, or name another file"
    return f"{error.filename or 'a file'} cannot be written or read ({error.strerror}): {HOW}"


def _cause(error: BaseException) -> BaseException:
    """The user's mistake within what Hydra and OmegaConf wrapped around it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, UserError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return error


def _near(word: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, names, n=2, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?" + (f" Choices are {', '.join(names)}" if len(names) < 20 else "")
    return f"choices are {', '.join(names)}" if len(names) < 20 else "see --cfg job for all keys"


def known_keys() -> list[str]:
    """Every key that the default configurations and the encoders' files have, and every group."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        defaults = [
            OmegaConf.to_container(compose(command), resolve=False) for command in ("train", "evaluate", "compare", "dashboard")
        ]
    chosen = (("encoder/*/*.yaml", "encoder.{}."), ("hydra/launcher/*.yaml", "hydra.{}."), ("sweep/*.yaml", "hydra."))
    of_choices = {
        f"{prefix.format(path.parent.name)}{key}"
        for pattern, prefix in chosen
        for path in conf_folder().glob(pattern)
        for key in _flat(yaml.safe_load(path.read_text()))
    }
    groups = [str(p.relative_to(conf_folder())) for p in conf_folder().rglob("*") if p.is_dir()]
    return sorted({*groups, *of_choices, *(key for config in defaults for key in _flat(config))})


def _flat(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    names = [f"{prefix}{key}" for key in node]
    return names + [name for key, value in node.items() for name in _flat(value, f"{prefix}{key}.")]
