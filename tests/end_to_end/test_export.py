"""An exported model predicts the run's numbers from its folder alone. A changed folder is refused in one sentence."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import gmu_lightning
from gmu_lightning.encoders import weights
from gmu_lightning.exporting import command
from gmu_lightning.exporting.card import MOST_SENTENCES, card_text
from gmu_lightning.exporting.command import export
from gmu_lightning.movie import UserError
from gmu_lightning.run import Run
from gmu_lightning.sweep.job import perform

from .hub import TOKEN, Hub, standing_in
from .shell import last_line, typed
from .test_predict import numbers, rows_of

FILES = ["README.md", "config.json", "genres.json", "metrics.json", "model.safetensors", "preparation.json", "probe.json"]


@pytest.fixture(scope="module")
def exported(smoke, tmp_path_factory) -> Path:
    """The smoke run, exported by the command."""
    folder = tmp_path_factory.mktemp("exported")
    done = typed("export", f"run={smoke.folder}", "output=a model", folder=folder, store=None)
    assert done.returncode == 0, done.stderr
    assert last_line(done.stdout) == "a model"
    return folder / "a model"


@pytest.fixture(scope="module")
def frozen(train, pretrained, raw) -> Run:
    """A run on features of a tiny BERT and a narrow ResNet."""
    return train(*pretrained, f"data.root={raw}")


@pytest.fixture(scope="module")
def with_networks(frozen, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("networks") / "model"
    export(frozen.folder, folder)
    return folder


@pytest.fixture
def changed(exported, tmp_path) -> Path:
    """A copy of the exported smoke run, to be changed."""
    return Path(shutil.copytree(exported, tmp_path / "changed"))


def files_of(folder: Path) -> dict[str, str]:
    """Return {path in the folder: hash of its bytes}."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def edit(path: Path, change: Callable[[Any], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def refused(folder: Path) -> str:
    """Return the sentence that refuses to load a folder."""
    with pytest.raises(UserError) as caught:
        gmu_lightning.load(folder)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(folder) in sentence
    return sentence


def test_an_export_predicts_the_numbers_of_its_run(smoke, exported, store):
    movies = rows_of(smoke, store)
    by_run, by_export = (gmu_lightning.load(folder).predict(movies) for folder in (smoke.folder, exported))
    assert list(by_run) == list(by_export)
    assert numbers(by_export) == pytest.approx(numbers(by_run), abs=1e-5)
    assert by_export["genres"].tolist() == by_run["genres"].tolist()


def test_the_predict_command_takes_the_folder(exported, tmp_path):
    words = ("movie.text=A vampire haunts the cellar.", "output=one.jsonl", "threshold=val_per_genre")
    done = typed("predict", f"run={exported}", *words, folder=tmp_path, store=None)
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "one.jsonl").read_text())
    assert row["present/text"] and not row["present/image"] and row["problem"] is None


def test_others_may_read_an_export(exported):
    modes = {path.stat().st_mode & 0o777 for path in exported.iterdir() if path.is_file()}
    assert len(modes) == 1


def test_the_folder_holds_the_files_of_the_contract(exported, with_networks):
    own = [*FILES, "thresholds.json"]
    assert list(files_of(exported)) == sorted(own)
    networks = ["encoders/image/config.json", "encoders/text/config.json", "encoders/text/tokenizer.json"]
    found = list(files_of(with_networks))
    assert {*own, *networks} <= set(found)
    assert {name for name in found if name not in own} == {name for name in found if name.startswith("encoders/")}


def test_networks_come_from_the_folder_alone(frozen, with_networks, store, monkeypatch):
    for place in ("_in_package", "_in_cache", "_downloaded"):
        monkeypatch.setattr(weights, place, lambda name: pytest.fail(f"{name} was looked for elsewhere"))
    config = json.loads((with_networks / "config.json").read_text())["config"]
    assert [node["name"] for node in config["encoder"].values()] == ["encoders/text", "encoders/image"]
    movies = rows_of(frozen, store)
    by_run, by_export = (gmu_lightning.load(folder).predict(movies) for folder in (frozen.folder, with_networks))
    assert numbers(by_export) == pytest.approx(numbers(by_run), abs=1e-5)


