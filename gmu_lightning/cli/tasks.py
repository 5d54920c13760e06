"""Tasks of the commands: each does the work of one composed configuration."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from gmu_lightning.movie import UserError
from gmu_lightning.run import Run, runs_under
from gmu_lightning.sweep.job import choices_in, config_dir_in, perform, perform_in_sweep, plain, resolved
from gmu_lightning.sweep.session import Session
from gmu_lightning.visible import first_line

if TYPE_CHECKING:
    from gmu_lightning.report.wandb_dashboard import Dashboard

logger = logging.getLogger(__name__)


def train(config: DictConfig, session: Session) -> None:
    """Train one run, or one job of a sweep; with `check`, only note it."""
    hydra = _hydra()
    alone = hydra.mode == RunMode.RUN
    if alone and hydra.runtime.choices.get("sweep") == "search":
        raise UserError("sweep=search trains many jobs, so it needs -m: python -m gmu_lightning.train -m sweep=search ...")
    sweep = Path(hydra.sweep.dir)
    folder = Path(hydra.run.dir) if alone else sweep / hydra.sweep.subdir
    session.reached(folder)
    try:
        job = session.job_of(config, hydra, folder, None if alone else sweep.name)
    except UserError as error:
        if alone:
            raise
        session.refuse(config, hydra, folder, error)
        return
    if config.check:
        session.checked.append(job)
    elif alone:
        perform(job)
    elif reason := perform_in_sweep(job, session.cache):
        session.skip(folder, job.overrides, reason)
    else:
        session.ended()


def prepare(config: DictConfig, session: Session) -> None:
    """Prepare the inputs of one data set, and write its audit. With `hydra/launcher=ray`, a cluster decodes the files."""
    from gmu_lightning.experiment.prepare import prepare as prepare_data

    hydra = _hydra()
    chosen = resolved(config, hydra)
    with ExitStack() as stack:
        if hydra.runtime.choices.get("hydra/launcher") == "ray":
            from gmu_lightning.sweep.ray_prepare import prepared_on_cluster

            stack.enter_context(prepared_on_cluster(chosen, hydra.launcher))
        prepare_data(chosen, Path(hydra.run.dir).absolute())


def evaluate(config: DictConfig, session: Session) -> None:
    """Score a run again, or several."""
    from gmu_lightning.config.options import EvaluateConfig
    from gmu_lightning.data.store import Store
    from gmu_lightning.experiment.evaluate import RestoredData, evaluate_all
    from gmu_lightning.experiment.evaluate import evaluate as evaluate_run

    keys = ("split", "robustness", "robustness_seed", "diagnose", "diagnose_seed")
    chosen = EvaluateConfig.of({key: config[key] for key in keys})
    robust, diagnosed = chosen.robustness_seed if chosen.robustness else None, chosen.diagnose_seed if chosen.diagnose else None

    def evaluated(run: Run, known: RestoredData) -> Path:
        store = Store(config.store.dir or _store_of(run))
        what = (run, chosen.split, config.data.root, str(config.threshold), store)
        return evaluate_run(*what, robust, config.encode.backend, session.config_dir, diagnosed, known)

    evaluate_all(_runs(str(config.run)), evaluated)


def _runs(typed: str) -> list[Run]:
    """Return the runs of a value with commas; a folder of runs stands for its finished ones. Raises UserError if it has none."""
    found = []
    for folder in _paths(typed, "run"):
        inside = [] if (folder / "config.yaml").exists() else runs_under(folder)
        runs = [run for run in inside if run.status.get("state") == "finished" and (run / "config.yaml").exists()]
        if inside and not runs:
            raise UserError(f"run={folder} holds no finished run: give the folder of a run, or of a sweep with finished ones")
        found += runs or [Run(folder)]
    return found


def predict(config: DictConfig, session: Session) -> None:
    """Predict the movie that was typed, or the rows of a file."""
    from gmu_lightning.config.options import PredictConfig
    from gmu_lightning.prediction.request import check_request

    chosen = PredictConfig.of({"strict": config.strict, "why": config.why, **config.encode})
    typed, source = session.movie, config.input
    output = Path(config.output).expanduser() if config.output else None
    check_request(typed, source, output)
    from gmu_lightning.experiment.environment import prepare_process  # with torch, once the request is right
    from gmu_lightning.explanation.explain import Why
    from gmu_lightning.prediction.classifier import load
    from gmu_lightning.prediction.command import predict_file, predict_typed

    prepare_process()
    classifier = load(_paths(str(config.run), "run"), session.config_dir, chosen.backend)
    form = classifier.form(str(config.threshold))
    why = None if chosen.why == "none" else Why(chosen.why, classifier)
    if typed:
        predict_typed(classifier, typed, output, form, chosen.strict, why)
    elif output is not None:
        columns = {role: name for role, name in plain(config.data.columns).items() if name is not None}
        predict_file(classifier, str(source), output, columns, form, chosen.strict, why)


def app(config: DictConfig, session: Session) -> None:
    """Serve a page on which movies are entered, predicted and explained."""
    from gmu_lightning.config.options import AppConfig
    from gmu_lightning.playground.server import check_installed, listening

    keys = ("examples", "host", "port", "browser", "upload_mb")
    chosen = AppConfig.of({**{key: config[key] for key in keys}, **config.encode})
    folders = _paths(str(config.run), "run")
    check_installed()
    with listening(chosen.host, chosen.port) as socket:
        from gmu_lightning.experiment.environment import prepare_process  # with torch, once the request is right
        from gmu_lightning.playground.command import serve

        prepare_process()
        serve(folders, str(config.threshold), chosen, socket, session.config_dir)


def export(config: DictConfig, session: Session) -> None:
    """Export a run as a folder that predicts anywhere, and upload it if `push` names a place on the hub."""
    from gmu_lightning.config.options import ExportConfig

    chosen = ExportConfig.of({key: config[key] for key in ("onnx", "push", "private")})
    from gmu_lightning.experiment.environment import prepare_process
    from gmu_lightning.exporting.command import export as export_run

    prepare_process()
    run, output = Path(str(config.run)).expanduser(), Path(str(config.output)).expanduser()
    export_run(run, output, session.config_dir, chosen.onnx, chosen.push, chosen.private)


def adopt(config: DictConfig, session: Session) -> None:
    """Write predictions that were made elsewhere as runs, one for each seed."""
    from gmu_lightning.config.options import AdoptConfig

    chosen = AdoptConfig.of({key: config[key] for key in ("name", "modalities", "seed")})
    files = _paths(str(config.predictions), "predictions")
    hydra = _hydra()
    data, home = plain(config)["data"], Path(hydra.runtime.cwd)
    if data.get("root") is not None:
        data["root"] = str(home / Path(str(data["root"])).expanduser())
    store, folder = (home / Path(str(place)).expanduser() for place in (config.store.dir, hydra.run.dir))
    from gmu_lightning.adoption.command import Request
    from gmu_lightning.adoption.command import adopt as adopt_predictions
    from gmu_lightning.experiment.environment import prepare_process

    prepare_process()
    typed = session.as_typed(hydra.overrides.task)
    choice = str(choices_in(hydra)["data"])
    adopt_predictions(Request(chosen, files, data, choice, store, folder, typed, config_dir_in(hydra)))


def _store_of(run: Run) -> str:
    """Return the folder of the run's store; the default folder if that folder is gone or is no store, as a stranger's may be."""
    from gmu_lightning.data.inventory import is_store

    theirs = str((run.config.get("store") or {}).get("dir", ""))
    return theirs if theirs and is_store(Path(theirs)) else "outputs/store"


def compare(config: DictConfig, session: Session) -> None:
    """Compare runs, and write the comparison's files."""
    from gmu_lightning.report.discovery import left_in, readable_runs_in
    from gmu_lightning.report.sentences import markdown
    from gmu_lightning.sweep.files import write_board, write_comparison

    paths = _paths(str(config.runs or ""), "runs")
    runs, damaged = readable_runs_in(paths)
    left = left_in(paths)
    for path, why in left:
        logger.warning(f"left out, for {why}: {path}")
    for _, why in damaged:
        logger.warning(f"left out: {why}")
    left += damaged
    if config.output and (Path(config.output) / "config.yaml").exists():
        raise UserError(f"output={config.output} is the folder of a run, which keeps its own files: give another folder")
    folder = Path(config.output or f"outputs/compare/{datetime.now(UTC).strftime('%Y-%m-%dT%H-%M-%S.%f')}")
    against = None if config.against is None else str(config.against)
    comparison = write_comparison(runs, folder, str(config.metric), against, left, session.config_dir)
    write_board(runs, folder)
    print(markdown(comparison))
    print("\n".join(str(folder / name) for name in ("comparison.json", "checklist.md", "leaderboard.tex", "report.html")))


