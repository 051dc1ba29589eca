"""Motions, followed by their particles into the other half's latents; and how much of a motion is structure.

Principal components are no property of the molecule: where two motions are as large as each other, or one is curved in
latent space, two networks mix them differently, and no trajectory of one half is a trajectory of the other. But the
particles are the same. Those at the two ends of a trajectory also stand somewhere in the latents of the other half's
network, which never saw them, and that network draws a change of its own between the two places. Where both draw the
same change between the same particles the motion is in the particles, whatever the axes are.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from gaussemble.analysis.latent import axis_units, latent_columns
from gaussemble.analysis.matching import covariance, structural
from gaussemble.analysis.motions import (
    Points,
    as_vector,
    carried_over,
    change_between,
    compare_changes,
    cosine,
    displacements,
    gains,
    points_of,
    read_changes,
    trajectory_ends,
)
from gaussemble.io.files import read_csv
from gaussemble.model.heterogeneity import DeformableMixture, load_model
from gaussemble.physics.band_limited import band_limited_map
from gaussemble.quantities import Map, Mixture

NEAREST, LEAST = 0.04, 20  # share of a half's particles, and their least number, that stand for an end


@dataclass(frozen=True)
class Half:
    """One half's trajectories and network, and its particles under both networks."""

    ends: dict[str, Float32[np.ndarray, "2 latent"]]
    model: DeformableMixture
    points: Points
    own: Float[np.ndarray, "particle latent"]
    crossed: Float[np.ndarray, "particle latent2"]  # by the other half's network
    unit: Float[np.ndarray, " latent"]  # of distances between latents of its own


def read_half(analysis: Path) -> Half:
    """Of the analysis of one half, with heterogeneity/, latent/ and crossed/."""
    model, path = load_model(analysis / "heterogeneity" / "model.pt"), analysis / "heterogeneity" / "latent.csv"
    table, crossed = (read_csv(each, ["particle", "z1"]) for each in (path, analysis / "crossed" / "latent.csv"))
    own, other = (each[latent_columns(each)].to_numpy(float) for each in (table, crossed))
    return Half(trajectory_ends(analysis), model, points_of(model), own, other, axis_units(table, path, "uncertainty"))


def same_particles(
    own: Float[np.ndarray, "particle latent"],
    other: Float[np.ndarray, "particle latent2"],
    ends: Float32[np.ndarray, "2 latent"],
    unit: Float[np.ndarray, " latent"],
) -> tuple[Float[Tensor, "2 latent"], Float[Tensor, "2 latent2"]]:
    """Mean latents, by both networks, of the particles that are nearest to each of two ends in the first one's."""
    squared = np.square((own[:, None] - ends) / unit).sum(-1)
    near = np.argsort(squared, axis=0, kind="stable")[: max(LEAST, round(NEAREST * len(own)))]
    mine, theirs = (torch.from_numpy(each[near].mean(0)).float() for each in (own, other))
    return mine, theirs


def followed(half: Half, other: Half, even_first: bool) -> dict[str, dict[str, Any]]:
    """Of each trajectory of a half: its change between the particles at its ends, beside the other network's.

    Keys: cosine (of the two changes; the ends are the same particles, so that its sign counts), and those of
    `displacements`, even before odd.
    """
    found = {}
    for name, ends in half.ends.items():
        places = same_particles(half.own, half.crossed, ends, half.unit)
        changes = [change_between(each.model, z, name) for each, z in zip((half, other), places, strict=True)]
        even, odd = changes if even_first else changes[::-1]
        points, elsewhere = (half.points, other.points) if even_first else (other.points, half.points)
        odd = carried_over([odd], elsewhere, points)[0]
        facts = {"cosine": cosine(as_vector(even, points), as_vector(odd, points))}
        found[name] = facts | displacements(even, odd, 1.0, points)
    return found


@torch.no_grad()
def structure_share(model: DeformableMixture, ends: Float32[np.ndarray, "2 latent"], mask: Map) -> float:
    """The share of the change of density between two latents that is neither contrast nor round (`structural`)."""
    decoded = model.decode(torch.from_numpy(ends))
    first, second = (
        band_limited_map(Mixture(*parts), mask.box, mask.pixel_size)
        for parts in zip(decoded.center, decoded.amplitude, decoded.width, strict=True)
    )
    change, neutral = second - first, band_limited_map(model.neutral, mask.box, mask.pixel_size)
    left = structural(change, neutral)
    whole = covariance(change, change, mask.voxels)
    return covariance(left, left, mask.voxels) / whole if whole > 0 else 0.0


def motion_scores(even: Path, odd: Path, masks: tuple[Map, Map]) -> tuple[list[dict[str, Any]], list[pd.DataFrame]]:
    """Matched motions of two analyses (`compare_changes`), and what else is known of each.

    Further keys: gain and gain_error (nats a particle, of both halves together), structure (`structure_share`, the
    lesser of the halves), followed (`followed`: of even's motion or of odd's, of which the cosine is less).

    Args:
        even: folder of the analysis of the even half.
        odd: the same of the odd half.
        masks: of each half's consensus.
    """
    (first, points), (second, own) = read_changes(even), read_changes(odd)
    rows, fields = compare_changes(first, carried_over(second, own, points), points)
    halves = {"even": read_half(even), "odd": read_half(odd)}
    borne_out = {"even": gains(even, odd, first), "odd": gains(odd, even, second)}
    same = {
        "even": followed(halves["even"], halves["odd"], even_first=True),
        "odd": followed(halves["odd"], halves["even"], even_first=False),
    }
    shares = {
        half: {name: structure_share(each.model, ends, mask) for name, ends in each.ends.items()}
        for (half, each), mask in zip(halves.items(), masks, strict=True)
    }
    for row in rows:
        gain = [borne_out[half][row[half]] for half in halves]
        row["gain"] = (gain[0]["gain"] + gain[1]["gain"]) / 2
        row["gain_error"] = float(np.hypot(gain[0]["error"], gain[1]["error"])) / 2
        row["structure"] = min(shares[half][row[half]] for half in halves)
        row["followed"] = min((same[half][row[half]] for half in halves), key=lambda each: each["cosine"])
    return rows, fields