def test_no_file_names_a_place_on_this_machine(frozen, exported, with_networks):
    for folder in (exported, with_networks):
        for path in folder.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            for place in (Path.home(), Path.cwd(), frozen.folder.parents[1], folder.parent):
                assert str(place).encode() not in content, path


def test_a_run_exported_twice_gives_the_same_bytes(smoke, exported, with_networks, frozen, tmp_path):
    for run, before in ((smoke, exported), (frozen, with_networks)):
        export(run.folder, tmp_path / f"again-{before.name}")
        assert files_of(tmp_path / f"again-{before.name}") == files_of(before)


def test_thresholds_are_those_of_the_run(smoke, exported):
    run, model = gmu_lightning.load(smoke.folder), gmu_lightning.load(exported)
    for rule in ("val", "val_per_genre"):
        assert model.form(rule).threshold == run.form(rule).threshold
    with pytest.raises(UserError, match="threshold=val is tuned on the mean over val"):
        gmu_lightning.load([exported, smoke.folder]).form("val")


def test_a_model_and_its_run_are_averaged(smoke, exported, store):
    movies = rows_of(smoke, store)[:3]
    both = gmu_lightning.load([exported, smoke.folder]).predict(movies)
    assert both.filter(like="prob_sd/").to_numpy().max() < 1e-5


def test_a_changed_weight_is_refused(changed):
    state = load_file(changed / "model.safetensors")
    state["head.weight"] = state["head.weight"] + 0.01
    save_file(state, changed / "model.safetensors")
    assert "logits of its probe.json differ by" in refused(changed)


def test_a_missing_and_an_additional_weight_are_refused(changed):
    state = load_file(changed / "model.safetensors")
    bias = state.pop("head.bias")
    save_file(state, changed / "model.safetensors")
    assert "lacks the weights head.bias" in refused(changed)
    save_file({**state, "head.bias": bias, "head.more": bias.clone()}, changed / "model.safetensors")
    assert "has weights head.more" in refused(changed)


def test_a_changed_preprocessing_is_refused(changed):
    edit(changed / "config.json", lambda found: found["config"]["encoder"]["image"].update(size=48))
    assert "its preprocessing of image has size=[64, 64], and config.json gives [48, 48]" in refused(changed)
    edit(changed / "preparation.json", lambda found: found["preprocessing"]["image"].update(size=[48, 48]))
    assert "its preprocessing or its tokeniser were changed" in refused(changed)


def test_a_changed_description_of_the_preprocessing_is_refused(changed):
    edit(changed / "preparation.json", lambda found: found["preprocessing"]["image"].update(mode="center"))
    assert "its preprocessing of image has mode=center, and config.json gives squash" in refused(changed)


def test_a_changed_vocabulary_is_refused(changed):
    edit(changed / "preparation.json", lambda found: found["learned"]["text"]["words"].reverse())
    assert "its preprocessing or its tokeniser were changed" in refused(changed)


def test_a_swapped_tokeniser_is_refused(with_networks, tmp_path):
    folder = Path(shutil.copytree(with_networks, tmp_path / "swapped"))

    def swap(found: dict[str, Any]) -> None:
        vocabulary = found["model"]["vocab"]
        words = [word for word in vocabulary if word.isalpha()]
        numbers = [vocabulary[word] for word in words]
        vocabulary.update(zip(words, numbers[1:] + numbers[:1], strict=True))

    edit(folder / "encoders" / "text" / "tokenizer.json", swap)
    assert "its preprocessing or its tokeniser were changed" in refused(folder)


def test_a_library_of_another_version_is_named(changed):
    edit(changed / "preparation.json", lambda found: found["versions"].update(torch="1.0"))
    gmu_lightning.load(changed)
    edit(changed / "probe.json", lambda found: found["logits"][0].update(Comedy=9.0))
    assert "exported with torch 1.0, here" in refused(changed)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "encoders/text/weights.pkl", "best.ckpt", "modeling.py"])
