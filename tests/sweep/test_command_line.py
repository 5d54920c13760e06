"""What a user types arrives as it was typed, and whatever goes wrong ends in one sentence."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from gmu_lightning.experiment.conf import conf_folder
from gmu_lightning.movie import UserError
from gmu_lightning.sweep import command_line
from gmu_lightning.sweep.callback import SweepFiles
from gmu_lightning.sweep.command_line import call, escaped, refuse_dot_for_slash, refuse_removal, register_plugins, sentence

PARSER = OverridesParser.create()
PATH_KEYS = ("data.root", "store.dir", "hydra.run.dir", "hydra.sweep.dir", "run", "runs", "output", "encoder.text.weights")
AWKWARD = [
    "a folder/with spaces",
    " leading and trailing ",
    "x=1,y=2",
    "films (copy)",
    "a,b",
    "a, b",
    "it's",
    "'quoted' at its start",
    "'a','b'",
    '"a","b"',
    'say "hi"',
    "back\\slash",
    "trailing\\",
    "trailing\\\\",
    "\\",
    "\\'",
    "a\\'b\\\\'c",
    "'",
    "half~way",
    "[1",
    "{a: b}",
    "key:value",
    "choice(1,2)",
    "range(3)",
    "glob(*)",
    "7",
    "true",
    "null.d",
    "#1",
    "50%",
    "$HOME",
    "été/ü",
    "*",
]


def arrives(argument: str) -> str:
    """The value that Hydra takes an escaped argument for."""
    override = PARSER.parse_override(escaped(argument))
    assert not override.is_sweep_override()
    value = override.value()
    assert isinstance(value, str)
    return value


@pytest.mark.parametrize("path", AWKWARD)
def test_a_path_arrives_as_it_was_typed_and_is_never_swept_over(path):
    assert arrives(f"data.root={path}") == path


@settings(deadline=None, derandomize=True, database=None)
@given(st.text(alphabet=" ab/\\'\"=,()[]:~.é$%", min_size=1).filter(lambda path: path[0] not in "~'\""))
def test_so_does_any_other(path):
    assert arrives(f"run={path}") == path


def test_a_folder_named_like_an_interpolation_is_a_folder(tmp_path, monkeypatch):
    (tmp_path / "a${seed} b").mkdir()
    monkeypatch.chdir(tmp_path)
    value = PARSER.parse_override(escaped("runs=a${seed} b")).value()
    assert OmegaConf.create({"seed": 1, "runs": value}).runs == "a${seed} b"
    value = PARSER.parse_override(escaped("runs=b${seed}")).value()
    assert OmegaConf.create({"seed": 1, "runs": value}).runs == "b1"


@pytest.mark.parametrize(
    "key", [*PATH_KEYS, "+data.root", "++store.dir", "encoder.image.vectors", "encoder.video.preparation.weights"]
)
def test_every_key_that_is_a_path_is_taken_as_typed(key):
    override = PARSER.parse_override(escaped(f"{key}=a (b), c=d"))
    assert override.key_or_group == key.lstrip("+")
    assert override.value() == "a (b), c=d"


def test_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/o'neill, (him)")
    assert arrives("data.root=~/mm imdb") == "/home/o'neill, (him)/mm imdb"
    assert arrives("data.root=~") == "/home/o'neill, (him)"


def test_the_home_of_nobody_is_an_error():
    with pytest.raises(UserError, match="no home folder is known for ~nobody-of-this-name, so give the whole path"):
        escaped("data.root=~nobody-of-this-name/films")


@pytest.mark.parametrize(
    "argument",
    [
        "fusion=gmu_hier,gmu_softmax",
        "fusion.dim=64,128",
        "data.limit=[1,2]",
        "seed=range(3)",
        "data.rooted=a,b",
        "-m",
        "~data.limit",
        "data.root=",
        "data.root=null",
        "store.dir=${oc.env:HOME}/store",
        "data.root='already, quoted'",
        r"data.root='it\'s'",
        'data.root="already, quoted"',
        "encoder.text.name=bert-base-uncased,roberta-base",
    ],
)
def test_whatever_is_no_path_keeps_hydras_grammar(argument):
    assert escaped(argument) == argument


@pytest.mark.parametrize("key", ["encoder.text.name", "encoder.video.preparation.name"])
def test_a_folder_of_weights_is_a_path_where_a_name_may_be_a_hubs(key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert arrives(f"{key}={tmp_path}/my bert, tuned") == f"{tmp_path}/my bert, tuned"
    (tmp_path / "my bert, tuned").mkdir()
    assert arrives(f"{key}=my bert, tuned") == "my bert, tuned"


def test_a_folder_whose_name_has_quotes_around_it_keeps_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "'odd'").mkdir()
    assert arrives("data.root='odd'") == "'odd'"


def test_a_dot_for_a_slash_is_answered_with_the_slash():
    with pytest.raises(UserError, match=r"encoder\.text=minilm sets .*: write encoder/text=minilm \(slash, not dot\)"):
        refuse_dot_for_slash(["seed=1", "encoder.text=minilm"])


def test_a_dot_for_a_slash_with_an_unknown_choice_is_answered_with_the_choices():
    with pytest.raises(UserError, match=r"write encoder/image=CHOICE, with one of .*resnet50, .*tiny"):
        refuse_dot_for_slash(["encoder.image=resnet"])


@pytest.mark.parametrize("argument", ["~trainer.progress", "~scheduler", "~fusion", "~encoder/text", "~trainer.threads=1"])
def test_what_a_run_reads_cannot_be_taken_away(argument):
    with pytest.raises(
        UserError, match=f"{argument} takes away what the command needs: give {argument[1:].split('=')[0]} a value"
    ):
        refuse_removal(["seed=1", argument])


def test_what_has_a_default_can_be_taken_away():
    refuse_removal(["~callbacks", "~encoder.text.dropout", "~fusion.dim", "~experiment", "fusion=mean", "-m"])


def test_dots_and_slashes_in_their_places_are_accepted():
    refuse_dot_for_slash(["encoder/text=minilm", "encoder.text.freeze=all", "fusion=concat", "data.root=x", "fusion.dim=3", "-m"])


@pytest.fixture(scope="module")
def said() -> Iterator[Callable[..., str]]:
    """`said(overrides)`: the sentence that composing `train` with them ends in."""
    register_plugins()

    def say(*overrides: str) -> str:
        GlobalHydra.instance().clear()
        with pytest.raises(HydraException) as failed, initialize_config_dir(str(conf_folder()), version_base="1.3"):
            compose("train", list(overrides))
        found = sentence(failed.value)
        assert "\n" not in found
        return found

    yield say
    GlobalHydra.instance().clear()


@pytest.mark.parametrize(
    ("override", "beginning", "near"),
    [
        ("fusion=gmu_orignal", "fusion=gmu_orignal is no choice: did you mean gmu_original", "gmu_hier, "),
        ("encoder/text=minilmm", "encoder/text=minilmm is no choice: did you mean minilm?", "tiny"),
        ("fusion=zzzz", "fusion=zzzz is no choice: choices are bottleneck, concat, gmu_hier", "sum"),
        ("hydra/launcher=processess", "hydra/launcher=processess is no choice: did you mean processes?", ""),
        ("fusion.dimm=3", "fusion.dimm is no key of the configuration: did you mean fusion.dim ", ""),
        ("loss.pos_wieght=none", "loss.pos_wieght is no key of the configuration: did you mean loss.pos_weight ", ""),
        ("hydra.sweeper.trial=3", "hydra.sweeper.trial is no key of the configuration: did you mean hydra.sweeper.trials", ""),
        ("hydra.launcher.job=3", "hydra.launcher.job is no key of the configuration: did you mean hydra.launcher.n_jobs", ""),
        ("encoder/txt=minilm", "encoder/txt is no key of the configuration: did you mean encoder/text", ""),
        ("encoder=minilm", "encoder is no key of the configuration: did you mean encode or encoder/text", ""),
        ("zzzzzzzzz=1", "zzzzzzzzz is no key of the configuration: see --cfg job for all keys", ""),
        ("seed==3(", "an argument does not follow key=value: Error parsing override 'seed==3('", ""),
        ("seed", "an argument does not follow key=value: Error parsing override 'seed'", ""),
        ("+seed=3", "the configuration cannot be composed: Could not append to config. An item is already at 'seed'.", "seed=3"),
        ("seed=1,2", "the configuration cannot be composed: Ambiguous value for argument 'seed=1,2'", "--multirun"),
    ],
)
def test_what_cannot_be_composed_ends_in_one_sentence_that_names_the_near_choices(said, override, beginning, near):
    found = said(override)
    assert found.startswith(beginning)
    assert near in found


def test_a_value_that_is_missing_is_named():
    with pytest.raises(Exception, match="Missing mandatory value") as missing:
        OmegaConf.create({"data": {"root": "???"}}).data.root
    assert sentence(missing.value) == "a value is missing: give data.root=VALUE on the command line"


def test_a_users_mistake_is_found_within_what_hydra_wrapped_around_it():
    wrapped, inner = HydraException("Error executing job"), ValueError("while resolving")
    wrapped.__cause__, inner.__context__ = inner, UserError("data.root=x does not exist")
    assert sentence(wrapped) == "data.root=x does not exist"


def test_any_other_error_is_said_with_its_kind_on_one_line():
    assert sentence(RuntimeError("a shape\n  is wrong")) == "RuntimeError: a shape is wrong"


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`typed(command, *arguments)`: the exit code of a command called with them."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(SweepFiles, "current", None)
    monkeypatch.setattr(SweepFiles, "planned", [])

    def run(command: Callable[[], Any], *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        try:
            call(command)
        except SystemExit as left:
            return int(left.code or 0)
        finally:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        return 0

    return run


def test_a_command_that_ends_well_exits_with_0_and_sees_the_escaped_arguments(typed, tmp_path):
    seen: list[str] = []
    assert typed(lambda: seen.extend(sys.argv[1:]), f"data.root={tmp_path}/a b", "seed=1") == 0
    assert seen == [f"data.root='{tmp_path}/a b'", "seed=1"]


def _mistaken() -> None:
    raise UserError("data.root=x does not exist")


def _broken() -> None:
    raise RuntimeError("a shape is wrong")


def _interrupted() -> None:
    raise KeyboardInterrupt


def test_a_mistake_exits_with_1_and_its_sentence_alone(typed, capsys):
    assert typed(_mistaken) == 1
    assert capsys.readouterr().err == "data.root=x does not exist\n"


def _refused() -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "/a/folder")


def test_a_file_that_the_machine_refuses_is_no_bug(typed, capsys):
    assert typed(_refused) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("/a/folder cannot be written or read (Permission denied): give a folder that this user may write to")


def test_a_sweep_whose_files_cannot_be_written_says_what_stopped_it(typed, capsys, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "status.json"))

    monkeypatch.setattr("gmu_lightning.sweep.files.write_sweep", full)

    def begun() -> None:
        SweepFiles.current = (tmp_path, "now")
        SweepFiles.planned = [(None, ["seed=1"])]
        _mistaken()

    assert typed(begun) == 1
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"{tmp_path}/status.json cannot be written or read (No space left on device)")
    assert last == "data.root=x does not exist"


def test_a_bug_exits_with_1_and_shows_where_before_its_sentence(typed, capsys):
    assert typed(_broken) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "RuntimeError: a shape is wrong"


def test_an_interruption_exits_with_130(typed, capsys):
    assert typed(_interrupted) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_dot_for_a_slash_stops_a_command_before_it_begins(typed, capsys):
    assert typed(_broken, "encoder.text=minilm") == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("write encoder/text=minilm (slash, not dot)")


def test_a_check_is_sent_to_a_folder_that_is_gone_afterwards(typed):
    folders: list[Path] = []

    def look() -> None:
        for argument in sys.argv[1:]:
            key, _, value = argument.partition("=")
            if key in ("hydra.run.dir", "hydra.sweep.dir"):
                folders.append(Path(value))
        assert all(folder.is_dir() for folder in folders)

    assert typed(look, "check=true") == 0
    assert len(folders) == 2
    assert not any(folder.exists() for folder in folders)


def test_known_keys_are_those_of_the_default_configuration_and_the_groups():
    keys = command_line.known_keys()
    assert {"seed", "fusion.dim", "encoder.text.freeze", "encoder/text", "loss.pos_weight"} <= set(keys)
