"""Arguments arrive as typed, and every error ends in one sentence."""

from __future__ import annotations

import errno
import os
import re
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
from yaml import YAMLError

from gmu_lightning.cli.command_line import (
    escaped,
    movie_in,
    options_first,
    refuse_dot_for_slash,
    refuse_other_than_names,
    refuse_removal,
    register_plugins,
    run,
)
from gmu_lightning.cli.help import known_keys, sentence
from gmu_lightning.cli.search_path import with_whole_path
from gmu_lightning.config.groups import conf_folder
from gmu_lightning.movie import UserError
from gmu_lightning.sweep.session import Session

from ..installed import site

PARSER = OverridesParser.create()
PATH_KEYS = (
    "data.root",
    "data.separator",
    "store.dir",
    "hydra.run.dir",
    "hydra.sweep.dir",
    "run",
    "runs",
    "input",
    "output",
    "encoder.text.weights",
)
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
    """Return the value that Hydra reads from an escaped argument."""
    override = PARSER.parse_override(escaped(argument))
    assert not override.is_sweep_override()
    value = override.value()
    assert isinstance(value, str)
    return value


@pytest.mark.parametrize("path", AWKWARD)
def test_a_path_arrives_as_typed_and_is_one_value(path):
    assert arrives(f"data.root={path}") == path


@settings(deadline=None, derandomize=True, database=None)
@given(st.text(alphabet=" ab/\\'\"=,()[]:~.é$%", min_size=1).filter(lambda path: path[0] not in "~'\""))
def test_any_path_arrives_as_typed(path):
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
def test_every_key_of_a_path_is_taken_as_typed(key):
    override = PARSER.parse_override(escaped(f"{key}=a (b), c=d"))
    assert override.key_or_group == key.lstrip("+")
    assert override.value() == "a (b), c=d"


@pytest.mark.parametrize(
    "text", [*AWKWARD, "", "null", "???", "${seed}", "~me", "'all quoted'", "two\nlines", "a=b", "movie.text=a"]
)
def test_a_movie_is_taken_out_as_typed(text):
    typed = ["run=x", f"movie.text={text}", "-m", f"++movie.metadata.Release Date={text}", "movie=b"]
    assert movie_in(typed) == ({"text": text, "metadata.Release Date": text}, ["run=x", "-m", "movie=b"])


def test_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/o'neill, (him)")
    assert arrives("data.root=~/mm imdb") == "/home/o'neill, (him)/mm imdb"
    assert arrives("data.root=~") == "/home/o'neill, (him)"


def test_the_home_of_an_unknown_user_is_an_error():
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
def test_other_arguments_keep_the_grammar_of_hydra(argument):
    assert escaped(argument) == argument


@pytest.mark.parametrize("key", ["encoder.text.name", "encoder.video.preparation.name"])
def test_an_existing_folder_of_weights_is_taken_as_a_path(key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert arrives(f"{key}={tmp_path}/my bert, tuned") == f"{tmp_path}/my bert, tuned"
    (tmp_path / "my bert, tuned").mkdir()
    assert arrives(f"{key}=my bert, tuned") == "my bert, tuned"


def test_a_folder_name_in_quotes_keeps_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "'odd'").mkdir()
    assert arrives("data.root='odd'") == "'odd'"


def test_a_dot_for_a_slash_is_answered_with_the_slash():
    with pytest.raises(UserError, match=r"encoder\.text=minilm sets .*: write encoder/text=minilm \(slash, not dot\)"):
        refuse_dot_for_slash(["seed=1", "encoder.text=minilm"])


def test_a_dot_for_a_slash_is_answered_with_the_choices():
    with pytest.raises(UserError, match=r"write encoder/image=CHOICE, with one of .*resnet50, .*tiny"):
        refuse_dot_for_slash(["encoder.image=resnet"])


@pytest.mark.parametrize(
    "argument",
    [
        "fusion=null",
        "fusion=",
        "fusion=3",
        "fusion=true",
        "fusion={a:1}",
        "fusion=mean,null",
        "fusion=[mean,null]",
        "fusion=[[mean]]",
        "fusion=choice(mean,3)",
        "fusion=range(1,3)",
        "+fusion=1.5",
        "encoder/text@encoder.text=3",
        "experiment=null",
        "experiment=''",
        "logger=null",
        "hydra/launcher=null",
    ],
)
def test_a_choice_that_is_no_name_is_answered_with_the_choices(argument):
    one = {"fusion": "gmu_hier", "encoder": "minilm", "experiment": "smoke", "logger": "wandb", "hydra": "ray"}
    with pytest.raises(UserError, match=f"^{re.escape(argument)} names no choice: choices are .*") as refused:
        refuse_other_than_names(["seed=1", argument], None)
    assert one[re.split("[/=]", argument.strip("+"))[0].split("@")[0]] in str(refused.value)