def test_a_file_that_can_hold_code_is_refused(name, changed):
    (changed / name).parent.mkdir(parents=True, exist_ok=True)
    torch.save({}, changed / name)
    assert "a file of this kind can run code" in refused(changed)


CLASS = "gmu_lightning.encoders.text.HuggingFaceText"
CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "class": (lambda c: c["fusion"].update(_target_="os.system"), "names the class os.system"),
    "interpolation": (lambda c: c["fusion"].update(dim="${oc.env:HOME}"), "holds the interpolation"),
    "hub name": (lambda c: c["encoder"].update(text={"_target_": CLASS, "name": "a/b"}), "names weights outside of the folder"),
    "vectors": (lambda c: c["encoder"]["text"].update(vectors="/etc/passwd"), "names weights outside of the folder"),
    "size": (lambda c: c["fusion"].update(dim=17), "have the shape"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_configuration_is_read_as_data(case, changed):
    change, sentence = CHANGES[case]
    edit(changed / "config.json", lambda found: change(found["config"]))
    assert sentence in refused(changed)


def test_settings_by_which_a_network_loads_code_are_refused(with_networks, tmp_path):
    for name, key, value in (("text", "auto_map", {"AutoModel": "x.Y"}), ("image", "model_args", {"checkpoint_path": "x"})):
        folder = Path(shutil.copytree(with_networks, tmp_path / name))
        edit(folder / "encoders" / name / "config.json", lambda found, key=key, value=value: found.update({key: value}))
        assert "by which a network loads" in refused(folder)


def test_a_missing_file_is_named(changed):
    for name in ("probe.json", "model.safetensors"):
        (changed / name).rename(changed / f"{name}.away")
        assert f"{name} is damaged, for it is not there" in refused(changed)
        (changed / f"{name}.away").rename(changed / name)


def test_other_folders_are_not_replaced(smoke, exported, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files than those of an export"):
        export(smoke.folder, tmp_path)
    with pytest.raises(UserError, match="lies in the folder of a run"):
        export(smoke.folder, smoke.folder / "model")
    with pytest.raises(UserError, match="is exported already"):
        export(exported, tmp_path / "again")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_failed_export_leaves_the_former_one(smoke, changed, monkeypatch):
    before = files_of(changed)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "write_card", fail)
    with pytest.raises(KeyboardInterrupt):
        export(smoke.folder, changed)
    with pytest.raises(KeyboardInterrupt):
        export(smoke.folder, changed.parent / "new")
    assert files_of(changed) == before
    assert [path.name for path in changed.parent.iterdir()] == ["changed"]


def test_the_card_reports_the_records_of_the_run(smoke, exported, with_networks):
    from huggingface_hub import ModelCard

    card = ModelCard.load(exported / "README.md")
    reported = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert reported["micro F1"] == pytest.approx(smoke.metrics["test/f1_micro"], abs=1e-4)
    assert f"{smoke.audit['movies']['train']}" in card.text
    assert smoke.data_fingerprint["movies"][:16] in card.text
    assert "| text | `minilm` | a local copy | unknown |" in ModelCard.load(with_networks / "README.md").text


def test_the_card_has_verdicts_and_losses_where_they_are_recorded(smoke, tmp_path):
    folder = Path(shutil.copytree(smoke.folder, tmp_path / "sweep" / "run"))
    sentences = [f"Verdict {n} on the gate." for n in range(MOST_SENTENCES + 3)]
    pairs = [{"a": "gate", "b": f"other {n}", "sentence": sentence} for n, sentence in enumerate(sentences)]
    pairs.append({"a": "x", "b": "y", "sentence": "A verdict on others."})
    settings = [{"name": "gate", "setting": smoke.status["setting"], "seeds": 3}, {"name": "x", "setting": "0"}]
    (tmp_path / "sweep" / "comparison.json").write_text(json.dumps({"settings": settings, "pairs": pairs}))
    for time, split, score in (("1", "test", 0.25), ("2", "test", 0.125), ("3", "val", 0.75)):
        place = folder / "evaluate" / time
        place.mkdir(parents=True)
        rows = [("share", "image", 0.0, 0.5), ("share", "image", 1.0, score), ("share", "all", 1.0, 0.0), ("subset", "", "", 0.9)]
        pd.DataFrame(rows, columns=["kind", "modality", "share", "f1_micro"]).to_csv(place / "robustness.csv", index=False)
        (place / "robustness.json").write_text(json.dumps({"split": split}))
    text = card_text(gmu_lightning.load(folder).runs[0])
    assert "| none | 0.500 |" in text and "| image | 0.125 |" in text
    assert "0.750" not in text and "| all |" not in text
    assert sentences[0] in text and sentences[-1] not in text and "A verdict on others" not in text
    assert "- 3 further comparisons." in text
    (tmp_path / "sweep" / "comparison.json").write_text("{}")
    assert "Verdict" not in card_text(gmu_lightning.load(folder).runs[0])


@pytest.mark.heavy
def test_a_class_of_the_users_own_needs_its_folder(tmp_path, store):
    own = ("--config-dir", str(Path(__file__).parents[2] / "examples" / "my_fusion"))

    def ended(name: str, *words: str) -> tuple[int, str]:
        done = typed(name, *words, folder=tmp_path, store=store)
        return done.returncode, last_line(done.stderr or done.stdout)

    small = ("experiment=smoke", "trainer.max_epochs=1", "trainer.threads=1", "fusion=my_fusion", "hydra.run.dir=run")
    assert ended("train", *own, *small)[0] == 0
    assert "names the class my_fusions.MyFusion" in ended("export", "run=run", "output=model")[1]
    assert ended("export", *own, "run=run", "output=model")[0] == 0
    card = (tmp_path / "model" / "README.md").read_text()
    assert "It needs the class my_fusions.MyFusion: add `--config-dir FOLDER`" in card
    words = ("run=model", "movie.text=A vampire.")
    code, sentence = ended("predict", *words)
    assert code == 1 and "or --config-dir FOLDER, the folder of its module" in sentence
    assert ended("predict", *own, *words)[0] == 0


@pytest.mark.heavy
def test_the_commands_push_and_predict_by_name(smoke, tmp_path):
    with standing_in() as hub:
        variables = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        words = (f"run={smoke.folder}", "output=model", "push=ada/movies", "private=false")
        done = typed("export", *words, folder=tmp_path, store=None, **variables)
        assert done.returncode == 0, done.stderr
        assert last_line(done.stdout) == f"{hub.address}/ada/movies"
        assert not hub.private["ada/movies"]
        words = ("run=ada/movies", "movie.text=A vampire.", "output=one.jsonl")
        done = typed("predict", *words, folder=tmp_path, store=None, **{**variables, "HF_TOKEN": ""})
        assert done.returncode == 0, done.stderr
        assert "run=ada/movies is no folder here, so it is looked up on the Hugging Face hub" in done.stderr
        assert (tmp_path / "one.jsonl").exists()


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Any:
    """A hub that huggingface_hub asks in place of its own, with an account."""
    from huggingface_hub import constants

    with standing_in() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.address + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its protocol is compiled, and serves no stand-in
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


def test_a_pushed_model_is_loaded_by_its_name(smoke, hub: Hub, tmp_path, capsys, store):
    export(smoke.folder, tmp_path / "model", to="ada/movies")
    assert last_line(capsys.readouterr().out) == f"{hub.address}/ada/movies"
    assert {name: hashlib.sha256(data).hexdigest() for name, data in hub.files["ada/movies"].items()} == files_of(
        tmp_path / "model"
    )
    assert hub.private["ada/movies"]
    hub.files["ada/movies"]["pytorch_model.bin"] = b"never fetched"
    movies = rows_of(smoke, store)[:3]
    by_name = gmu_lightning.load("ada/movies").predict(movies)
    assert numbers(by_name).tolist() == numbers(gmu_lightning.load(tmp_path / "model").predict(movies)).tolist()
    assert not [request for request in hub.requests if "pytorch_model.bin" in request]


def test_a_push_that_cannot_succeed_ends_in_a_sentence(smoke, hub: Hub, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"push=movies is no place on the hub"):
        export(smoke.folder, tmp_path / "model", to="movies")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match=r"push=ada/movies: the hub refused .* is complete"):
        export(smoke.folder, tmp_path / "model", to="ada/movies")
    assert (tmp_path / "model" / "README.md").exists()
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match=r"push=ada/movies needs an account on the hub: set HF_TOKEN"):
        export(smoke.folder, tmp_path / "other", to="ada/movies")
    assert not (tmp_path / "other").exists()


