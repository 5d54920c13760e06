"""sweep=search: tune every setting with the same budget, then train each winner on fresh seeds.

A comparison at one learning rate favours the fusions that like this rate. Here each setting of the cross product gets the same
number of trials over the same space, from Optuna's TPE sampler with the same seed. The monitored score of val ranks the trials.
The best trial of each setting is trained again on fresh seeds. Only these runs are jobs of the sweep and rows of the leaderboard.
The trials are kept in `search/`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from gmu_lightning.config.checks import check_arguments
from gmu_lightning.config.ranges import Count
from gmu_lightning.files import digest, write_json
from gmu_lightning.movie import UserError
from gmu_lightning.report.search import BUDGET, FOLDER, STUDIES
from gmu_lightning.report.settings import few_seeds
from gmu_lightning.run import Run, runs_under
from gmu_lightning.run_files import records
from gmu_lightning.sweep.session import Session

logger = logging.getLogger(__name__)
SUBDIR = f"hydra.sweep.subdir={FOLDER}/${{words:}}-${{identity:}}"


class Search(Sweeper):
    """The sweeper.

    Args:
        trials: number of trials of each setting.
        at_once: number of trials of each setting that are drawn before the sampler gets their scores.
        seed: of the trials and of the sampler.
        seeds: number of fresh seeds of each winner: 1 to `seeds`.
        space: {key: {choices: [...]} or {low, high, log}}. A key typed with a value leaves the space. A key typed as
            `interval(low,high)` or `tag(log,interval(low,high))` enters it.
        max_batch_size: Hydra's, not used.
    """

    def __init__(
        self, trials: Count, at_once: Count, seed: int, seeds: Count, space: Mapping[str, Any], max_batch_size: int | None = None
    ):
        self.trials, self.at_once, self.seed, self.seeds = trials, at_once, seed, seeds
        self.space: dict[str, Any] = {
            key: OmegaConf.to_container(of) if OmegaConf.is_config(of) else dict(of) for key, of in space.items()
        }

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Prepare for the search. Hydra calls it."""
        self.master = config
        self.loader = hydra_context.config_loader
        self.session: Session = task_function.session
        self.session.begin_sweep(config)
        self.starter = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.jobs = 0

    def sweep(self, arguments: list[str]) -> Any:
        """Search, and train the winners. Hydra calls it with the overrides typed.

        Raises:
            UserError: Optuna is missing, a number or the space is invalid, or the trials' seed is among the fresh seeds.
        """
        self._check()
        settings, fresh = self._settings(arguments)
        if self.master.check:
            print(
                f"{len(settings)} settings, {self.trials} trials each, then {len(fresh)} fresh seeds of each winner", flush=True
            )
            return self._launch([(*one.overrides, f"seed={seed}") for one in settings for seed in fresh])
        folder = Path(self.master.hydra.sweep.dir).absolute()
        self._check_budget(folder)
        if caution := few_seeds([fresh]):
            logger.warning("%s", caution)
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.master, folder / "multirun.yaml")
        while batch := [job for one in settings for job in self._asked(one)]:
            self._launch([(*job, f"seed={self.seed}", SUBDIR) for job in batch])
            self._told(settings, folder)
            self._write(settings, folder)
        self._write(settings, folder)  # a finished search asks for no trial, and its file may lack a setting
        shared = set.intersection(*(set(one.overrides) for one in settings))
        for one in settings:
            name = " ".join(word for word in one.overrides if word not in shared) or "the setting"
            nothing = f"none of its trials finished, so it has no winner; the last one: {one.failure}"
            said = "cannot be trained" if one.incompatible else best_of(one) or nothing
            logger.warning("search: %s: %s", name, said)
        found = self._launch([(*self._winner(one), f"seed={seed}") for one in settings if has_ended(one) for seed in fresh])
        if not all(map(has_ended, settings)):
            raise UserError(f"a setting is left out, for none of its trials finished: {folder / FOLDER} says why, trial by trial")
        return found

    def _check(self) -> None:
        try:
            import optuna
        except ImportError:
            raise UserError("sweep=search needs the package optuna: pip install 'gmu-lightning[search]'") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        numbers = {"trials": self.trials, "at_once": self.at_once, "seeds": self.seeds}
        check_arguments(Search, numbers, "hydra.sweeper")

    def _check_budget(self, folder: Path) -> None:
        """Refuse a search with another budget in a folder of winners that test has scored: a second chance. Raises UserError."""
        path = folder / FOLDER / "search.json"
        if not path.exists() or not runs_under(folder):
            return
        if changed := _unlike(records.search(path), self._report([])):
            raise UserError(
                f"{folder} holds the winners of a search of other {' and '.join(changed)}, which test has judged: "
                "give another hydra.sweep.dir"
            )

    def _check_space(self) -> None:
        if not self.space:
            raise UserError(
                "there is nothing to search over: leave a key of hydra.sweeper.space untyped, or type KEY=interval(LOW,HIGH)"
            )
        for key, of in self.space.items():
            choices, low, high = of.get("choices"), of.get("low"), of.get("high")
            if not choices and not (isinstance(low, int | float) and isinstance(high, int | float) and low < high):
                raise UserError(f"hydra.sweeper.space.{key} is no range: give choices, or low and high with low below high")

    def _settings(self, arguments: Sequence[str]) -> tuple[list[Setting], list[int]]:
        """Return the settings of the cross product, and the fresh seeds."""
        parsed = OverridesParser.create(config_loader=self.loader).parse_overrides(list(arguments))
        fresh = list(range(1, self.seeds + 1))
        lists: list[list[str]] = []
        for line, override in zip(arguments, parsed, strict=True):
            typed_key = override.get_key_element()
            key = typed_key.lstrip("+~")
            self.space.pop(key, None)
            if override.is_interval_sweep():
                value: Any = override.value()
                self.space[key] = {"low": value.start, "high": value.end, "log": "log" in value.tags}
                continue
            values = [str(v) for v in override.sweep_string_iterator()] if override.is_sweep_override() else None
            if key == "seed":
                fresh = _numbers(values or [str(override.value())])
            else:
                lists.append([line] if values is None else [f"{typed_key}={value}" for value in values])
        self._check_space()
        if self.seed in fresh:
            raise UserError(
                f"seed={self.seed} is the trials' own, and a winner is judged on fresh seeds: choose others, or another "
                "hydra.sweeper.seed"
            )
        return [Setting(chosen, self._study(chosen)) for chosen in product(*lists)], fresh

    def _study(self, overrides: tuple[str, ...]) -> Any:
        """Return the setting's study. It is kept in the sweep's folder, so that a search that was stopped can continue."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        sampler = optuna.samplers.TPESampler(seed=self.seed, constant_liar=True)
        if self.master.check:
            return optuna.create_study(direction="maximize", sampler=sampler)
        folder = Path(self.master.hydra.sweep.dir).absolute() / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(folder / STUDIES)))
        name = digest([overrides, self.space, self.seed])[:16]
        return optuna.create_study(study_name=name, storage=storage, direction="maximize", sampler=sampler, load_if_exists=True)

    def _asked(self, one: Setting) -> list[tuple[str, ...]]:
        """Return the overrides of the setting's next trials, first of those that an earlier start left without a score."""
        from optuna.trial import TrialState

        if one.incompatible:
            return []
        trials = one.study.get_trials(deepcopy=False)
        waiting = [t for t in trials if t.state == TrialState.RUNNING and t.params]
        for trial in waiting:
            one.asked.append((trial.number, self._overrides(one, trial.params)))
        for _ in range(min(self.at_once - len(waiting), self.trials - len(trials))):
            new = one.study.ask()
            one.asked.append((new.number, self._overrides(one, {key: suggested(new, key, of) for key, of in self.space.items()})))
        return [overrides for _, overrides in one.asked]

    def _overrides(self, one: Setting, params: Mapping[str, Any]) -> tuple[str, ...]:
        return (*one.overrides, *(f"{key}={text_of(params[key])}" for key in self.space))

    def _told(self, settings: Sequence[Setting], folder: Path) -> None:
        """Give Optuna the score of every trial that waits; a trial without a score counts as failed."""
        from optuna.trial import TrialState

        done = {frozenset(run.overrides): run for run in runs_under(folder / FOLDER)}
        skipped = {frozenset(overrides): reason for overrides, reason in self.session.skipped.values()}
        for one in settings:
            for number, overrides in one.asked:
                typed = frozenset(self.session.as_typed((*overrides, f"seed={self.seed}")))
                run = done.get(typed)
                if typed in skipped:
                    one.incompatible = skipped[typed]
                    one.study.tell(number, state=TrialState.FAIL)
                    continue
                if run is None:
                    raise RuntimeError(f"the trial {' '.join(overrides)} left no run in {folder / FOLDER}")
                score = score_of(run)
                if run.status.get("state") == "failed":
                    one.failure = str(run.status["why"])
                state = TrialState.FAIL if score is None else TrialState.COMPLETE
                one.study.tell(number, score, state=state)
            one.asked.clear()

    def _winner(self, one: Setting) -> tuple[str, ...]:
        """Return the overrides of the best trial; those of the setting if no trial has a score."""
        return self._overrides(one, one.study.best_trial.params) if scores_of(one) else one.overrides

    def _launch(self, jobs: Sequence[tuple[str, ...]]) -> Any:
        self.jobs += len(jobs)
        self.session.plan((None, [word for word in job if word != SUBDIR]) for job in jobs)
        return self.starter.launch([list(job) for job in jobs], initial_job_idx=self.jobs - len(jobs))

    def _write(self, settings: Sequence[Setting], folder: Path) -> None:
        """Write search.json. Settings that an earlier start searched with the same budget stay in it."""
        path, now = folder / FOLDER / "search.json", self._report(settings)
        before = records.none_if_gone(records.search, path, {"settings": []})
        asked = [one["overrides"] for one in now["settings"]]
        kept = [one for one in before["settings"] if one["overrides"] not in asked] if not _unlike(before, now) else []
        write_json(path, {**now, "settings": [*kept, *now["settings"]]})

    def _report(self, settings: Sequence[Setting]) -> dict[str, Any]:
        """Return the content of search.json."""
        return {
            "trials": self.trials,
            "space": self.space,
            "seed": self.seed,
            "monitor": str(self.master.monitor),
            "settings": [
                {
                    "overrides": list(one.overrides),
                    "why_not": one.incompatible,
                    "trials": [{"params": t.params, "score": t.value} for t in one.study.get_trials(deepcopy=False)],
                    "best": dict(one.study.best_trial.params) if scores_of(one) else None,
                }
                for one in settings
            ],
        }