def test_choices_by_name_are_accepted():
    names = ["fusion=mean", "fusion=mean,'concat'", "fusion=glob(gmu*)", "fusion=choice(mean,none)", "logger=[]", "logger=[csv]"]
    others = ["experiment=[smoke]", "data.limit=null", "run=/a/b", "/a/b=3 :", "fusion.dim=3", "-m", "hydra/job_logging=none"]
    refuse_other_than_names([*names, *others], None)


@pytest.mark.parametrize("argument", ["~trainer.progress", "~scheduler", "~fusion", "~encoder/text", "~trainer.threads=1"])
def test_keys_that_a_run_reads_cannot_be_removed(argument):
    with pytest.raises(
        UserError, match=f"{argument} takes away what the command needs: give {argument[1:].split('=')[0]} a value"
    ):
        refuse_removal(["seed=1", argument])


def test_keys_with_a_default_can_be_removed():
    refuse_removal(["~callbacks", "~encoder.text.dropout", "~fusion.dim", "~experiment", "fusion=mean", "-m"])


def test_dots_and_slashes_in_their_places_are_accepted():
    refuse_dot_for_slash(["encoder/text=minilm", "encoder.text.freeze=all", "fusion=concat", "data.root=x", "fusion.dim=3", "-m"])


@pytest.fixture(scope="module")
def refused() -> Iterator[Callable[..., str]]:
    """Return a function from overrides to the sentence that refuses them."""
    register_plugins()

    def compose_train(*overrides: str) -> str:
        GlobalHydra.instance().clear()
        with pytest.raises((HydraException, YAMLError)) as failed, initialize_config_dir(str(conf_folder()), version_base="1.3"):
            compose("train", list(overrides))
        found = sentence(failed.value)
        assert "\n" not in found
        return found

    yield compose_train
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
        ("seed=1,2", "seed=1,2 holds several values: give one, type seed=[1,2] for a list, or sweep by", "`train --multirun`"),
    ],
)
def test_composition_errors_name_the_nearest_choices(refused, override, beginning, near):
    found = refused(override)
    assert found.startswith(beginning)
    assert near in found


def test_a_damaged_package_hides_no_key(refused, tmp_path):
    with site(tmp_path) as install:
        install(
            "mine", files={"fusion/broken.yaml": "_target_: [", "encoder/text/broken.yaml": "- a", "fusion/good.yaml": "odd: 1"}
        )
        assert refused("fusion.dimm=3").startswith("fusion.dimm is no key of the configuration: did you mean fusion.dim ")
        assert refused("fusion.odd=3").startswith("fusion.odd is no key of the fusion chosen here: ")
        broken = refused("fusion=broken")  # YAML's parsers count lines in two ways
        assert re.match(rf"line [12] of {tmp_path}/mine/conf/fusion/broken.yaml of the package mine is no valid YAML \(", broken)


def test_a_value_that_is_missing_is_named():
    with pytest.raises(Exception, match="Missing mandatory value") as missing:
        OmegaConf.create({"data": {"root": "???"}}).data.root
    assert sentence(missing.value) == "a value is missing: give data.root=VALUE on the command line"


def test_a_user_error_is_found_inside_hydras_error():
    wrapped, inner = HydraException("Error executing job"), ValueError("while resolving")
    wrapped.__cause__, inner.__context__ = inner, UserError("data.root=x does not exist")
    assert sentence(wrapped) == "data.root=x does not exist"


def test_another_error_has_its_kind_on_one_line():
    assert sentence(RuntimeError("a shape\n  is wrong")) == "RuntimeError: a shape is wrong"


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function from a command and its arguments to the exit code."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def called(command: Callable[[Session], Any], *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        try:
            run(command)
        except SystemExit as left:
            return int(left.code or 0)
        finally:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        return 0

    return called


def test_a_choice_of_null_ends_in_one_sentence(typed, capsys):
    assert typed(lambda session: None, "experiment=null") == 1
    assert re.fullmatch("experiment=null names no choice: .*\n", capsys.readouterr().err)


def test_a_command_sees_the_escaped_arguments(typed, tmp_path):
    seen: list[str] = []
    assert typed(lambda _: seen.extend(sys.argv[1:]), f"data.root={tmp_path}/a b", "seed=1") == 0
    assert seen == [f"data.root='{tmp_path}/a b'", "seed=1"]


