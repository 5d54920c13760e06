"""What a user's mistake costs: an exit code of 1 and one sentence, the last line on stderr."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmu_lightning.data.planted import generate

RUN = ("trainer.max_epochs=1", "trainer.threads=1", "fusion.dim=8", "encoder/text=tiny", "encoder/image=tiny")


def _shell() -> Any:
    spec = importlib.util.spec_from_file_location("end_to_end_shell", Path(__file__).with_name("shell.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


shell = _shell()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty movies in the raw layout."""
    return generate(tmp_path_factory.mktemp("bad") / "mmimdb", 60, 0)


@pytest.fixture
def typed(tmp_path: Path) -> Callable[..., Any]:
    """`python -m gmu_lightning.train` from an empty folder."""
    (tmp_path / "here").mkdir()
    return lambda *words, **variables: shell.typed(
        "train", *words, folder=tmp_path / "here", store=tmp_path / "store", **variables
    )


def copy(raw: Path, to: Path) -> Path:
    shutil.copytree(raw, to)
    return to


def test_a_wrong_root_says_what_was_looked_for(typed: Any, tmp_path: Path) -> None:
    done = typed(f"data.root={tmp_path / 'nowhere'}", *RUN)
    refused(done, "nowhere does not exist")
    refused(done, "expected split.json beside a folder dataset")


def test_a_truncated_archive(typed: Any, tmp_path: Path, raw: Path) -> None:
    whole = tmp_path / "whole.tar.gz"
    with tarfile.open(whole, "w:gz") as archive:
        archive.add(raw, "mmimdb")
    cut = tmp_path / "mmimdb.tar.gz"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    refused(typed(f"data.root={cut}", *RUN), "is truncated or damaged")


def test_an_archive_that_climbs_out_writes_nothing_outside(typed: Any, tmp_path: Path) -> None:
    climbing = tmp_path / "mmimdb.tar.gz"
    with tarfile.open(climbing, "w:gz") as archive:
        member = tarfile.TarInfo("../../../evil.json")
        member.size = 2
        archive.addfile(member, io.BytesIO(b"{}"))
    refused(typed(f"data.root={climbing}", *RUN), "its member '../../../evil.json' points outside the archive")
    assert not list(tmp_path.rglob("evil.json"))


def test_a_broken_split_file(typed: Any, tmp_path: Path, raw: Path) -> None:
    root = copy(raw, tmp_path / "broken")
    (root / "split.json").write_text('{"train": [')
    refused(typed(f"data.root={root}", *RUN), "split.json cannot be read as JSON")


def test_a_zero_byte_poster_and_a_broken_record_cost_no_run(typed: Any, tmp_path: Path, raw: Path) -> None:
    root = copy(raw, tmp_path / "holes")
    (root / "dataset/0000003.jpeg").write_bytes(b"")
    (root / "dataset/0000004.json").write_text("{")
    done = typed(f"data.root={root}", *RUN, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    problems = {
        (p["id"], p["kind"], p["action"], p["file"]) for p in json.loads((tmp_path / "run/audit.json").read_text())["problems"]
    }
    assert ("0000003", "unreadable_image", "kept_absent", "0000003.jpeg") in problems
    assert ("0000004", "broken_json", "removed", "dataset/0000004.json") in problems
    strict = typed(f"data.root={root}", *RUN, "data.strict=true")
    refused(strict, "data.strict=true accepts no problem")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("fusion=gmu_orginal",), "fusion=gmu_orginal is no choice: did you mean gmu_original"),
        (("encoder.text=minilm",), "write encoder/text=minilm (slash, not dot)"),
        (("optimzer.lr=1",), "optimzer.lr is no key of the configuration: did you mean optimizer.lr"),
        (("modalities=text+imgae",), "names 'imgae', which is no modality: did you mean image?"),
        (("modalities=text+video",), "names video, which has no encoder: choose among text, image"),
        (("fusion=none",), "fusion=none takes exactly one modality and modalities=text+image names 2"),
        (("seed=first",), "seed=first is no seed: give a whole number"),
        (("encoder/text=bert_base",), "its weights are in no local folder, package or Hugging Face cache"),
    ],
)
def test_a_request_that_cannot_be_met(typed: Any, words: tuple[str, ...], says: str) -> None:
    refused(typed("data=planted", "data.movies=60", *words, HF_HUB_OFFLINE="1"), says)


def test_a_genre_that_train_never_shows_is_removed_by_name_or_refused(typed: Any, tmp_path: Path, raw: Path) -> None:
    root = copy(raw, tmp_path / "rare")
    movie = json.loads((root / "split.json").read_text())["test"][0]
    record = json.loads((root / f"dataset/{movie}.json").read_text())
    (root / f"dataset/{movie}.json").write_text(json.dumps(record | {"genres": [*record["genres"], "Opera"]}))
    done = typed(f"data.root={root}", *RUN, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert [w for w in json.loads((tmp_path / "run/status.json").read_text())["warnings"] if "Opera never occurs in train" in w]
    refused(typed(f"data.root={root}", *RUN, "data.strict=true"), "Opera never occurs in train")


def test_a_feature_that_is_not_a_number_makes_its_movie_lack_the_modality(typed: Any, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    ids = [f"{n:07d}" for n in range(60)]
    features = rng.normal(size=(60, 300)).astype(np.float32)
    features[3, 5] = np.nan
    with h5py.File(tmp_path / "multimodal_imdb.hdf5", "w") as file:
        file["features"], file["vgg_features"] = features, rng.normal(size=(60, 4096)).astype(np.float32)
        file["imdb_ids"] = np.array([name.encode() for name in ids], dtype="S7")
        genres = file.create_dataset("genres", data=(rng.random((60, 3)) < 0.6).astype(np.int32))
        genres.attrs["target_names"] = json.dumps(["Drama", "Comedy", "Horror"])
    (tmp_path / "split.json").write_text(json.dumps({"train": ids[:40], "dev": ids[40:50], "test": ids[50:]}))
    vectors = ("encoder/text=vector", "encoder/image=vector", "trainer.max_epochs=1", "fusion.dim=8")
    done = typed(f"data.root={tmp_path}", *vectors, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    (problem,) = [p for p in json.loads((tmp_path / "run/audit.json").read_text())["problems"] if p["kind"] == "bad_array"]
    assert (problem["id"], problem["action"], problem["file"]) == ("0000003", "kept_absent", "multimodal_imdb.hdf5")


def test_a_path_works_as_it_is_typed(typed: Any, tmp_path: Path, raw: Path) -> None:
    copy(raw, tmp_path / "my movies, v=2 (new)")
    words = "data.root=~/my movies, v=2 (new)"
    done = typed(words, *RUN, "hydra.run.dir=~/the run (1)", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "the run (1)/overrides.txt").read_text().splitlines()[0] == words
    assert (tmp_path / "the run (1)/metrics.json").exists()


def refused(done: Any, says: str) -> None:
    """Exit code 1, and the last line on stderr is the sentence, without a traceback anywhere."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert says in shell.last_line(done.stderr), done.stderr
    assert "Traceback" not in done.stderr
