"""A sweep's W&B workspace and report, built from its runs: what its users would otherwise click together by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gmu_lightning.movie import UserError
from gmu_lightning.report.comparison import Comparison
from gmu_lightning.report.evidence import said
from gmu_lightning.report.markdown import markdown

FUSION = "choices.fusion"  # W&B's name of it in a run's configuration
SCORES = ("test/f1_micro", "test/f1_macro", "test/ap_micro", "test/ap_macro", "test/f1_micro@val")
CURVES = ("val/f1_micro", "val/ap_micro", "train/loss", "val/loss")
OTHERS = ("comparison", "trial")  # runs of the group that are no jobs of the comparison
FIGURES = ("figures/by_genre", "figures/genres")


@dataclass(frozen=True)
class Dashboard:
    """Where the runs are, and what they are of.

    Attributes:
        entity: a W&B user or team; project: theirs.
        group: the sweep's, as its runs were logged.
        comparison: of the sweep.
    """

    entity: str
    project: str
    group: str
    comparison: Comparison

    def workspace(self) -> Any:
        """Runs of the sweep grouped by fusion and modalities: scores, genres, gates and curves, each in its section."""
        ws, wr = _library()
        genres = self.comparison.settings[0].test[0].genres
        return ws.Workspace(
            entity=self.entity,
            project=self.project,
            name=self.title,
            sections=[
                ws.Section(name="Scores on test", is_open=True, panels=[self._bars(score, [score]) for score in SCORES]),
                ws.Section(
                    name="Genre by genre",
                    is_open=True,
                    panels=[
                        self._bars(f"{kind} of {g}", [f"test/{k}/{g}"])
                        for g in genres
                        for kind, k in (("F1", "f1"), ("AP", "ap"))
                    ],
                ),
                ws.Section(name="Gates and genres, run by run", is_open=True, panels=[wr.MediaBrowser(media_keys=list(FIGURES))]),
                ws.Section(name="Curves", panels=[self._curve(name) for name in CURVES]),
                ws.Section(name="Comparison", is_open=True, panels=[wr.MarkdownPanel(markdown=markdown(self.comparison))]),
            ],
            runset_settings=ws.RunsetSettings(
                filters=ws.And(ws.Metric("Group") == self.group, *(ws.Metric("JobType") != kind for kind in OTHERS)),
                groupby=[ws.Config("modalities"), ws.Config(FUSION)],
            ),
        )

    def report(self, panels: bool) -> Any:
        """The comparison in words; with `panels`, which need an account, also its runs' scores."""
        _, wr = _library()
        blocks = [wr.H1(text=self.title), wr.MarkdownBlock(text=markdown(self.comparison))]
        if panels:
            runs = wr.Runset(
                project=self.project, entity=self.entity, name=self.group, filters=f'Metric("Group") == "{self.group}"'
            )
            shown = [self._bars(score, [score]) for score in SCORES] + [wr.MediaBrowser(media_keys=list(FIGURES))]
            blocks.append(wr.PanelGrid(runsets=[runs], panels=shown))
        return wr.Report(project=self.project, entity=self.entity, title=self.title, blocks=blocks)

    @property
    def title(self) -> str:
        """Of both; W&B takes no colons and the like, which could be an emoji's."""
        return re.sub(r"[^\w .,-]", "_", f"{self.group} {said(self.comparison.metric)}")

    def definition(self) -> dict[str, Any]:
        """Both as W&B stores them, as far as that can be known without an account."""
        return {
            "workspace": self.workspace()._to_model().model_dump(mode="json", by_alias=True, exclude_none=True),
            "report": self.report(panels=False)._to_model().model_dump(mode="json", by_alias=True, exclude_none=True),
        }

    def save(self) -> Sequence[str]:
        """Write both to W&B; their addresses."""
        workspace, report = self.workspace(), self.report(panels=True)
        workspace.save()
        report.save()
        return [str(workspace.url), str(report.url)]

    def _bars(self, title: str, metrics: Sequence[str]) -> Any:
        _, wr = _library()
        how = {"groupby": wr.Config(FUSION), "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
        return wr.BarPlot(title=title, metrics=list(metrics), **how)

    def _curve(self, name: str) -> Any:
        _, wr = _library()
        how = {"groupby": wr.Config(FUSION), "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
        return wr.LinePlot(title=name, x="epoch", y=[name], **how)


def _library() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError:
        raise UserError("a W&B dashboard needs the package wandb-workspaces: pip install 'gmu-lightning[dashboard]'") from None
    return ws, wr