def _mistaken(_: Session) -> None:
    raise UserError("data.root=x does not exist")


def _broken(_: Session) -> None:
    raise RuntimeError("a shape is wrong")


def _interrupted(_: Session) -> None:
    raise KeyboardInterrupt


def test_a_user_error_exits_with_1_and_its_sentence(typed, capsys):
    assert typed(_mistaken) == 1
    assert capsys.readouterr().err == "data.root=x does not exist\n"


@pytest.mark.parametrize(
    ("number", "beginning"),
    [
        (errno.EACCES, "/a/folder cannot be written or read (Permission denied): give a folder that this user may write to"),
        (errno.EFBIG, "/a/folder cannot be written or read (File too large): give a folder that this user may write to"),
        (errno.EMFILE, "this machine allows no more open files ([Errno 24] Too many open files: '/a/folder'): type `ulimit"),
    ],
)
def test_an_error_of_the_machine_has_no_traceback(typed, capsys, number, beginning):
    def refused(_: Session) -> None:
        raise OSError(number, os.strerror(number), "/a/folder")

    assert typed(refused) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(beginning)


def test_a_sweep_without_files_names_its_first_error(typed, capsys, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "status.json"))

    monkeypatch.setattr("gmu_lightning.sweep.files.write_sweep", full)

    def begun(session: Session) -> None:
        session.folder, session.started = tmp_path, "now"
        session.plan([(None, ["seed=1"])])
        _mistaken(session)

    assert typed(begun) == 1
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"{tmp_path}/status.json cannot be written or read (No space left on device)")
    assert last == "data.root=x does not exist"


def test_a_bug_exits_with_1_after_its_traceback(typed, capsys):
    assert typed(_broken) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "RuntimeError: a shape is wrong"


def test_an_interruption_exits_with_130(typed, capsys):
    assert typed(_interrupted) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_dot_for_a_slash_stops_the_command(typed, capsys):
    assert typed(_broken, "encoder.text=minilm") == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("write encoder/text=minilm (slash, not dot)")


@pytest.mark.parametrize(
    ("arguments", "beginning"),
    [
        (["--foo"], "--foo is not an option of this command: type settings as key=value"),
        (["seed=1", "--fusion=mean"], "--fusion=mean is not an option of this command"),
        (["--config-name"], "argument --config-name/-cn: expected one argument; see --hydra-help"),
    ],
)
def test_an_unreadable_option_ends_in_one_sentence(typed, capsys, arguments, beginning):
    assert typed(_broken, *arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(beginning)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["seed=1,2", "-m", "fusion=mean"], ["-m", "seed=1,2", "fusion=mean"]),
        (["a=1", "--config-dir", "a=2", "b=2", "--cfg=job"], ["--config-dir", "a=2", "--cfg=job", "a=1", "b=2"]),
        (["-mr", "seed=1"], ["-mr", "seed=1"]),
    ],
)
def test_options_may_stand_behind_settings(arguments, expected):
    assert options_first(arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "changed", "folder"),
    [
        (["--config-dir", "my parts", "a=1"], ["--config-dir", "/here/my parts", "a=1"], "/here/my parts"),
        (["-cd", "../mine"], ["-cd", "/mine"], "/mine"),
        (["--config-dir=~/mine"], ["--config-dir=/home/me/mine"], "/home/me/mine"),
        (["--config-dir", "a=1", "a=1"], ["--config-dir", "/here/a=1", "a=1"], "/here/a=1"),
        (["-m", "a=1"], ["-m", "a=1"], None),
    ],
)
def test_the_own_folder_becomes_absolute(monkeypatch, arguments, changed, folder):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr("os.getcwd", lambda: "/here")
    assert with_whole_path(arguments) == (changed, folder)


def test_a_check_of_a_sweep_may_end_with_an_option(typed):
    assert typed(lambda _: None, "seed=1,2", "check=true", "-m") == 0
    assert sys.argv[1] == "-m"


def test_a_check_writes_to_a_folder_that_is_removed(typed):
    folders: list[Path] = []

    def look(_: Session) -> None:
        for argument in sys.argv[1:]:
            key, _, value = argument.partition("=")
            if key in ("hydra.run.dir", "hydra.sweep.dir"):
                folders.append(Path(value))
        assert all(folder.is_dir() for folder in folders)

    assert typed(look, "check=true") == 0
    assert len(folders) == 2
    assert not any(folder.exists() for folder in folders)


def test_known_keys_include_every_group_and_default_key():
    keys = known_keys()
    assert {"seed", "fusion.dim", "encoder.text.freeze", "encoder/text", "loss.pos_weight"} <= set(keys)