def _paths(typed: str, key: str) -> list[Path]:
    """Return the folders of a value with commas; a value that exists as a whole is one. Raises UserError if one is empty."""
    folders = [typed] if typed and Path(typed).exists() else typed.split(",")
    if "" in folders:
        if key == "predictions":
            raise UserError(f"{key}={typed} names no file: give a file of predictions, or several with commas")
        sort = "a run or a sweep" if key == "runs" else "a run"
        raise UserError(f"{key}={typed} names no folder: give the folder of {sort}, or several with commas")
    return [Path(folder).expanduser() for folder in folders]


def dashboard(config: DictConfig, session: Session) -> None:
    """Write a sweep's W&B workspace and report as dashboard.json, and with `mode=online` to W&B.

    Raises:
        UserError: the folder holds no runs, a value is wrong, or W&B cannot be reached.
    """
    from gmu_lightning.experiment.loggers import wandb_library, wandb_of
    from gmu_lightning.files import write_json
    from gmu_lightning.report.comparison import compare as compared
    from gmu_lightning.report.discovery import readable_runs_in
    from gmu_lightning.report.wandb_dashboard import Dashboard

    if config.mode not in ("online", "offline"):
        raise UserError(f"mode={config.mode} is none of online and offline: choose one of them")
    wandb_library()
    folder = Path(str(config.runs)).expanduser()
    output = Path(config.output).expanduser() if config.output else folder
    runs, damaged = readable_runs_in([folder])
    for _, why in damaged:
        logger.warning(f"left out: {why}")
    node = wandb_of(run for run in runs if run.status.get("state") == "finished") or {}
    found = Dashboard(
        config.entity or node.get("entity") or "",
        config.project or node.get("project") or "gmu_lightning",
        folder.resolve().name,
        compared(runs, str(config.metric), left=damaged),
    )
    path = output / "dashboard.json"
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_json(path, found.definition())
    except (SyntaxError, ValueError) as error:  # the library reads filters as Python
        why = " ".join(str(error).split())
        raise UserError(f"W&B's library takes no sweep of the name {folder.resolve().name} ({why}): rename the folder") from error
    except OSError as error:
        raise UserError(f"output={output} cannot be written to ({error}): give another folder") from error
    print(path)
    if config.mode == "online":
        print("\n".join(_saved(found, path)))


