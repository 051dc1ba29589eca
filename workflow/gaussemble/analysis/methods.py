"""The verdict in words: a summary, what agreement does not exclude, and a paragraph for a paper's methods."""

from typing import Any

import numpy as np

from gaussemble.analysis.verdict import NOT, REPRODUCED, Doubt, Null, evidence_text, largest

NO_NULL = (
    "Agreement by another cause than structure (shared poses, preferred views) is not excluded: "
    "no null, the same analysis of particles without heterogeneity, was run."
)
WITH_NULL = (
    "Errors that both halves share, such as the poses of one refinement, are not excluded: the particles of the null "
    "have the same views and noise, but poses without error and one contrast."
)
GIVEN = (
    "The classes were given for both halves: where all particles were classified together, one reference can have put "
    "the same into both, and neither their agreement nor the null, which has the same labels, excludes that."
)


def caution(null: Null, given: bool) -> str:
    """What agreement does not exclude; `given`: the classes are a user's own."""
    return " ".join([WITH_NULL if null.runs else NO_NULL, *[GIVEN] * given])


def summarise(clusters: list[dict[str, Any]], most: int, motions: list[dict[str, Any]], nothing: Doubt | None) -> str:
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
        return f"{words}; nothing is {'reproducible' if nothing[0] == NOT else 'decided'}: {nothing[1]}."
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
    own = motion["followed"] if motion["same_particles"] else motion
    if motion["kind"] == "presence":
        return f"(what is present, cosine {own['cosine']:.2f})"
    return f"to {own['difference']:.1f} of {np.mean(own['displacement']):.1f} Å"


def span_text(values: list[float]) -> str:
    """A range of resolutions in Å."""
    low, high = (f"{each:.1f}" for each in (min(values), max(values)))
    return f"{low} Å" if low == high else f"{low} to {high} Å"


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
            "noise spectra; poses without error, and no spread of contrast between particles."
        )
    if not result["evidence"]:
        parts.append("Whether the heterogeneity makes particles likelier that a network never saw was not tested.")
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
    by_axes = [each for each in moved if not each["same_particles"]]
    by_particles = [each["followed"] for each in moved if each["same_particles"]]
    if by_axes:
        text += f" The best cosine was {largest(by_axes, 'cosine'):.2f}{null_text(null, 'motion_cosine')}."
    if by_particles:
        best = f"{largest(by_particles, 'cosine'):.2f}{null_text(null, 'motion_followed')}"
        text += f" Where axes of latents differed, both networks' changes between the same particles had {best}."
    return text
