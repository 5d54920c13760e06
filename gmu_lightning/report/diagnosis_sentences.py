"""A setting's diagnoses in words, and the rules for the claims in them."""

from __future__ import annotations

from typing import Literal

from gmu_lightning.report.caveats import listed
from gmu_lightning.report.diagnosis import Combined
from gmu_lightning.report.scoring import metric_label, name_for
from gmu_lightning.report.statistics import Interval
from gmu_lightning.report.words import points

MARGIN = 0.005  # half a point: a smaller effect is none
ROUNDING = 1e-12
Verdict = Literal["yes", "no", "reversed", "open"]


def verdict(cost: Interval) -> Verdict:
    """Return whether a cost is an effect.

    `yes`: the whole interval lies above the margin. `reversed`: it lies below the negative margin. `no`: it lies between both.
    `open`: anything else, and an unknown interval.
    """
    if cost.low is None or cost.high is None:
        return "open"
    if cost.low > MARGIN:
        return "yes"
    if cost.high < -MARGIN:
        return "reversed"
    return "no" if cost.low >= -MARGIN and cost.high <= MARGIN else "open"


def interaction_helps(of: Combined, metric: str = "f1_micro") -> Verdict:
    """Return whether the interaction of modalities helps: whether the best additive approximation scores lower."""
    return verdict(of.costs[f"emap/{kind(metric)}"])


def gates_weigh(of: Combined, metric: str = "f1_micro") -> Verdict | None:
    """Return whether the gates weigh the modalities of single movies; None for a fusion without gates.

    `yes` takes two findings: other movies' gates score lower, and so does the best additive approximation. Permutation alone is
    not enough. Gates of other movies add noise. So they cost points even if all movies need the same weights.
    """
    key = f"gates_permuted/{kind(metric)}"
    if key not in of.costs:
        return None
    found = verdict(of.costs[key])
    return "open" if found == "yes" and interaction_helps(of, metric) != "yes" else found


def modality_helps(of: Combined, modality: str) -> Verdict:
    """Return whether a modality is worth anything: the verdict on its Shapley value of micro AP.

    F1 at a threshold is no measure of it: a model that names genres at random has a higher F1 than one that names none.
    """
    return verdict(of.shapley(modality, "ap_micro"))


def told_by(of: Combined) -> dict[str, list[str]]:
    """Return {modality: the genres that it tells above all others}: the ends of the Shapley intervals do not overlap there."""
    found: dict[str, list[str]] = {m: [] for m in of.modalities}
    for genre in of.genres:
        worth = of.shapley_of(genre)
        known = {m: (one.low, one.high) for m, one in worth.items() if one.low is not None and one.high is not None}
        if len(known) < len(of.modalities):
            continue
        best = max(known, key=lambda m: known[m][0])
        if known[best][0] > max([MARGIN, *(high for m, (_, high) in known.items() if m != best)]):
            found[best].append(genre)
    return found


def kind(metric: str) -> str:
    """Return the diagnosed score that is nearest to a metric: `ap_micro` for average precisions, and `f1_micro` for others."""
    return "ap_micro" if metric.startswith("ap_") else "f1_micro"


def sentences(name: str, of: Combined, metric: str = "f1_micro") -> list[str]:
    """Return the findings on a setting, one sentence each; [] for a single modality.

    Args:
        name: of the setting or the run.
        of: its combined diagnoses.
        metric: of the comparison.
    """
    if len(of.modalities) < 2:
        return []
    found = [_on_gates(of, metric), _on_interaction(of, metric), _on_modalities(of), _on_genres(of), _on_information(of)]
    return [f"{name}: {sentence}" for sentence in found if sentence]


def basis(of: Combined) -> str:
    """Return what the intervals of a setting's diagnoses are over."""
    movies = f"{of.movies:,} {of.split} movies"
    if of.over_seeds:
        return f"intervals over {movies} and {of.runs} seeds"
    return f"intervals over {movies}, for {'this run' if of.runs == 1 else f'these {of.runs} runs'} alone"


def _on_gates(of: Combined, metric: str) -> str | None:
    found = gates_weigh(of, metric)
    if found is None:
        return None
    cost = of.costs[f"gates_permuted/{kind(metric)}"]
    if _nothing(cost):
        return "the gates are the same for all movies that have the same modalities"
    words = f"permuting the gates among movies costs {_points(cost, of, metric)}"
    if found == "open" and verdict(cost) == "yes":
        return f"{words}. Weighing is not shown by this, because the best additive approximation does not clearly score lower"
    return (
        words
        + {
            "yes": ": the gates weigh single movies",
            "no": ": they have no effect on single movies here",
            "reversed": ": the gates of other movies score higher",
            "open": ": an effect on single movies is not shown",
        }[found]
    )


def _on_interaction(of: Combined, metric: str) -> str:
    cost = of.costs[f"emap/{kind(metric)}"]
    if _nothing(cost):
        return "the model is additive, so its modalities do not interact"
    words = f"the best additive approximation (EMAP) costs {_points(cost, of, metric)}"
    return (
        words
        + {
            "yes": ": the interaction of modalities helps",
            "no": ": the interaction of modalities has no effect here",
            "reversed": ": the interaction of modalities does not help here",
            "open": ": a benefit of the interaction of modalities is not shown",
        }[interaction_helps(of, metric)]
    )


def _on_modalities(of: Combined) -> str:
    worth = ", ".join(f"{m} {points(of.shapley(m, 'ap_micro'))}" for m in of.modalities)
    words = f"Shapley values of micro AP above the bias alone: {worth}"
    useless = [m for m in of.modalities if modality_helps(of, m) in ("no", "reversed")]
    if not useless:
        return words
    names = listed(useless)
    return f"{words}. {names[0].upper()}{names[1:]} add{'s' if len(useless) == 1 else ''} nothing here"


def _nothing(cost: Interval) -> bool:
    """Return whether every run keeps its score, except for rounding."""
    return all(value is not None and abs(value) < ROUNDING for value in cost)


def _on_genres(of: Combined) -> str | None:
    found = [f"{m} tells {listed(genres)}" for m, genres in told_by(of).items() if genres]
    return f"by Shapley values of average precision, {'; '.join(found)}" if found else None


def _on_information(of: Combined) -> str:
    parts = {f"{m} alone": of.measures[f"information/unique/{m}"].mean for m in of.modalities}
    parts |= {"shared": of.measures["information/redundant"].mean}
    each = ", ".join(f"{bits:.3f} {word}" for word, bits in parts.items())
    return f"the modalities tell {of.measures['information/joint'].mean:.3f} bits about a genre on average ({each})"


def _points(cost: Interval, of: Combined, metric: str) -> str:
    return points(cost, f" of {_label(of, metric)}")


def _label(of: Combined, metric: str) -> str:
    return metric_label(name_for(kind(metric), of.task))