def _unlike(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the keys of the budget in which two contents of search.json differ."""
    return [key for key in BUDGET if before.get(key) != json.loads(json.dumps(now[key]))]


def _numbers(seeds: Sequence[str]) -> list[int]:
    wrong = next((seed for seed in seeds if not seed.isdecimal()), None)
    if wrong is not None:
        raise UserError(f"seed={wrong} is no seed: give a whole number from 0 on, such as seed=1")
    return [int(seed) for seed in seeds]


@dataclass
class Setting:
    """One combination of the cross product without its seed, and its trials.

    Attributes:
        overrides: of the combination.
        study: Optuna's.
        asked: (number, overrides) of the trials that wait for their score.
        incompatible: the reason why the setting cannot be trained; None if it can.
        failure: the reason why its last trial failed.
    """

    overrides: tuple[str, ...]
    study: Any
    asked: list[tuple[Any, tuple[str, ...]]] = field(default_factory=list)
    incompatible: str | None = None
    failure: str = ""


def suggested(trial: Any, key: str, of: Mapping[str, Any]) -> Any:
    """Return the value that Optuna suggests for one key of the space: a choice, an int if both ends are ints, or a float."""
    if of.get("choices"):
        return trial.suggest_categorical(key, list(of["choices"]))
    if isinstance(of["low"], int) and isinstance(of["high"], int):
        return trial.suggest_int(key, of["low"], of["high"], log=bool(of.get("log")))
    return trial.suggest_float(key, float(of["low"]), float(of["high"]), log=bool(of.get("log")))


def text_of(value: Any) -> str:
    """Return a value as it stands in an override; a float has four digits, which read well in a leaderboard."""
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value) if isinstance(value, bool) else str(value)


def score_of(run: Run) -> float | None:
    """Return the monitored score of val at the best epoch; None if the run did not finish, or has no such score."""
    if run.status.get("state") != "finished":
        return None
    found = run.metrics.get(str(run.config.get("monitor")))
    return None if found is None or math.isnan(found) else float(found)


def scores_of(one: Setting) -> list[float]:
    """Return the scores of the setting's trials that have one, in the order of the trials."""
    return [t.value for t in one.study.get_trials(deepcopy=False) if t.value is not None]


def has_ended(one: Setting) -> bool:
    """Return whether the setting has a winner, or cannot be trained."""
    return bool(one.incompatible or scores_of(one))


def best_of(one: Setting) -> str:
    """Return a clause on the best trial and its values; empty if no trial has a score."""
    scores = scores_of(one)
    if not scores:
        return ""
    params = ", ".join(f"{key}={text_of(value)}" for key, value in one.study.best_trial.params.items())
    return f"best val score of {len(scores)} trials {max(scores):.4f} (lowest {min(scores):.4f}) with {params}"
