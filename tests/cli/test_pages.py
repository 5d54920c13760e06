"""The help page of each command, the list of commands, and the version."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from gmu_lightning import __version__
from gmu_lightning.__main__ import main
from gmu_lightning.cli.command_line import escaped, show_page
from gmu_lightning.cli.page_contents import PAGES
from gmu_lightning.cli.pages import Option, commands, help_page, options
from gmu_lightning.config.groups import choices_of, conf_folder

EXAMPLES = [(name, arguments) for name, page in PAGES.items() for _, arguments in page.examples]
PARSER = OverridesParser.create()


def listed_options(page: str) -> list[str]:
    """Return the keys in the last section of a page."""
    return re.findall(r"^  ([\w.]+)=", page.partition("Options, with their defaults:")[2], re.M)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_holds_its_purpose_and_five_examples(name):
    page = help_page(name)
    assert page.startswith(f"{PAGES[name].purpose}\n")
    assert page.count(f"    python -m gmu_lightning.{name}") >= 5
    assert len(PAGES[name].examples) == 5


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_eighty_plain_columns(name):
    page = help_page(name)
    assert max(map(len, page.splitlines())) < 80
    assert not re.search(r"[^\n -~]", page)


@pytest.mark.parametrize(("name", "arguments"), EXAMPLES, ids=" ".join)
def test_a_shell_reads_an_example_as_it_is_meant(name, arguments):
    lines = help_page(name).replace("\\\n", " ")
    assert [*shlex.split(arguments)] in [shlex.split(line)[3:] for line in lines.splitlines() if line.startswith("    python")]


@pytest.mark.parametrize(("name", "arguments"), EXAMPLES, ids=" ".join)
def test_every_example_composes(name, arguments):
    words = [escaped(word) for word in shlex.split(arguments) if word != "-m"]
    single = [word for word in words if not PARSER.parse_override(word).is_sweep_override()]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        assert compose(name, single) is not None
    GlobalHydra.instance().clear()


@pytest.mark.parametrize(
    ("name", "own", "foreign"),
    [
        ("train", ["modalities", "seed", "data.root", "trainer.max_epochs", "store.dir"], ["run", "runs", "threshold"]),
        ("evaluate", ["run", "split", "threshold", "data.root"], ["fusion", "seed", "trainer.max_epochs"]),
        ("predict", ["run", "movie.text", "input", "output", "strict", "data.columns.text"], ["data.root", "store.dir", "seed"]),
        ("export", ["run", "output", "onnx", "push", "private"], ["data.root", "store.dir", "threshold"]),
        ("app", ["run", "threshold", "port", "host", "browser", "upload_mb"], ["data.root", "input", "seed"]),
        ("prepare", ["modalities", "data.root", "data.strict", "store.workers"], ["seed", "check", "data.batch_size"]),
        ("compare", ["runs", "metric", "against", "output"], ["store.dir", "modalities"]),
        ("adopt", ["predictions", "name", "modalities", "seed", "data.root"], ["fusion", "data.batch_size", "monitor"]),
        ("dashboard", ["runs", "mode", "entity", "project"], ["store.dir", "against"]),
        ("store", ["store.dir", "remove", "older_than"], ["store.workers", "runs"]),
        ("info", ["group"], ["store.dir", "fusion"]),
        ("doctor", ["store.dir", "output", "hub"], ["group", "remove"]),
    ],
)
def test_a_page_lists_its_own_options(name, own, foreign):
    found = listed_options(help_page(name))
    assert set(own) <= set(found)
    assert not set(foreign) & set(found)


@pytest.mark.parametrize("name", PAGES)
def test_every_option_of_a_page_has_a_comment(name):
    without = [
        option.key for file, prefix in PAGES[name].shown for option in options(conf_folder() / file, prefix) if not option.comment
    ]
    assert without in ([], ["hydra.output_subdir", "hydra.sweep.subdir"])


def test_an_option_stands_with_default_and_comment():
    page = help_page("compare")
    assert "  metric=auto               f1_ or ap_ with micro, macro, samples" in page
    assert "  runs=...                  needed: folders of runs or sweeps" in page


def test_choices_of_train_are_listed():
    page = " ".join(help_page("train").split())
    others = ", ".join(choice for choice in choices_of("fusion") if choice != "gmu_original")
    assert f"fusion=gmu_original {others} encoder/text=minilm" in page
    assert "fusion=" not in help_page("prepare")


def test_a_typed_choice_lists_its_options():
    page = help_page("train", ["fusion=gmu_hier", "data=planted", "--help"])
    assert "fusion=gmu_hier\n  s_m = sigma(U_m" in page
    assert "fusion.gate_input" in listed_options(page)
    assert "data.movies" in listed_options(page) and "data.label_policy" not in listed_options(page)


def test_options_of_a_base_are_overridden():
    found = {option.key: option for option in options(conf_folder() / "encoder/text/minilm.yaml", "encoder.text.")}
    assert found["encoder.text.lr"].default == "auto"
    assert found["encoder.text.freeze"].default == "all"
    assert found["encoder.text.freeze"].comment.startswith("all, none, or n")


def test_options_keep_defaults_as_written(tmp_path: Path):
    (tmp_path / "a.yaml").write_text('one: "#1"  # first\ntwo:\n  three: {low: 1}\nhydra: {a: 1}\n')
    assert list(options(tmp_path / "a.yaml")) == [Option("one", '"#1"', "first"), Option("two.three", "{low: 1}", "")]


def test_the_version_is_the_packages(capsys):
    show_page("compare", ["--version"])
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gmu_lightning {__version__}\n" * 2


def test_a_missing_configuration_is_one_sentence(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("gmu_lightning.config.groups.__file__", str(tmp_path / "a/b/c.py"))
    with pytest.raises(SystemExit, match="1"):
        show_page("train", ["--help"])
    assert capsys.readouterr().err.endswith("installed without its conf folder: install it again from the wheel\n")


def test_the_package_lists_its_commands(capsys):
    assert main([]) == 0
    found = capsys.readouterr().out
    assert re.findall(r"^  (\w+) +\S", found, re.M) == list(PAGES)
    assert max(map(len, commands().splitlines())) < 80


def test_a_command_typed_with_a_space_is_answered(capsys):
    assert main(["train", "seed=1"]) == 1
    assert capsys.readouterr().err == "train is not read here: type python -m gmu_lightning.train, with a dot\n"


@pytest.mark.parametrize("words", [["--help"], ["seed=1", "-h"], ["fusion=nowhere", "--help"]])
def test_help_is_printed_wherever_it_is_typed(words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "gmu_lightning.train", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == help_page("train") + "\n"
