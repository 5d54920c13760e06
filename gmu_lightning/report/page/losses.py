"""What scores lose without a modality, setting by setting, and the command that asks those which do not tell yet."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gmu_lightning.report.evidence import Evidence, said
from gmu_lightning.report.faithfulness import SCORES, Faithfulness, faithfulness
from gmu_lightning.run import Run


def losses_of(settings: Iterable[Evidence]) -> dict[str, Faithfulness]:
    """{setting: what it lost}, of those of several modalities that were asked."""
    several = (one for one in settings if len(one.test[0].modalities) > 1)
    return {one.name: found for one in several if (found := faithfulness(one.setting.finished)) is not None}


def loss_table(settings: Sequence[Evidence], losses: Mapping[str, Faithfulness]) -> dict[str, Any]:
    """A row for every setting of several modalities, asked or not; empty where there is none."""
    several = [one for one in settings if len(one.test[0].modalities) > 1]
    if not several:
        return {}
    modalities = list(dict.fromkeys(m for one in several for m in one.test[0].modalities))
    columns = [f"{said(score)} lost without {modality}" for modality in modalities for score in SCORES]
    return {"columns": columns, "rows": [_row(one, losses.get(one.name), modalities) for one in several]}


def _row(one: Evidence, found: Faithfulness | None, modalities: Sequence[str]) -> dict[str, Any]:
    asked = one.setting.finished if found is None else found.others
    lost = {} if found is None else {(m, s): float(found.lost[s][k]) for k, m in enumerate(found.modalities) for s in SCORES}
    return {
        "name": one.name,
        "seeds": f"{len(one.test) - len(asked)} of {len(one.test)}",
        "values": [lost.get((modality, score), math.nan) for modality in modalities for score in SCORES],
        "command": _evaluations(asked),
    }


def _evaluations(runs: Iterable[Run]) -> str:
    """The command that asks these runs; empty of none."""
    each = ([f"run={run.folder.absolute()}", "robustness=true"] for run in runs)
    return "; ".join(shlex.join(["python", "-m", "gmu_lightning.evaluate", *words]) for words in each)