def test_an_unknown_name_ends_in_a_sentence(hub: Hub):
    with pytest.raises(UserError, match=r"run=ada/nothing is no folder here, and the hub has no such model"):
        gmu_lightning.load("ada/nothing")


def test_a_mistyped_folder_opens_no_connection(hub: Hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for run in ("runs/smok", "smok", str(tmp_path / "smok"), "./runs/smok"):
        with pytest.raises(UserError, match="is no run's folder"):
            gmu_lightning.load(run)
    assert hub.requests == []


MORE: dict[str, tuple[str, ...]] = {
    "tuned text": ("encoder.text.freeze=none", "scheduler=constant"),
    "mmbt": ("fusion=mmbt", "encoder.text.freeze=all", "scheduler=constant"),
    "bottleneck": ("fusion=bottleneck",),
    "late": ("fusion=late", "fusion.head=maxout"),
    "image tokens": ("fusion=bottleneck", "encoder.image.num_tokens=4"),
}


@pytest.mark.heavy
@pytest.mark.parametrize("case", MORE)
def test_every_way_to_encode_makes_the_round_trip(case, train, pretrained, raw, store, tmp_path):
    run = train(*pretrained, f"data.root={raw}", *MORE[case])
    export(run.folder, tmp_path / "model")
    movies = rows_of(run, store)
    by_run, by_export = (gmu_lightning.load(folder).predict(movies) for folder in (run.folder, tmp_path / "model"))
    assert numbers(by_export) == pytest.approx(numbers(by_run), abs=1e-5)


@pytest.mark.heavy
@pytest.mark.parametrize("modalities", ["video+audio", "text+metadata"])
def test_features_and_tables_make_the_round_trip(modalities, train, store, tmp_path):
    run = train("data.modalities=text+video+audio+metadata", f"modalities={modalities}")
    export(run.folder, tmp_path / "model")
    movies = rows_of(run, store)
    by_run, by_export = (gmu_lightning.load(folder).predict(movies) for folder in (run.folder, tmp_path / "model"))
    assert numbers(by_export) == pytest.approx(numbers(by_run), abs=1e-5)


def test_a_run_of_single_labels_has_no_thresholds(job, tmp_path):
    plots = ("a sheriff rides", "a vampire haunts")
    rows = [{"id": str(n), "plot": f"{plots[n % 2]} {n}", "year": 1950 + n, "genre": "WH"[n % 2]} for n in range(40)]
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    words = ("data=files", f"data.root={tmp_path / 'table.csv'}", "data.task=multiclass", "modalities=text+metadata")
    small = ("trainer.max_epochs=1", "trainer.threads=1", "encoder/text=tiny", "fusion.dim=16")
    made = job(*words, "encoder/metadata=mlp", "data.columns.labels=genre", "data.columns.metadata=[year]", preset=small)
    perform(made)
    run = made.run
    export(run.folder, tmp_path / "model")
    assert set(json.loads((tmp_path / "model" / "thresholds.json").read_text()).values()) == {None}
    movies = [{"plot": "a sheriff rides", "year": 1960}, {"plot": "a vampire haunts", "year": None}]
    by_run, by_export = (gmu_lightning.load(folder).predict(movies) for folder in (run.folder, tmp_path / "model"))
    assert numbers(by_export) == pytest.approx(numbers(by_run), abs=1e-5)
    assert np.isfinite(numbers(by_export)).all()
