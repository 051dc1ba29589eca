"""What verdict.json holds: every match judged, what was not matched, the scores beside the null's, and the words."""

from typing import Any

import numpy as np
import pandas as pd

from gaussemble.analysis.matching import Classes, Comparison
from gaussemble.analysis.methods import caution, methods, summarise
from gaussemble.analysis.metrics import match
from gaussemble.analysis.shared import HALVES
from gaussemble.analysis.verdict import (
    REPRODUCED,
    Doubt,
    Null,
    Options,
    compared,
    judge,
    judge_motion,
    largest,
    no_evidence,
    not_structural,
)

NOT_CROSSED = ("latents", "evidence", "arrangement", "clusters_by_stability")
Entry = dict[str, Any]


def verdict(
    name: str,
    rows: list[Entry],
    classes: tuple[Classes, Classes],
    found: Comparison,
    crossed: Entry | None,
    null: Null,
    options: Options,
) -> Entry:
    """What verdict.json holds; its keys are stable, and docs/stages.md says what each of them means."""
    crossed = crossed or {**dict.fromkeys(NOT_CROSSED), "motions": []}
    nothing, given = no_evidence(crossed["evidence"]), any(own.given for own in classes)
    clusters = judged_clusters(rows, found.chance, options, nothing, null)
    motions = judged_motions(crossed["motions"], options, nothing, null)
    most = max(len(own) + len(own.skipped) for own in classes)
    result = {
        "analysis": name,
        "resolution": float(found.resolution),
        "chance": float(found.chance),
        "matching_by_maps_agrees": matched_alike(found),
        "unmatched": unmatched(clusters, classes),
        "skipped": skipped(classes),
        "summary": summarise(clusters, most, motions, nothing),
        "caution": caution(null, given),
        "classes_given": given,
        "clusters": clusters,
        **crossed,
        "motions": motions,
    }
    result["scores"] = scores_of(result)
    result["null"] = beside(result["scores"], null)
    result["methods"] = methods(result, (classes[0].particles, classes[1].particles))
    return result


def judged_clusters(
    rows: list[Entry], chance: float, options: Options, nothing: Doubt | None, null: Null
) -> list[Entry]:
    """The key clusters: rows of matches.csv with their verdicts."""
    return [
        cluster_entry(row, judge(row, chance, options, nothing, null), null.probability("shared", float(row["shared"])))
        for row in rows
    ]


def judged_motions(rows: list[Entry], options: Options, nothing: Doubt | None, null: Null) -> list[Entry]:
    """The key motions: matches of `motion_scores` with their verdicts."""
    judged = []
    for row in rows:
        word, reason = judge_motion(row, options, nothing, null)
        facts = {"same_particles": compared(row, options)["same_particles"]}
        facts["p"] = null.probability("motion_size", row["size"])
        judged.append(row | facts | {"verdict": word, "reason": reason})
    return judged


def matched_alike(found: Comparison) -> bool:
    """Whether maps would match as difference maps do."""
    rows, columns = match(found.correlation)
    return bool((rows == found.even).all() and (columns == found.odd).all())


def unmatched(clusters: list[Entry], classes: tuple[Classes, Classes]) -> dict[str, list[int]]:
    """Of each half the classes without a match."""
    return {
        half: sorted(set(own.number.tolist()) - {each[half] for each in clusters})
        for half, own in zip(HALVES, classes, strict=True)
    }


def skipped(classes: tuple[Classes, Classes]) -> dict[str, list[Entry]]:
    """Of each half the classes without a map, and why."""
    return {
        half: [{"cluster": number, "reason": reason} for number, reason in own.skipped.items()]
        for half, own in zip(HALVES, classes, strict=True)
    }


def cluster_entry(row: dict[str, Any], doubt: Doubt, p: float | None) -> dict[str, Any]:
    """One of the key clusters of verdict.json."""
    word, reason = doubt
    other = row["difference_runner_up"]
    return {
        "even": int(row["cluster_even"]),
        "odd": int(row["cluster_odd"]),
        "correlation": float(row["correlation"]),
        "difference_correlation": float(row["difference_correlation"]),
        "runner_up": float(other) if np.isfinite(other) else None,
        "resolution": float(row["resolution_0.5"]),
        "difference_resolution": float(row["difference_resolution_0.5"]),
        "shared": float(row["shared"]),
        "structure": float(row["structure"]),
        "fractions": [float(row["fraction_even"]), float(row["fraction_odd"])],
        "fraction_errors": [float(row["fraction_error_even"]), float(row["fraction_error_odd"])],
        "verdict": word,
        "reason": reason,
        "p": p,
    }


def scores_of(result: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a run that are compared with null runs: the keys of `SCORES`."""
    clusters, motions, latents = result["clusters"], result["motions"], result["latents"]
    structural = [each for each in motions if not_structural(each) is None]
    good = [float(sum(each["verdict"] == REPRODUCED for each in part)) for part in (clusters, motions)]
    return {
        "classes_reproduced": good[0],
        "difference_correlation": largest(clusters, "difference_correlation"),
        "shared": largest(clusters, "shared"),
        "motions_reproduced": good[1] if motions else None,
        "motion_cosine": largest(structural, "cosine"),
        "motion_followed": largest([each["followed"] for each in structural], "cosine"),
        "motion_size": largest(motions, "size"),
        "evidence": result["evidence"]["both"]["gain"] if result["evidence"] else None,
        "canonical_correlation": latents["canonical_correlations"][0] if latents else None,
        "rand_index": latents["rand_index"] if latents else None,
        "neighbor_overlap": latents["neighbor_overlap"] if latents else None,
    }


def beside(scores: dict[str, Any], null: Null) -> dict[str, Any] | None:
    """The key null of verdict.json: runs, scores (a list for each), p (of each); None where there was no run."""
    if not null.runs:
        return None
    p = {name: null.probability(name, value) for name, value in scores.items() if value is not None}
    return {"runs": null.runs, "scores": null.values, "p": p}


def motion_table(motions: list[dict[str, Any]]) -> pd.DataFrame:
    """motions.csv: a row a match."""
    columns = ["even", "odd", "kind", "cosine", "span", "fading", "wholeness", "size"]
    columns += ["displacement_even", "displacement_odd", "ratio", "difference", "displacement_cosine"]
    columns += ["structure", "same_particles", "followed_cosine"]
    columns += ["gain", "gain_error", "p", "verdict", "reason"]
    rows = [
        each
        | {f"displacement_{half}": value for half, value in zip(HALVES, each["displacement"], strict=True)}
        | {"followed_cosine": each["followed"]["cosine"]}
        for each in motions
    ]
    return pd.DataFrame(rows, columns=columns)