def _saved(dashboard: Dashboard, path: Path) -> Sequence[str]:
    try:
        return dashboard.save()
    except Exception as error:  # the library raises Exception itself
        why = first_line(error)
        raise UserError(f"W&B could not be reached ({why}): run `wandb login`; what would be written is in {path}") from error


def store(config: DictConfig, session: Session) -> None:
    """List the entries of the store, remove some, or check all of them, and print the result for each.

    Raises:
        UserError: the store does not exist, an entry cannot be removed, or one is damaged.
    """
    from gmu_lightning.config.options import StoreCommandConfig
    from gmu_lightning.data.inventory import listing, remove
    from gmu_lightning.data.verification import verify

    checks = StoreCommandConfig.of({"verify": config.verify}).verify
    root = Path(str(config.store.dir)).expanduser()
    if not root.is_dir():
        raise UserError(f"store.dir={root} does not exist: give the folder in which commands keep what they prepared")
    names = [name.strip() for name in str(config.remove or "").split(",") if name.strip()]
    removes = bool(names) or config.older_than is not None
    if checks and removes:
        raise UserError("verify=true removes no entry: leave out remove and older_than, or type a command of their own")
    if removes:
        print("\n".join(remove(root, names, config.older_than) or ["nothing to remove"]))
    elif checks:
        found = verify(root)
        print("\n".join([*found.damaged, str(found)]))
        if found.damaged:
            raise UserError(f"store.dir={root} holds damage: the next command that needs a damaged entry builds it again")
    else:
        print("\n".join(listing(root)))


def info(config: DictConfig, session: Session) -> None:
    """List the choices of one group, or of every group.

    Raises:
        UserError: there is no such group, or a file of a choice is no valid YAML.
    """
    from gmu_lightning.cli.info import listing

    print("\n".join(listing(None if config.group is None else str(config.group), session.config_dir)))


def doctor(config: DictConfig, session: Session) -> None:
    """Check this machine, and print the result of each check with its remedy.

    Raises:
        UserError: something is wrong.
    """
    from gmu_lightning.cli.doctor.checks import WRONG, all_checks, table

    checks = all_checks(Path(str(config.store.dir)), Path(str(config.output)), bool(config.hub))
    print("\n".join(table(checks)))
    wrong = [check.name for check in checks if check.state == WRONG]
    if wrong:
        raise UserError(f"{len(wrong)} of {len(checks)} checks are wrong ({', '.join(wrong)}): follow the line -> below each")


def _hydra() -> DictConfig:
    return cast(DictConfig, HydraConfig.get())
