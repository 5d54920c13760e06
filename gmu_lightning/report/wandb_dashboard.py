"""A sweep's W&B workspace and report, built from its runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gmu_lightning.movie import UserError
from gmu_lightning.report.comparison import Comparison
from gmu_lightning.report.scoring import metric_label, name_for
from gmu_lightning.report.sentences import markdown

SCORES = ("test/f1_micro", "test/f1_macro", "test/ap_micro", "test/ap_macro", "test/f1_micro@val")
CURVES = ("val/f1_micro", "val/ap_micro", "train/loss", "val/loss")
OTHERS = ("comparison", "trial")  # runs of the group that are no jobs of the comparison
OVER_SEEDS = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}  # of the groups of the runs' table, which panels follow
FIGURES = ("figures/by_genre", "figures/genres")


@dataclass(frozen=True)
class Dashboard:
    """Place and content of a sweep in W&B.

    Attributes:
        entity: a W&B user or team; project: theirs.
        group: name of the sweep's group.
        comparison: of the sweep.
    """

    entity: str
    project: str
    group: str
    comparison: Comparison

    def workspace(self) -> Any:
        """Return a workspace with the sweep's runs grouped by setting: scores, genres, gates and curves."""
        ws, wr = _library()
        genres = self.comparison.settings[0].test[0].genres
        return ws.Workspace(
            entity=self.entity,
            project=self.project,
            name=self.title,
            sections=[
                ws.Section(name="Scores on test", is_open=True, panels=self._scores()),
                ws.Section(
                    name="Genre by genre",
                    is_open=True,
                    panels=[
                        wr.BarPlot(title=f"{kind} of {g}", metrics=[f"test/{k}/{g}"], **OVER_SEEDS)
                        for g in genres
                        for kind, k in (("F1", "f1"), ("AP", "ap"))
                    ],
                ),
                ws.Section(name="Gates and genres, run by run", is_open=True, panels=[wr.MediaBrowser(media_keys=list(FIGURES))]),
                ws.Section(name="Curves", panels=[wr.LinePlot(title=name, x="epoch", y=[name], **OVER_SEEDS) for name in CURVES]),
                ws.Section(name="Comparison", is_open=True, panels=[wr.MarkdownPanel(markdown=markdown(self.comparison))]),
            ],
            runset_settings=ws.RunsetSettings(
                filters=ws.And(ws.Metric("Group") == self.group, *(ws.Metric("JobType") != kind for kind in OTHERS)),
                groupby=[ws.Config(key) for key in self._setting],
            ),
        )

    def report(self, online: bool) -> Any:
        """Return a report of the comparison and its runs' scores; `online` looks up the runs in W&B."""
        _, wr = _library()
        kept = [f'Metric("Group") == "{self.group}"', *(f'Metric("JobType") != "{kind}"' for kind in OTHERS)]
        runs = wr.Runset(
            project=self.project,
            entity=self.entity if online else "",
            name=self.group,
            filters=" and ".join(kept),
            groupby=[f"config.{key}" for key in self._setting],
        )
        panels = [*self._scores(), wr.MediaBrowser(media_keys=list(FIGURES))]
        words = [wr.H1(text=self.title), wr.MarkdownBlock(text=markdown(self.comparison))]
        blocks = [*words, wr.PanelGrid(runsets=[runs], panels=panels)]
        return wr.Report(project=self.project, entity=self.entity, title=self.title, blocks=blocks)

    @property
    def title(self) -> str:
        """Title of both, without punctuation that W&B reads as an emoji."""
        return re.sub(r"[^\w .,-]", "_", f"{self.group} {metric_label(self.comparison.metric)}")

    def definition(self) -> dict[str, Any]:
        """Return both in W&B's format, as far as possible without an account."""
        return {
            "workspace": self.workspace()._to_model().model_dump(mode="json", by_alias=True, exclude_none=True),
            "report": self.report(online=False)._to_model().model_dump(mode="json", by_alias=True, exclude_none=True),
        }

    def save(self) -> Sequence[str]:
        """Write both to W&B and return their addresses."""
        workspace, report = self.workspace(), self.report(online=True)
        workspace.save()
        report.save()
        return [str(workspace.url), str(report.url)]

    def _scores(self) -> list[Any]:
        _, wr = _library()
        first = self.comparison.settings[0]
        scores = [f"test/{name_for(score.removeprefix('test/'), first.task)}" for score in SCORES if first.has(score)]
        return [wr.BarPlot(title=score, metrics=[score], **OVER_SEEDS) for score in scores]

    @property
    def _setting(self) -> list[str]:
        """W&B's names of the keys that distinguish settings."""
        first = self.comparison.settings[0]
        choices = first.config.get("choices") or {}
        return [f"choices.{key}" if key in choices else key for key in first.setting.values]


def _library() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError:
        raise UserError("a W&B dashboard needs the package wandb-workspaces: pip install 'gmu-lightning[dashboard]'") from None
    return ws, wr
