"""Reproduced, not reproduced, or undecided: the verdict on each class and motion, and its reasons.

What is asked, in this order: do the particles of one half bear out the other half's network at all (evidence of what it
never saw)? Is this class or motion the same in both halves, more than any other? Is it more than the same analysis
finds in particles that do not vary (the null)? Is it more than contrast, as broken particles or other objects give?
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from gaussemble.analysis.chance import LEAST, SURE
from gaussemble.options import StageOptions

SIGNIFICANT = 3.0  # binomial errors
REPRODUCED, NOT, UNDECIDED = "reproduced", "not reproduced", "undecided"
STRUCTURE = 0.3  # least share of what sets a class apart that is neither contrast nor round
FADING = 0.9  # cosine with a fading of the whole molecule from which a change is no structure's
WHOLE = 0.95  # correlation with a motion of the whole as one body; two equal halves about a hinge reach 0.94
BEYOND = 1.5  # times the null's largest
EVEN = 0.5  # cosine of two fields of as much signal as noise
RATIO = 2.0  # of two reproduced motions' lengths, at most
SCORES = {  # the name in verdict.json, and in words
    "classes_reproduced": "classes reproduced",
    "difference_correlation": "correlation of difference maps, best class",
    "shared": "contrast of what sets classes apart, largest",
    "motions_reproduced": "motions reproduced",
    "motion_cosine": "cosine of motions, best",
    "motion_followed": "cosine between the same particles, best",
    "motion_size": "size of motions, largest",
    "evidence": "evidence of unseen particles (nats)",
    "canonical_correlation": "first canonical correlation",
    "rand_index": "adjusted Rand index of clusters",
    "neighbor_overlap": "share of common neighbours",
}


class Options(StageOptions):
    """Options of the stage `agreement`."""

    resolution: float | None = Field(
        default=None,
        gt=0,
        description="Resolution in Å to which maps are compared; none: the median over all classes of where the FSC of "
        "their half-maps falls below 0.5.",
    )
    correlation: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Least correlation of difference maps of a reproduced class; 0.5 is as much signal as noise.",
    )
    cosine: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="Least cosine of the changes of a reproduced motion; 0.5 is as much signal as noise, but fields "
        "are smooth.",
    )
    size_tolerance: float = Field(
        default=0.05,
        ge=0,
        description="By how much the fraction of particles of a reproduced class may differ between the halves, on top "
        "of three binomial errors.",
    )
    null: int = Field(
        default=1,
        ge=0,
        description="Null runs: the same analysis of both halves on particles simulated from the neutral mixtures, in "
        "which nothing varies; each takes as long as the halves did. 0: none; for a p-value of 0.05, 19.",
    )


Doubt = tuple[str, str]  # a verdict that is not "reproduced", and why


@dataclass(frozen=True)
class Null:
    """What the null runs found: of each score its value in each run."""

    values: dict[str, list[float]]
    runs: int

    def largest(self, score: str) -> float:
        """Over the runs; 0 without any."""
        return max(self.values.get(score, []), default=0.0)

    def probability(self, score: str, value: float) -> float | None:
        """Of so much where nothing varies: (1 + runs with as much) / (1 + runs); None without runs."""
        found = self.values.get(score, [])
        return (1 + sum(each >= value for each in found)) / (1 + len(found)) if found else None


def read_null(verdicts: list[dict[str, Any]]) -> Null:
    """From the verdicts on null runs."""
    scores = [each["scores"] for each in verdicts]
    values = {name: [run[name] for run in scores if run.get(name) is not None] for name in SCORES}
    return Null(values, len(verdicts))


def no_evidence(evidence: dict[str, Any] | None) -> Doubt | None:
    """Why nothing can be reproduced: unseen particles are no likelier with heterogeneity, or nobody has asked them."""
    if evidence is None:
        return UNDECIDED, "whether it makes unseen particles likelier is not known: the stage crossing was not run"
    if evidence["both"]["beyond_chance"]:
        return None
    return NOT, f"particles that a network never saw are no likelier if they vary ({evidence_text(evidence['both'])})"


def evidence_text(found: dict[str, Any]) -> str:
    """A gain and its error, with its unit."""
    return f"{gain_text(found)} nats a particle"


def gain_text(found: dict[str, Any]) -> str:
    """A gain and its error, to the error's two digits."""
    error = found["error"]
    digits = max(0, 1 - int(np.floor(np.log10(error)))) if 0 < error < np.inf else 2
    return f"{found['gain']:.{min(digits, 6)}f} ± {error:.{min(digits, 6)}f}"


def judge(row: dict, chance: float, options: Options, nothing: Doubt | None, null: Null) -> Doubt:
    """The verdict on one match of classes and its reason in numbers.

    Whether the match is nearer than the next class is judged on Fisher's scale, where a correlation r has the standard
    error 1 / sqrt(n) whatever it is: the lead is `atanh r_match - atanh r_next`, and its bound sqrt(2) * chance.

    Args:
        row: of matches.csv.
        chance: a correlation that unrelated difference maps hardly exceed.
        options: see `Options`.
        nothing: why no class can be reproduced (`no_evidence`).
        null: what the null runs found.
    """
    own, other = row["difference_correlation"], row["difference_runner_up"]
    if not np.isfinite(other):
        return UNDECIDED, "a half has one class only: nothing to tell it from"
    near, far = fisher(own), fisher(other)
    alike = f"difference maps correlate by {own:.2f} (next class {other:.2f})"
    if nothing and nothing[0] == NOT:
        return NOT, f"{alike}, but {nothing[1]}"
    if own <= chance:
        return NOT, f"{alike}, no more than unrelated maps may ({chance:.2f})"
    if near - far < -np.sqrt(2) * chance:
        return NOT, f"{alike}: another class is nearer"
    if near - far <= np.sqrt(2) * chance:
        return UNDECIDED, f"{alike}: two classes that cannot be told apart"
    if own < options.correlation:
        return UNDECIDED, f"{alike}: more than by chance ({chance:.2f}), but more noise than signal"
    doubt = beside_null(row["shared"], null.largest("shared"), "the contrast of what sets it apart")
    if doubt := doubt or no_structure(row["structure"], "sets it apart") or other_sizes(row, options) or nothing:
        return doubt[0], f"{alike}, but {doubt[1]}"
    return REPRODUCED, f"{alike} and agree to {row['difference_resolution_0.5']:.1f} Å; sizes agree"


