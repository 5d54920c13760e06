"""The fixed part of the help page of each command: its purpose, its examples, and the groups and options that it lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Page(NamedTuple):
    """The fixed part of a command's page.

    Attributes:
        purpose: one sentence.
        examples: pairs of a description and the arguments.
        groups: names of groups; their choices are listed.
        shown: pairs of a file and the prefix of its keys; its options are listed.
    """

    purpose: str
    examples: Sequence[tuple[str, str]]
    groups: Sequence[str] = ()
    shown: Sequence[tuple[str, str]] = ()


ENCODERS = tuple(f"encoder/{modality}" for modality in ("text", "image", "video", "audio", "metadata"))
PAGES: Mapping[str, Page] = {
    "train": Page(
        "Train one run, or a sweep of runs with -m.",
        (
            ("Try it on 60 generated movies, in a few seconds", "experiment=smoke"),
            ("Train a gate on plots and posters of MM-IMDb", "data.root=PATH fusion=gmu_original"),
            (
                "Compare fusions over three seeds, in a sweep",
                "-m data.root=PATH seed=1,2,3 fusion=mean,concat,gmu_original hydra/launcher=stacked",
            ),
            ("See what a command would do, without doing it", "-m data.root=PATH seed=1,2,3 fusion=mean,concat check=true"),
            ("Tune every fusion with the same number of trials", "-m sweep=search data.root=PATH fusion=concat,gmu_original"),
        ),
        (
            "experiment",
            "data",
            "fusion",
            *ENCODERS,
            "loss",
            "optimizer",
            "scheduler",
            "training",
            "callbacks",
            "logger",
            "sweep",
            "hydra/launcher",
        ),
        (
            ("train.yaml", ""),
            ("data/mmimdb.yaml", "data."),
            ("trainer/default.yaml", "trainer."),
            ("sweep/default.yaml", "hydra."),
        ),
    ),
    "evaluate": Page(
        "Score a trained run again, into a new folder inside the run's.",
        (
            ("Score the test movies", "run=RUN"),
            ("Score the val movies, at one threshold that is tuned on them", "run=RUN split=val threshold=val"),
            ("Score movies of which some modalities are removed", "run=RUN robustness=true"),
            ("Measure what gates and modalities are worth, in all runs of a sweep", "run=SWEEP diagnose=true"),
            ("Read the data from another folder", "run=RUN data.root=PATH"),
        ),
        shown=(("evaluate.yaml", ""),),
    ),
    "predict": Page(
        "Predict new movies with a trained run, or the mean of several.",
        (
            (
                "Predict one movie; text is taken as typed",
                'run=RUN movie.text="A boy, a dog and the sea." movie.image=poster.jpg',
            ),
            ("Predict every row of a table", "run=RUN input=movies.csv output=predictions.csv"),
            ("Predict with the mean of three seeds", "run=RUN,RUN,RUN input=movies.csv output=predictions.parquet"),
            (
                "Use one threshold that is tuned on val, in place of 0.5",
                "run=RUN input=FOLDER output=predictions.jsonl threshold=val",
            ),
            (
                "Explain each prediction by sentences and parts of the poster",
                "run=RUN input=movies.csv output=predictions.csv why=pieces",
            ),
        ),
        shown=(("predict.yaml", ""),),
    ),
    "export": Page(
        "Export a trained run as a folder that predicts anywhere.",
        (
            ("Export a run", "run=RUN output=FOLDER"),
            ("Also write ONNX files, checked against torch", "run=RUN output=FOLDER onnx=true"),
            ("Also upload it to the Hugging Face hub, for yourself", "run=RUN output=FOLDER push=USER/NAME"),
            ("Upload it for everybody", "run=RUN output=FOLDER push=USER/NAME private=false"),
            ("Upload the ONNX files too", "run=RUN output=FOLDER onnx=true push=USER/NAME"),
        ),
        shown=(("export.yaml", ""),),
    ),
    "app": Page(
        "Open a page in the browser to play with trained runs.",
        (
            ("Serve the page of one run", "run=RUN"),
            ("Set several runs side by side", "run=RUN,RUN"),
            ("Open the page in the browser, on another port", "run=RUN browser=true port=8000"),
            ("Decide by one threshold that is tuned on val", "run=RUN threshold=val"),
            ("Accept clips of up to a gigabyte", "run=RUN upload_mb=1000"),
        ),
        shown=(("app.yaml", ""),),
    ),
    "prepare": Page(
        "Read a data set, list its problems, and store its prepared inputs.",
        (
            ("Prepare plots and posters of MM-IMDb", "data.root=PATH"),
            ("Prepare posters alone, for another encoder", "data.root=PATH modalities=image encoder/image=resnet50"),
            ("End with an error if a movie has a problem", "data.root=PATH data.strict=true"),
            (
                "Decode the trailers of Moviescope",
                "data=moviescope data.root=PATH modalities=video+audio data.video=trailers data.audio=trailers",
            ),
            ("Write generated movies into a new folder", "data=planted data.root=FOLDER data.movies=600 data.seed=1"),
        ),
        ("data", *ENCODERS),
        (("train.yaml", ""), ("data/mmimdb.yaml", "data.")),
    ),
    "compare": Page(
        "Compare the settings of runs and sweeps, and test each difference.",
        (
            ("Compare the settings of a sweep", "runs=SWEEP"),
            ("Compare two sweeps and a run", "runs=SWEEP,SWEEP,RUN"),
            ("Compare by another score", "runs=SWEEP metric=ap_macro"),
            ("Compare one setting with every other", "runs=SWEEP against=concat"),
            ("Use thresholds tuned on val, and choose the folder", "runs=SWEEP metric=f1_micro@val output=FOLDER"),
        ),
        shown=(("compare.yaml", ""),),
    ),
    "adopt": Page(
        "Turn predictions that were made elsewhere into runs.",
        (
            ("Adopt a language model's answers about MM-IMDb", "predictions=answers.jsonl name=gpt-x data.root=PATH"),
            ("Say what the predictor has read", "predictions=answers.jsonl name=gpt-x data.root=PATH modalities=text"),
            (
                "Adopt three seeds, of a table of your own",
                "predictions=seed1.csv,seed2.csv,seed3.csv name=tf-idf data=files data.root=movies.csv",
            ),
            ("Adopt a file for val and one for test", "predictions=val.csv,test.csv name=tf-idf data.root=PATH"),
            ("Choose the folder of the run", "predictions=answers.csv name=gpt-x data.root=PATH hydra.run.dir=FOLDER"),
        ),
        ("data",),
        (("adopt.yaml", ""), ("data/mmimdb.yaml", "data.")),
    ),
    "dashboard": Page(
        "Write a sweep's workspace and report to Weights & Biases.",
        (
            ("Write them to the project of the sweep's runs", "runs=SWEEP"),
            ("Write only dashboard.json, without an account", "runs=SWEEP mode=offline"),
            ("Choose the project", "runs=SWEEP entity=TEAM project=movies"),
            ("Rank by another score", "runs=SWEEP metric=ap_micro"),
            ("Choose the folder of dashboard.json", "runs=SWEEP mode=offline output=FOLDER"),
        ),
        shown=(("dashboard.yaml", ""),),
    ),
    "store": Page(
        "List what the store holds, remove some of it, or look for damage.",
        (
            ("List the entries with size and last use", ""),
            ("List the entries of another store", "store.dir=PATH"),
            ("Compare every entry with its checksums", "verify=true"),
            ("Remove two entries", "remove=columns/image-1a2b3c,features/text-4d5e6f"),
            ("Remove every entry without use for 30 days", "older_than=30"),
        ),
        shown=(("store.yaml", ""),),
    ),
    "info": Page(
        "List the choices of every group, and where their weights are.",
        (
            ("List all choices", ""),
            ("List the fusions", "group=fusion"),
            ("List the encoders of every modality", "group=encoder"),
            ("List the encoders of text", "group=encoder/text"),
            ("List the launchers of sweeps", "group=hydra/launcher"),
        ),
        shown=(("info.yaml", ""),),
    ),
    "doctor": Page(
        "Check this machine: versions, GPU, threads, disks, locks, caches.",
        (
            ("Check everything", ""),
            ("Check the folder of another store", "store.dir=PATH"),
            ("Check another folder of runs", "output=FOLDER"),
            ("Check both, on other disks", "store.dir=/fast/store output=/large/runs"),
            ("Also ask the Hugging Face hub for an answer", "hub=true"),
        ),
        shown=(("doctor.yaml", ""),),
    ),
}
