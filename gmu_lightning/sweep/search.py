"""sweep=search: every setting tuned with the same budget, then judged on seeds that tuned nothing.

A comparison of fusions at one learning rate is a comparison of who likes that rate. Here each setting of the cross product gets
as many trials over the same space, from a sampler of the same seed (Optuna's TPE), scored by the monitored score of val. What
wins is trained again on fresh seeds. These runs alone are the sweep's jobs and its leaderboard; the trials stand in `search/`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from gmu_lightning.files import digest, write_json
from gmu_lightning.movie import UserError
from gmu_lightning.report.search import BUDGET, FOLDER, STUDIES
from gmu_lightning.run import runs_under
from gmu_lightning.run_files import records
from gmu_lightning.sweep.callback import SweepFiles
from gmu_lightning.sweep.composition import Composer
from gmu_lightning.sweep.task import TYPED
from gmu_lightning.sweep.trials import Setting, best_of, has_ended, score_of, scores_of, suggested, text_of

SUBDIR = f"hydra.sweep.subdir={FOLDER}/${{words:}}-${{identity:}}"


class Search(Sweeper):
    """The sweeper.

    Args:
        trials: of each setting.
        at_once: how many of each are drawn before the next ones learn from them.
        seed: of trials and sampler.
        seeds: how many fresh ones the winner gets, from 1 on.
        space: {key: {choices: [...]} or {low, high, log}}; a key that is typed with a value, or values, leaves it, one that is
            typed as `interval(low,high)` or `tag(log,interval(low,high))` comes into it.
        max_batch_size: Hydra's, not used.
    """

    def __init__(
        self, trials: int, at_once: int, seed: int, seeds: int, space: Mapping[str, Any], max_batch_size: int | None = None
    ):
        self.trials, self.at_once, self.seed, self.seeds = trials, at_once, seed, seeds
        self.space: dict[str, Any] = {
            key: OmegaConf.to_container(of) if OmegaConf.is_config(of) else dict(of) for key, of in space.items()
        }

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Called by Hydra."""
        self.master = config
        self.loader = hydra_context.config_loader
        self.starter = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.composer = getattr(self.starter, "composer", None) or Composer(self.loader, config)
        self.jobs = 0

    def sweep(self, arguments: list[str]) -> Any:
        """Called by Hydra with what was typed.

        Raises:
            UserError: Optuna is not installed, a number or the space is none, or a fresh seed is the trials'.
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
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.master, folder / "multirun.yaml")
        while batch := [job for one in settings for job in self._asked(one)]:
            self._launch([(*job, f"seed={self.seed}", SUBDIR) for job in batch])
            self._told(settings, folder)
            self._write(settings, folder)
        self._write(settings, folder)  # nothing was asked of a search that had ended, whose file may lack a setting
        shared = set.intersection(*(set(one.overrides) for one in settings))
        for one in settings:
            name = " ".join(word for word in one.overrides if word not in shared) or "the setting"
            nothing = f"none of its trials finished, so it has no winner; the last one: {one.failure}"
            said = "cannot be trained" if one.senseless else best_of(one) or nothing
            print(f"search: {name}: {said}", file=sys.stderr, flush=True)
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
        for name in ("trials", "at_once", "seeds"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"hydra.sweeper.{name}={value} is no such number: give a whole number from 1 on")

    def _check_budget(self, folder: Path) -> None:
        """A second search beside winners that test has judged would give every setting a second ticket. Raises UserError."""
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
        """The cross product without its seeds, and the fresh seeds."""
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
        """Kept in the sweep's folder, so that a search that was stopped goes on."""
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
        """The setting's next trials, as overrides: those that an earlier start left without a score first."""
        from optuna.trial import TrialState

        if one.senseless:
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
        """The score of every trial that waits, found by its overrides; one that failed has none."""
        from optuna.trial import TrialState

        done = {frozenset(run.overrides): run for run in runs_under(folder / FOLDER)}
        for one in settings:
            for number, overrides in one.asked:
                run = done.get(frozenset(TYPED.get(word, word) for word in (*overrides, f"seed={self.seed}")))
                if run is None:
                    raise RuntimeError(f"the trial {' '.join(overrides)} left no run in {folder / FOLDER}")
                score = score_of(run)
                if run.status.get("state") == "skipped":
                    one.senseless = str(run.status["why"])
                if run.status.get("state") == "failed":
                    one.failure = str(run.status["why"])
                state = TrialState.FAIL if score is None else TrialState.COMPLETE
                one.study.tell(number, score, state=state)
            one.asked.clear()

    def _winner(self, one: Setting) -> tuple[str, ...]:
        """The best trial's overrides; of what cannot be trained the setting itself, whose jobs say why."""
        return self._overrides(one, one.study.best_trial.params) if scores_of(one) else one.overrides

    def _launch(self, jobs: Sequence[tuple[str, ...]]) -> Any:
        self.jobs += len(jobs)
        self.composer.check(jobs)
        SweepFiles.plan((None, [word for word in job if word != SUBDIR]) for job in jobs)
        return self.starter.launch([list(job) for job in jobs], initial_job_idx=self.jobs - len(jobs))

    def _write(self, settings: Sequence[Setting], folder: Path) -> None:
        """search.json; settings that an earlier start searched with the same budget stay in it."""
        path, now = folder / FOLDER / "search.json", self._report(settings)
        before = records.none_if_gone(records.search, path, {"settings": []})
        asked = [one["overrides"] for one in now["settings"]]
        kept = [one for one in before["settings"] if one["overrides"] not in asked] if not _unlike(before, now) else []
        write_json(path, {**now, "settings": [*kept, *now["settings"]]})

    def _report(self, settings: Sequence[Setting]) -> dict[str, Any]:
        """search.json."""
        return {
            "trials": self.trials,
            "space": self.space,
            "seed": self.seed,
            "monitor": str(self.master.monitor),
            "settings": [
                {
                    "overrides": list(one.overrides),
                    "why_not": one.senseless,
                    "trials": [{"params": t.params, "score": t.value} for t in one.study.get_trials(deepcopy=False)],
                    "best": dict(one.study.best_trial.params) if scores_of(one) else None,
                }
                for one in settings
            ],
        }


def _unlike(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two searches' files differ in, their settings aside."""
    return [key for key in BUDGET if before.get(key) != json.loads(json.dumps(now[key]))]


def _numbers(seeds: Sequence[str]) -> list[int]:
    wrong = next((seed for seed in seeds if not seed.isdecimal()), None)
    if wrong is not None:
        raise UserError(f"seed={wrong} is no seed: give a whole number from 0 on, such as seed=1")
    return [int(seed) for seed in seeds]