def fisher(correlation: float) -> float:
    """A correlation on the scale on which its error does not depend on it."""
    return float(np.arctanh(np.clip(correlation, -0.999999, 0.999999)))


def beside_null(value: float, largest: float, what: str, scale: Callable[[float], float] = float) -> Doubt | None:
    """The verdict where a score is no more than the null's, and in words why; None where it is clearly more.

    `scale`: on which `BEYOND` times the null's is clearly more.
    """
    if scale(value) >= BEYOND * scale(largest):
        return None
    words = f"{what}, {value:.2g}, is {'no more than' if value <= largest else 'close to'} the null's, {largest:.2g}"
    return (NOT if value <= largest else UNDECIDED), words


def no_structure(share: float, what: str) -> Doubt | None:
    """Where most of a difference is what misaligned or broken particles and other objects give."""
    if share >= STRUCTURE:
        return None
    return UNDECIDED, (
        f"{1 - share:.0%} of what {what} is contrast and round density, as particles give that are misaligned, broken "
        "or of something else"
    )


def other_sizes(row: dict, options: Options) -> Doubt | None:
    """Where the halves differ in the share of particles that a class has."""
    error = np.hypot(row["fraction_error_even"], row["fraction_error_odd"])
    if abs(row["fraction_even"] - row["fraction_odd"]) <= SIGNIFICANT * error + options.size_tolerance:
        return None
    return UNDECIDED, (
        "sizes differ: {fraction_even:.1%} of the even, {fraction_odd:.1%} of the odd particles".format(**row)
    )


def judge_motion(row: dict[str, Any], options: Options, nothing: Doubt | None, null: Null) -> Doubt:
    """The verdict on one match of motions and its reason in numbers; arguments as of `judge`."""
    own = compared(row, options)
    alike = alike_text(own)
    if nothing and nothing[0] == NOT:
        return NOT, f"{alike}, but {nothing[1]}"
    if row["gain"] <= max(LEAST, SURE * row["gain_error"]):
        found = evidence_text({"gain": row["gain"], "error": row["gain_error"]})
        return NOT, f"{alike}, but unseen particles are no likelier for it ({found})"
    if doubt := beside_null(row["size"], null.largest("motion_size"), "its size"):
        return doubt[0], f"{alike}, but {doubt[1]}"
    if own["cosine"] < options.cosine:
        return unlike(own, options, alike)
    score = "motion_followed" if own["same_particles"] else "motion_cosine"
    doubt = beside_null(own["cosine"], null.largest(score), "the cosine", fisher)
    if doubt := doubt or not_structural(row) or other_lengths(own) or nothing:
        return doubt[0], f"{alike}, but {doubt[1]}"
    return REPRODUCED, alike


def compared(row: dict[str, Any], options: Options) -> dict[str, Any]:
    """What a match of motions is judged by: the trajectories, or where these are not the same, the same particles.

    The row with the key same_particles, and in the second case the numbers of its key followed in place of its own.
    """
    if row["cosine"] < options.cosine <= row["followed"]["cosine"]:
        return row | row["followed"] | {"same_particles": True}
    return row | {"same_particles": False}


def alike_text(own: dict[str, Any]) -> str:
    """How alike two motions are (of `compared`)."""
    text = f"changes have a cosine of {own['cosine']:.2f}"
    if own["same_particles"]:
        text = f"axes differ, but between the same particles {text}"
    if own["kind"] == "motion":
        return f"{text}; {np.mean(own['displacement']):.1f} Å long, they differ by {own['difference']:.1f} Å"
    return f"{text}, mostly of what is present and absent"


def unlike(own: dict[str, Any], options: Options, alike: str) -> Doubt:
    """The verdict where neither trajectories nor particles agree."""
    if own["span"] >= options.cosine:
        return UNDECIDED, f"{alike}: a mixture of the other half's motions ({own['span']:.2f} of it)"
    if own["cosine"] > EVEN:
        return UNDECIDED, f"{alike}: below {options.cosine:g}, but more signal than noise"
    return NOT, f"{alike}: below {options.cosine:g}, no more signal than noise"


def not_structural(row: dict[str, Any]) -> Doubt | None:
    """Where a change is one of contrast, of other particles, or of the whole molecule's place."""
    if row["fading"] > FADING:
        return UNDECIDED, "the molecule fades as a whole: a matter of contrast, or of other particles"
    if row["kind"] == "motion" and row["wholeness"] > WHOLE:
        return UNDECIDED, "the molecule moves as a whole: as poses that are off would show it"
    return no_structure(row["structure"], "changes")


def other_lengths(own: dict[str, Any]) -> Doubt | None:
    """Where the halves' motions differ in length; presences have none."""
    ratio = own["ratio"] if own["kind"] == "motion" else 1.0
    if ratio is None:
        return UNDECIDED, "only odd's moves"
    return None if 1 / RATIO <= ratio <= RATIO else (UNDECIDED, f"odd's is {ratio:.1f} times as long")


def largest(rows: list[dict[str, Any]], key: str) -> float | None:
    """Over matches; None without any."""
    return max((each[key] for each in rows), default=None)
