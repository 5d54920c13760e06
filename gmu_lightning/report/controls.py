"""Is it the gate? Each gate that weighs modalities beside the control whose gates see one modality each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gmu_lightning.report.commands import with_fusion
from gmu_lightning.report.evidence import Evidence
from gmu_lightning.report.fairness import OF_EVERY_FUSION, differing
from gmu_lightning.report.inference import Interval
from gmu_lightning.report.verdicts import Pair, points

CONTROL = "self_gate"
FIXED = ("mean", "late")  # their gates are 1 over the number of modalities
ONE_EACH = "whose gates see one modality each"
NO_BENEFIT = "no benefit of weighing modalities can be claimed here"


@dataclass(frozen=True)
class Control:
    """A gate, its control, and what can be claimed of both.

    Attributes:
        control: None where no setting is one.
        verdict: `gate` or `control`, whichever beats the other; `none`; None where they are not compared.
        interval: of the gate's score less the control's.
        command: trains the control; None where there is one.
    """

    gate: str
    control: str | None
    verdict: str | None
    sentence: str
    interval: Interval | None = None
    p_holm: float | None = None
    command: str | None = None

    def row(self) -> dict[str, Any]:
        """Of comparison.json."""
        mean, low, high = self.interval or (None, None, None)
        found = {"gate": self.gate, "control": self.control, "verdict": self.verdict, "sentence": self.sentence}
        return found | {"difference": mean, "low": low, "high": high, "p_holm": self.p_holm, "command": self.command}


def controls_of(settings: Sequence[Evidence], pairs: Sequence[Pair], refused: Mapping[frozenset[str], str]) -> list[Control]:
    """Set every gate beside its controls, which share its modalities and its configuration except the fusion.

    Args:
        refused: {names of two settings: why they are not compared}.
    """
    controls = [one for one in settings if _fusion(one) == CONTROL and one.config["fusion"].get("gate", True)]
    compared = {frozenset((pair.a.name, pair.b.name)): pair for pair in pairs}
    found, alone = [], []
    for gate in settings:
        if gate.test[0].gate is None or _fusion(gate) in FIXED:
            continue
        own = [one for one in controls if _alike(gate, one)]
        alone += [] if own else [gate]
        for control in own:
            names = frozenset((gate.name, control.name))
            pair = compared.get(names)
            found.append(_judged(gate, control, pair) if pair else _not_compared(gate, control, refused.get(names)))
    return found + _without(alone)


def _fusion(one: Evidence) -> str:
    return str(one.setting.values["fusion"])


def _alike(a: Evidence, b: Evidence) -> bool:
    return a.test[0].modalities == b.test[0].modalities and not differing([a.setting, b.setting])


def _judged(gate: Evidence, control: Evidence, pair: Pair) -> Control:
    mean, low, high = pair.difference.interval
    interval = pair.difference.interval
    if pair.a is control:
        interval = Interval(-mean, None if high is None else -high, None if low is None else -low)
    verdict = {"none": "none", "a": "gate", "b": "control"} if pair.a is gate else {"none": "none", "a": "control", "b": "gate"}
    who, size = f"{control.name}, {ONE_EACH}", points(interval)
    won = verdict[pair.verdict]
    if pair.too_few:
        sentence = f"{gate.name} cannot be judged against {who}: {pair.too_few}"
    elif won == "gate":
        sentence = f"{gate.name} beats {who}, by {size}: weighing modalities against each other helps here"
    elif won == "control":
        lead = points(Interval(-interval.mean, *(None if end is None else -end for end in (interval.high, interval.low))))
        sentence = f"{gate.name} is beaten by {who}, by {lead}: {NO_BENEFIT}"
    else:
        sentence = f"{gate.name} does not beat {who} ({size}): {NO_BENEFIT}"
    return Control(gate.name, control.name, None if pair.too_few else won, sentence, interval, pair.p_holm)


def _not_compared(gate: Evidence, control: Evidence, why: str | None) -> Control:
    reason = why or "this comparison is against another setting"
    sentence = f"{gate.name} is not compared with {control.name}, {ONE_EACH}: {reason}"
    return Control(gate.name, control.name, None, sentence)


def _without(gates: Sequence[Evidence]) -> list[Control]:
    """One sentence for all gates that lack the same control."""
    groups: list[list[Evidence]] = []
    for gate in gates:
        group = next((of for of in groups if _alike(gate, of[0])), None)
        if group is None:
            groups.append([gate])
        else:
            group.append(gate)
    found = []
    for group in groups:
        names = " and ".join(filter(None, [", ".join(one.name for one in group[:-1]), group[-1].name]))
        has = "has" if len(group) == 1 else "have"
        sentence = f"{names} {has} no control to beat: add fusion={CONTROL}, {ONE_EACH}, to see whether weighing modalities helps"
        command = with_fusion(group[0].setting, CONTROL, OF_EVERY_FUSION)
        found += [Control(one.name, None, None, sentence, command=command) for one in group]
    return found
