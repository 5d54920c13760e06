"""A user's mistake ends in exit code 1 and one sentence, the last line on stderr."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

from gmu_lightning.cli import command_line, tasks

from . import shell

RUN = ("trainer.max_epochs=1", "trainer.threads=1", "fusion.dim=8", "encoder/text=tiny", "encoder/image=tiny")
PLANTED = ("data=planted", "data.movies=60")


class Said(NamedTuple):
    """How a command ended."""

    code: int
    err: str

    def refused(self, sentence: str) -> bool:
        """Return whether it exited with 1, without a traceback, and with the sentence on its last line."""
        assert self.code == 1, self.err
        assert sentence in shell.last_line(self.err), self.err
        assert "Traceback" not in self.err
        assert "Error executing job" not in self.err
        return True


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The empty folder that commands are typed in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def typed(here, store, monkeypatch, capsys) -> Callable[..., Said]:
    """`python -m gmu_lightning.train`, in this process."""
    monkeypatch.setenv("GMU_STORE", str(store))

    def run(*words: str) -> Said:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "")  # restored afterwards: the command sets it
        monkeypatch.setattr(sys, "argv", ["train", *words])
        GlobalHydra.instance().clear()
        capsys.readouterr()
        try:
            command_line.call(tasks.train)
        except SystemExit as ended:
            return Said(int(ended.code or 0), capsys.readouterr().err)
        return Said(0, capsys.readouterr().err)

    return run


def test_a_wrong_root_says_what_was_looked_for(here, store):
    done = shell.typed("train", "data.root=nowhere", *RUN, folder=here, store=store)
    said = Said(done.returncode, done.stderr)
    assert said.refused("nowhere does not exist")
    assert said.refused("expected split.json beside a folder dataset")


def test_a_truncated_archive_is_refused(typed, raw, tmp_path):
    whole, cut = tmp_path / "whole.tar.gz", tmp_path / "mmimdb.tar.gz"
    with tarfile.open(whole, "w:gz") as archive:
        archive.add(raw, "mmimdb")
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert typed(f"data.root={cut}", *RUN).refused("mmimdb.tar.gz is truncated or damaged")


def test_an_archive_that_climbs_out_writes_nothing_outside(typed, tmp_path):
    climbing = tmp_path / "mmimdb.tar.gz"
    with tarfile.open(climbing, "w:gz") as archive:
        member = tarfile.TarInfo("../../../evil.json")
        member.size = 2
        archive.addfile(member, io.BytesIO(b"{}"))
    assert typed(f"data.root={climbing}", *RUN, f"store.dir={tmp_path / 'a/b/c'}").refused("'../../../evil.json' points outside")
    assert not list(tmp_path.rglob("evil.json"))


def test_a_broken_split_file_is_named(typed, copy):
    (copy.folder / "split.json").write_text('{"train": [')
    assert typed(f"data.root={copy.folder}", *RUN).refused("split.json cannot be read as JSON")


def test_damaged_files_end_a_run_only_if_strict(typed, copy, here):
    copy.poster("0000003").write_bytes(b"")
    (copy.folder / "dataset/0000004.json").write_text("{")
    said = typed(f"data.root={copy.folder}", *RUN, "hydra.run.dir=run")
    assert said.code == 0, said.err
    problems = json.loads((here / "run/audit.json").read_text())["problems"]
    assert {(p["id"], p["kind"], p["action"], p["file"]) for p in problems} == {
        ("0000003", "unreadable_image", "kept_absent", "dataset/0000003.jpeg"),
        ("0000004", "broken_json", "removed", "dataset/0000004.json"),
    }
    assert typed(f"data.root={copy.folder}", *RUN, "data.strict=true").refused("data.strict=true accepts no problem")


def test_unreadable_posters_end_the_run_and_leave_an_audit(typed, copy, here):
    for movie in (movie for ids in copy.ids.values() for movie in ids):
        copy.poster(movie).write_bytes(b"<!DOCTYPE html><html>404</html>")
    first = copy.ids["train"][0]
    why = f"40 of 40 as in dataset/{first}.jpeg, movie {first}: it is an HTML page and not the file"
    assert typed(f"data.root={copy.folder}", *RUN, "hydra.run.dir=run").refused(f"no movie of train has its image ({why})")
    assert json.loads((here / "run/status.json").read_text())["state"] == "failed"
    audit = json.loads((here / "run/audit.json").read_text())
    assert (audit["movies"], audit["counts"]["unreadable_image"]) == ({"train": 40, "val": 10, "test": 10}, 60)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc")
def test_many_refused_posters_give_a_warning(typed, copy, here):
    refused, *lost = copy.ids["train"][:5]
    copy.poster(refused).unlink()
    copy.poster(refused).symlink_to("/proc/self/mem")
    for movie in lost:
        copy.poster(movie).unlink()
    said = typed(f"data.root={copy.folder}", *RUN, "hydra.run.dir=run")
    assert said.code == 0, said.err
    assert json.loads((here / "run/audit.json").read_text())["counts"]["unreadable_image"] == 1
    (warning,) = json.loads((here / "run/status.json").read_text())["warnings"]
    why = f"4 of 5 as in dataset/{lost[0]}.jpeg, movie {lost[0]}: no such file"
    assert warning == f"missing_image: 5 of 40 movies of train lack image ({why}), and audit.json names them"


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:Encountered `nan`")  # of the run that diverges
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("fusion=gmu_orginal", "fusion=gmu_orginal is no choice: did you mean gmu_original"),
        ("encoder.text=minilm", "write encoder/text=minilm (slash, not dot)"),
        ("~trainer.progress", "~trainer.progress takes away what the command needs: give trainer.progress a value instead"),
        ("optimzer.lr=1", "optimzer.lr is no key of the configuration: did you mean optimizer.lr"),
        ("modalities=text+imgae", "names 'imgae', which is no modality: did you mean image?"),
        ("modalities=text+video", "data=planted has no video: choose modalities among text, image"),
        ("fusion=none", "fusion=none takes exactly one modality and modalities=text+image names 2"),
        ("modalities=text", "fusion=gmu_original takes at least 2 modalities"),
        ("seed=first", "seed=first is not possible: give a whole number"),
        ("trainer.max_epochs=many", "trainer.max_epochs=many is not possible: give a whole number from 1 to 1,000,000"),
        ("optimizer.lr=1e30", "the val loss became nan in epoch 0"),
        ("data.root=", "holds something, and nothing is overwritten"),
    ],
)
def test_a_request_that_cannot_be_met_is_answered_in_a_sentence(typed, words, sentence):
    assert typed(*PLANTED, *RUN, "trainer.max_epochs=2", words).refused(sentence)


@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "mps"])
def test_a_gpu_that_is_missing_says_what_to_type(typed, monkeypatch, accelerator):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    said = typed(*PLANTED, *RUN, f"trainer.accelerator={accelerator}")
    assert said.refused(f"trainer.accelerator={accelerator} finds no such device on this machine: type trainer.accelerator=cpu")


def test_more_processes_than_cores_are_refused(typed, monkeypatch):
    monkeypatch.setattr("gmu_lightning.experiment.choices.cores", lambda: 4)
    said = typed(*PLANTED, *RUN, "trainer.accelerator=cpu", "trainer.devices=99")
    assert said.refused("trainer.devices=99 would start 99 processes on a CPU, and this machine has room for 4")


def test_a_sweep_names_the_choice_that_lacks_a_key(here, store):
    words = ("-m", *PLANTED, *RUN, "fusion=lmf,concat", "fusion.rank=2", "hydra/launcher=stacked")
    done = shell.typed("train", *words, folder=here, store=store)
    said = Said(done.returncode, done.stderr)
    assert said.refused("fusion.rank is no key of fusion=concat: leave out one of the two, or choose fusion=lmf, with this key")
    assert "does what is missing" not in said.err


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:Encountered `nan`")
def test_a_run_that_diverges_in_its_last_step_says_so(typed):
    words = ("data=planted", "data.movies=240", *RUN, "optimizer.lr=1e30")
    assert typed(*words).refused("the val loss became nan in epoch 0: lower optimizer.lr")


def test_missing_weights_are_never_replaced_by_random_ones(here, store):
    done = shell.typed(
        "train", *PLANTED, "encoder/text=bert_base", folder=here, store=store, HF_HUB_OFFLINE="1", HF_HOME=str(here)
    )
    assert Said(done.returncode, done.stderr).refused("its weights are in no local folder, package or Hugging Face cache")


def test_a_genre_absent_from_train_is_removed_or_refused(typed, copy, here):
    movie = copy.ids["test"][0]
    copy.change(movie, genres=[*copy.record(movie)["genres"], "Opera"])
    said = typed(f"data.root={copy.folder}", *RUN, "hydra.run.dir=run")
    assert said.code == 0, said.err
    (warning,) = json.loads((here / "run/status.json").read_text())["warnings"]
    assert "Opera never occurs in train" in warning
    assert not [key for key in json.loads((here / "run/metrics.json").read_text()) if "Opera" in key]
    assert typed(f"data.root={copy.folder}", *RUN, "data.strict=true").refused("Opera never occurs in train")


def test_a_vector_that_is_not_finite_counts_as_absent(typed, here, tmp_path):
    h5py = pytest.importorskip("h5py")
    random = np.random.default_rng(0)
    ids = [f"{n:07d}" for n in range(60)]
    features = random.normal(size=(60, 300)).astype(np.float32)
    features[3, 5] = np.nan
    with h5py.File(tmp_path / "multimodal_imdb.hdf5", "w") as file:
        file["features"], file["vgg_features"] = features, random.normal(size=(60, 4096)).astype(np.float32)
        file["imdb_ids"] = np.array([name.encode() for name in ids], dtype="S7")
        genres = file.create_dataset("genres", data=(random.random((60, 3)) < 0.6).astype(np.int32))
        genres.attrs["target_names"] = json.dumps(["Drama", "Comedy", "Horror"])
    (tmp_path / "split.json").write_text(json.dumps({"train": ids[:40], "dev": ids[40:50], "test": ids[50:]}))
    vectors = ("encoder/text=vector", "encoder/image=vector", "trainer.max_epochs=1", "trainer.threads=1", "fusion.dim=8")
    said = typed(f"data.root={tmp_path}", *vectors, "hydra.run.dir=run")
    assert said.code == 0, said.err
    problems = json.loads((here / "run/audit.json").read_text())["problems"]
    (problem,) = [p for p in problems if p["kind"] == "bad_array"]
    assert (problem["id"], problem["action"], problem["file"]) == ("0000003", "kept_absent", "multimodal_imdb.hdf5")


def test_a_path_works_as_it_is_typed(here, store, raw, tmp_path):
    shutil.copytree(raw, tmp_path / "my movies, v=2 (new)")
    words = "data.root=~/my movies, v=2 (new)"
    done = shell.typed("train", words, *RUN, "hydra.run.dir=~/the run (1)", folder=here, store=store, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "the run (1)/overrides.txt").read_text().splitlines()[0] == words
    assert (tmp_path / "the run (1)/metrics.json").exists()
