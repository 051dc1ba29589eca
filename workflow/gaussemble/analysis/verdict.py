"""Reproduced, not reproduced, or undecided: the verdict on each class and motion, its reasons, and the words about it.

What is asked, in this order: do the particles of one half bear out the other half's network at all (evidence of what it
never saw)? Is this class or motion the same in both halves, more than any other? Is it more than the same analysis
finds in particles that do not vary (the null)? Is it more than contrast, as broken particles or other objects give?
"""

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
NO_NULL = (
    "Agreement by another cause than structure (shared poses, preferred views) is not excluded: "
    "no null, the same analysis of particles without heterogeneity, was run."
)
WITH_NULL = (
    "Errors that both halves share, such as the poses of one refinement, are not excluded: the particles of the null "
    "have the same views and noise, but poses without error."
)
GIVEN = (
    "The classes were given for both halves: where all particles were classified together, one reference can have put "
    "the same into both, and neither their agreement nor the null, which has the same labels, excludes that."
)
SCORES = {  # the name in verdict.json, and in words
    "classes_reproduced": "classes reproduced",
    "difference_correlation": "correlation of difference maps, best class",
    "shared": "contrast of what sets classes apart, largest",
    "motions_reproduced": "motions reproduced",
    "motion_cosine": "cosine of motions, best",
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
    values = {name: [run[name] for run in scores if run[name] is not None] for name in SCORES}
    return Null(values, len(verdicts))


def no_evidence(evidence: dict[str, Any] | None) -> str | None:
    """Why nothing can be reproduced, where unseen particles are no likelier with heterogeneity than without."""
    if evidence is None or evidence["both"]["beyond_chance"]:
        return None
    return f"particles that a network never saw are no likelier if they vary ({evidence_text(evidence['both'])})"


def caution(null: Null, given: bool) -> str:
    """What agreement does not exclude; `given`: the classes are a user's own."""
    return " ".join([WITH_NULL if null.runs else NO_NULL, *[GIVEN] * given])


def evidence_text(found: dict[str, Any]) -> str:
    """A gain and its error, with its unit."""
    return f"{gain_text(found)} nats a particle"


def gain_text(found: dict[str, Any]) -> str:
    """A gain and its error, to the error's two digits."""
    error = found["error"]
    digits = max(0, 1 - int(np.floor(np.log10(error)))) if 0 < error < np.inf else 2
    return f"{found['gain']:.{min(digits, 6)}f} ± {error:.{min(digits, 6)}f}"


def judge(row: dict, chance: float, options: Options, nothing: str | None, null: Null) -> tuple[str, str]:
    """The verdict on one match of classes and its reason in numbers.

    Whether the match is nearer than the next class is judged on Fisher's scale, where a correlation r has the standard
    error 1 / sqrt(n) whatever it is: the lead is `atanh r_match - atanh r_next`, and its bound sqrt(2) * chance.
    """
    own, other = row["difference_correlation"], row["difference_runner_up"]
    if not np.isfinite(other):
        return UNDECIDED, "a half has one class only: nothing to tell it from"
    near, far = np.arctanh(np.clip([own, other], -0.999999, 0.999999))
    alike = f"difference maps correlate by {own:.2f} (next class {other:.2f})"
    if nothing:
        return NOT, f"{alike}, but {nothing}"
    if own <= chance:
        return NOT, f"{alike}, no more than unrelated maps may ({chance:.2f})"
    if near - far < -np.sqrt(2) * chance:
        return NOT, f"{alike}: another class is nearer"
    if near - far <= np.sqrt(2) * chance:
        return UNDECIDED, f"{alike}: two classes that cannot be told apart"
    if own < options.correlation:
        return UNDECIDED, f"{alike}: more than by chance ({chance:.2f}), but more noise than signal"
    if doubt := beside_null(row["shared"], null.largest("shared"), "the contrast of what sets it apart"):
        return doubt[0], f"{alike}, but {doubt[1]}"
    if row["structure"] < STRUCTURE:
        return UNDECIDED, (
            f"{alike}, but {1 - row['structure']:.0%} of what sets it apart is contrast and round density, as "
            "particles give that are misaligned, broken or of something else"
        )
    error = np.hypot(row["fraction_error_even"], row["fraction_error_odd"])
    if abs(row["fraction_even"] - row["fraction_odd"]) > SIGNIFICANT * error + options.size_tolerance:
        sizes = "{fraction_even:.1%} of the even, {fraction_odd:.1%} of the odd particles".format(**row)
        return UNDECIDED, f"{alike}, but sizes differ: {sizes}"
    return REPRODUCED, f"{alike} and agree to {row['difference_resolution_0.5']:.1f} Å; sizes agree"


def beside_null(value: float, largest: float, what: str) -> tuple[str, str] | None:
    """The verdict where a size is no more than the null's, and in words why; None where it is clearly more."""
    if value >= BEYOND * largest:
        return None
    words = f"{what}, {value:.2g}, is {'no more than' if value <= largest else 'close to'} the null's, {largest:.2g}"
    return (NOT if value <= largest else UNDECIDED), words


def judge_motion(row: dict[str, Any], options: Options, nothing: str | None, null: Null) -> tuple[str, str]:
    """The verdict on one match of motions and its reason in numbers."""
    alike = f"changes have a cosine of {row['cosine']:.2f}"
    if row["kind"] == "motion":
        alike += f"; {np.mean(row['displacement']):.1f} Å long, they differ by {row['difference']:.1f} Å"
    else:
        alike += ", mostly of what is present and absent"
    if nothing:
        return NOT, f"{alike}, but {nothing}"
    borne_out = row["gain"] > max(LEAST, SURE * row["gain_error"])
    if not borne_out:
        found = evidence_text({"gain": row["gain"], "error": row["gain_error"]})
        return NOT, f"{alike}, but unseen particles are no likelier for it ({found})"
    if doubt := beside_null(row["size"], null.largest("motion_size"), "its size"):
        return doubt[0], f"{alike}, but {doubt[1]}"
    if row["cosine"] < options.cosine:
        if row["span"] >= options.cosine:
            return UNDECIDED, f"{alike}: a mixture of the other half's motions ({row['span']:.2f} of it)"
        word = UNDECIDED if row["cosine"] > EVEN else NOT
        return (
            word,
            f"{alike}: below {options.cosine:g}, {'but more' if word == UNDECIDED else 'no more'} signal than noise",
        )
    if row["fading"] > FADING:
        return UNDECIDED, f"{alike}, but the molecule fades as a whole: a matter of contrast, or of other particles"
    if row["kind"] == "motion" and row["wholeness"] > WHOLE:
        return UNDECIDED, f"{alike}, but the molecule moves as a whole: as poses that are off would show it"
    ratio = row["ratio"] if row["kind"] == "motion" else 1.0
    if ratio is None:
        return UNDECIDED, f"{alike}, but only odd's moves"
    if not 1 / RATIO <= ratio <= RATIO:
        return UNDECIDED, f"{alike}, but odd's is {ratio:.1f} times as long"
    return REPRODUCED, alike


def summarise(clusters: list[dict[str, Any]], most: int, motions: list[dict[str, Any]], nothing: str | None) -> str:
    """Some sentences on all matches. `most`: the larger number of classes of the halves."""
    good = [each for each in clusters if each["verdict"] == REPRODUCED]
    if not good:
        words = f"None of {most} classes is reproduced by the two halves of the data"
    else:
        share = sum(sum(each["fractions"]) / 2 for each in good)
        to = span_text([each["difference_resolution"] for each in good])
        words = (
            f"{len(good)} of {most} classes, with {share:.0%} of the particles, are reproduced by the two halves of "
            f"the data; what sets them apart agrees to {to} (FSC 0.5)"
        )
    if nothing:
        return f"{words}; nothing is reproducible: {nothing}."
    return f"{words}.{motions_text(motions)}"


def motions_text(motions: list[dict[str, Any]]) -> str:
    """A sentence on the motions, after a space; nothing where none was compared."""
    if not motions:
        return ""
    good = [each for each in motions if each["verdict"] == REPRODUCED]
    if not good:
        return f" None of {len(motions)} motions is reproduced."
    parts = [f"{each['even']} {reproduced_to(each)}" for each in good]
    return f" {len(good)} of {len(motions)} motions {'is' if len(good) == 1 else 'are'} reproduced: {', '.join(parts)}."


def reproduced_to(motion: dict[str, Any]) -> str:
    """How far a motion agrees, in Å, or that it is a presence."""
    if motion["kind"] == "presence":
        return f"(what is present, cosine {motion['cosine']:.2f})"
    return f"to {motion['difference']:.1f} of {np.mean(motion['displacement']):.1f} Å"


def span_text(values: list[float]) -> str:
    """A range of resolutions in Å."""
    low, high = (f"{each:.1f}" for each in (min(values), max(values)))
    return f"{low} Å" if low == high else f"{low} to {high} Å"


def scores_of(result: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a run that are compared with null runs: the keys of `SCORES`."""
    clusters, motions, latents = result["clusters"], result["motions"], result["latents"]
    good = [float(sum(each["verdict"] == REPRODUCED for each in part)) for part in (clusters, motions)]
    return {
        "classes_reproduced": good[0],
        "difference_correlation": largest(clusters, "difference_correlation"),
        "shared": largest(clusters, "shared"),
        "motions_reproduced": good[1] if motions else None,
        "motion_cosine": largest(motions, "cosine"),
        "motion_size": largest(motions, "size"),
        "evidence": result["evidence"]["both"]["gain"] if result["evidence"] else None,
        "canonical_correlation": latents["canonical_correlations"][0] if latents else None,
        "rand_index": latents["rand_index"] if latents else None,
        "neighbor_overlap": latents["neighbor_overlap"] if latents else None,
    }


def largest(rows: list[dict[str, Any]], key: str) -> float | None:
    """Over matches; None without any."""
    return max((each[key] for each in rows), default=None)


def beside(scores: dict[str, Any], null: Null) -> dict[str, Any] | None:
    """The key null of verdict.json: runs, scores (a list for each), p (of each); None where there was no run."""
    if not null.runs:
        return None
    p = {name: null.probability(name, value) for name, value in scores.items() if value is not None}
    return {"runs": null.runs, "scores": null.values, "p": p}


def methods(result: dict[str, Any], particles: tuple[int, int]) -> str:
    """A paragraph for a paper's methods, with the numbers of this run."""
    null, given = result["null"], ", the labels of classes, which were given," * result["classes_given"]
    parts = [
        f"The particles were divided once into an even ({particles[0]:,}) and an odd half ({particles[1]:,}); the "
        "consensus map, the Gaussian mixture, the networks, the latent coordinates and the class maps were made from "
        f"each half alone, sharing only the poses of the refinement{given} and the atomic model, where one seeded the "
        "mixtures. Classes were matched one to one by the FSC-weighted correlation of their difference maps (class "
        "minus the mean of the half's other classes) inside the union of the masks to "
        f"{result['resolution']:.1f} Å.",
        class_sentence(result["clusters"], null),
    ]
    if result["evidence"] and result["latents"]:
        parts.append(latent_sentences(result["evidence"], result["latents"], null))
    if result["motions"]:
        parts.append(motion_sentences(result["motions"], null))
    if null:
        parts.append(
            f"The null is {null['runs']} run{'s' if null['runs'] > 1 else ''} of the whole analysis on particles "
            "simulated from each half's neutral mixture, in which nothing varies, with the same poses, CTF, shifts and "
            "noise spectra."
        )
    return " ".join(parts)


def null_text(null: dict[str, Any] | None, score: str, form: str = ".2f", before: str = "null: ") -> str:
    """The null's values of a score in brackets, after a space; nothing without any."""
    values = null["scores"][score] if null else []
    return f" ({before}{', '.join(f'{each:{form}}' for each in values)})" if values else ""


def class_sentence(clusters: list[dict[str, Any]], null: dict[str, Any] | None) -> str:
    """How many matched classes were reproduced, and how well."""
    good = [each for each in clusters if each["verdict"] == REPRODUCED]
    if not good:
        return f"None of {len(clusters)} matched classes was reproduced."
    low, high = (pick(each["difference_correlation"] for each in good) for pick in (min, max))
    return (
        f"{len(good)} of {len(clusters)} matched classes were reproduced, with difference maps correlated by "
        f"{low:.2f} to {high:.2f}{null_text(null, 'difference_correlation')} and FSC 0.5 between them at "
        f"{span_text([each['difference_resolution'] for each in good])}."
    )


def latent_sentences(evidence: dict[str, Any], latents: dict[str, Any], null: dict[str, Any] | None) -> str:
    """What either network says of particles that it never saw."""
    correlations = ", ".join(f"{each:.2f}" for each in latents["canonical_correlations"])
    rand = latents["rand_index"]
    index = "" if rand is None else f", an adjusted Rand index of clusters of {rand:.2f}{null_text(null, 'rand_index')}"
    return (
        "Each half's particles were embedded by the network of the other half, which had never seen them: their "
        "marginal log-likelihood, latents being drawn from the normal distribution of the other half's, exceeded that "
        f"of a rigid molecule by {evidence_text(evidence['both'])}{null_text(null, 'evidence', '.2g')}. Latents of the "
        f"same particles by the two networks had canonical correlations of {correlations}"
        f"{null_text(null, 'canonical_correlation', before='null, first: ')}{index} and "
        f"{latents['neighbor_overlap']:.0%} of their ten nearest neighbours in common"
        f"{null_text(null, 'neighbor_overlap', '.0%')}."
    )


def motion_sentences(motions: list[dict[str, Any]], null: dict[str, Any] | None) -> str:
    """Which motions were reproduced."""
    moved = [each for each in motions if each["verdict"] == REPRODUCED]
    text = f"Motions were compared as fields on the Gaussians.{motions_text(motions)}"
    if not (moved and null):
        return text
    return f"{text} The best cosine was {largest(moved, 'cosine'):.2f}{null_text(null, 'motion_cosine')}."
