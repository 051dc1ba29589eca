"""What a user should know of the particles before trusting them: their optics, spreads, and rows that look wrong.

Nothing is refused here and nothing changed: `summarise` describes, and the report shows it.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from gaussemble.io.relion import ANGSTROM_PER_MILLIMETRE, VOLT_PER_KILOVOLT, Metadata
from gaussemble.io.star import StarFile
from gaussemble.quantities import ContrastTransfer, Particles

OPTICS = ("voltage", "spherical_aberration", "amplitude_contrast", "pixel_size", "image_size")
LISTED = 10  # rows of each kind that are named
QUANTILES = {"least": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "most": 1.0}
FAR = 6.0  # robust standard deviations: of a million normal values none lies there
DEFOCUS_RANGE = (1_000.0, 80_000.0)  # Å
ASTIGMATISM = (5_000.0, 0.2)  # Å, share of the mean defocus
SHIFT_SHARE = 1 / 3  # of the box
TILT_NEAR_ZERO = 1.0  # degrees
SAME_POSE_SHARE, SAME_POSE_COUNT = 0.01, 4  # rows in one orientation that are too many: the larger of both
SMALLER_HALF = 0.4  # share of the rows
SPREAD_CHANGE, MEAN_CHANGE = (
    1.5,
    0.2,
)  # of an image: times the usual standard deviation; shift of the mean in units of it
DIRECTIONS = 200  # cells of equal area in which views are counted


class Suspicion(NamedTuple):
    """Rows that look wrong in one way."""

    what: str
    unit: str
    wrong: Bool[np.ndarray, " image"]
    value: Float[np.ndarray, " image"]


def summarise(
    metadata: Metadata,
    particles: Particles,
    half: Int[np.ndarray, " row"],
    statistics: Float[np.ndarray, "row 2"],
    star: StarFile,
    field: float,
) -> dict[str, Any]:
    """`inspection` of report.json: what the stored particles are, and which of their rows look wrong.

    counts, optics (`optics_table`), quantiles of defocus and astigmatism (Å; null without a CTF), of shift (Å), and of
    image_mean and image_deviation, views (`views`), suspicious (what, unit, count, and row and value of the first ten;
    rows are those of the input, from 0). Copies of a particle count once, but in counts.rows and in the views.

    Args:
        metadata: of all rows of the input.
        particles: the stored rows.
        half: 0 or 1, the half-map of each stored row.
        statistics: mean and standard deviation of each stored row's image on the working grid, as it came.
        star: the input, for the names of the optics groups.
        field: Å along an edge of the stored images.
    """
    particle = particles.particle.numpy()
    first = np.sort(np.unique(particle, return_index=True)[1])
    once, halves, statistics = particles[torch.from_numpy(first)], half[first], statistics[first]
    defocused = has_ctf(once.ctf)
    found = [listed(each, once.particle.numpy()) for each in suspicious(once, statistics, field) if each.wrong.any()]
    in_halves = {f"half{number + 1}": int((halves == number).sum()) for number in (0, 1)}
    return {
        "counts": {"rows": len(particle), "images": len(first)} | in_halves,
        "optics": optics_table(metadata, once, star),
        "defocus": quantiles(mean_defocus(once.ctf)) if defocused else None,
        "astigmatism": quantiles(astigmatism(once.ctf)) if defocused else None,
        "shift": quantiles(shift_length(once)),
        "views": views(particles),
        "image_mean": quantiles(statistics[:, 0]),
        "image_deviation": quantiles(statistics[:, 1]),
        "suspicious": [*found, *pose_notes(once), *half_notes(halves)],
    }


def suspicious(particles: Particles, statistics: Float[np.ndarray, "image 2"], field: float) -> list[Suspicion]:
    """Every check of single rows."""
    shift = shift_length(particles)
    checks = [Suspicion("shift of more than a third of the box", "Å", shift > SHIFT_SHARE * field, shift)]
    group = particles.optics_group.numpy()
    if has_ctf(particles.ctf):
        checks += _suspicious_ctf(particles.ctf, group)
    return checks + _suspicious_images(statistics, group)


def _suspicious_ctf(ctf: ContrastTransfer, group: Int[np.ndarray, " image"]) -> list[Suspicion]:
    """Defocus, astigmatism and phase shift that no usual exposure has."""
    defocus, difference, phase = mean_defocus(ctf), astigmatism(ctf), np.rad2deg(ctf.phase_shift.numpy())
    low, high = DEFOCUS_RANGE
    unusual = (defocus < low) | (defocus > high) | (np.abs(robust(defocus, group)) > FAR)
    most, share = ASTIGMATISM
    stretched = (difference > most) | (difference > share * np.abs(defocus))
    return [
        Suspicion("defocus beyond 1,000 to 80,000 Å, or far from its optics group's", "Å", unusual, defocus),
        Suspicion("astigmatism of more than 5,000 Å or a fifth of the defocus", "Å", stretched, difference),
        Suspicion("phase shift beyond 0 to 180°", "°", (phase < 0) | (phase > 180), phase),
    ]


def _suspicious_images(statistics: Float[np.ndarray, "image 2"], group: Int[np.ndarray, " image"]) -> list[Suspicion]:
    """Raw images whose grey values are unlike those of their optics group: empty, on the carbon, scaled otherwise."""
    mean, deviation = statistics.astype(np.float64).T
    usual = group_median(deviation, group)
    ratio = np.maximum(deviation, 1e-30) / np.maximum(usual, 1e-30)
    uneven = (np.abs(robust(deviation, group)) > FAR) & (np.abs(np.log(ratio)) > np.log(SPREAD_CHANGE))
    moved = np.abs(mean - group_median(mean, group)) > MEAN_CHANGE * usual
    return [
        Suspicion("standard deviation of the raw image far from the others'", "", uneven, deviation),
        Suspicion("mean of the raw image far from the others'", "", moved & (np.abs(robust(mean, group)) > FAR), mean),
    ]


def pose_notes(particles: Particles) -> list[dict[str, Any]]:
    """What is wrong with the poses as a whole: never refined, or reset."""
    particle, count = particles.particle.numpy(), len(particles)
    tilt = np.rad2deg(np.arccos(particles.rotation[:, 2, 2].double().clamp(-1, 1).numpy()))
    length = shift_length(particles)
    axes = pd.DataFrame(np.round(particles.rotation[:, :2].flatten(1).numpy(), 5) + 0.0)  # two of them; no -0
    shared = axes.groupby(list(axes), sort=False)[0].transform("size").to_numpy(np.float64)
    many = shared > max(SAME_POSE_SHARE * count, SAME_POSE_COUNT - 1)
    whole = [
        Suspicion("in the very same orientation as many others; value: how many", "", many, shared),
        Suspicion("all tilt angles are near 0: the file has no refined poses", "°", tilt < TILT_NEAR_ZERO, tilt),
        Suspicion("all shifts are 0: were the particles extracted again, centred?", "Å", length == 0, length),
    ]
    return [
        listed(each, particle) for i, each in enumerate(whole) if (each.wrong.any() if i == 0 else each.wrong.all())
    ]


def half_notes(half: Int[np.ndarray, " image"]) -> list[dict[str, Any]]:
    """A note where one half-map has much less than half of the particles."""
    smaller = int(min((half == 0).sum(), (half == 1).sum()))
    if smaller >= SMALLER_HALF * len(half):
        return []
    what = "half sets are unbalanced; count: particles of the smaller"
    return [{"what": what, "unit": "", "count": smaller, "rows": []}]


def listed(suspicion: Suspicion, particle: Int[np.ndarray, " image"]) -> dict[str, Any]:
    """A suspicion for report.json: how many rows, and the first of them with their values."""
    rows = np.flatnonzero(suspicion.wrong)
    first = [{"row": int(particle[row]), "value": float(f"{suspicion.value[row]:.6g}")} for row in rows[:LISTED]]
    return {"what": suspicion.what, "unit": suspicion.unit, "count": len(rows), "rows": first}


# ---- Optics


def optics_table(metadata: Metadata, particles: Particles, star: StarFile) -> list[dict[str, Any]]:
    """A row for each optics group that has particles; values that differ within it are [least, most].

    group (from 1, as the file numbers its rows), name, particles, voltage (kV), spherical_aberration (mm),
    amplitude_contrast, pixel_size (Å), image_size (pixels): of the stacks. Null: not said by the file, or no CTF.
    """
    group, particle, ctf = particles.optics_group.numpy(), particles.particle.numpy(), particles.ctf
    columns = {
        "voltage": ctf.voltage.numpy() / VOLT_PER_KILOVOLT,
        "spherical_aberration": ctf.spherical_aberration.numpy() / ANGSTROM_PER_MILLIMETRE,
        "amplitude_contrast": ctf.amplitude_contrast.numpy(),
        "pixel_size": metadata.pixel_sizes[particle],
    }
    if not has_ctf(ctf):
        columns = {"pixel_size": columns["pixel_size"]}
    if metadata.image_sizes is not None:
        columns["image_size"] = metadata.image_sizes[particle].astype(np.float64)
    order = np.argsort(group, kind="stable")
    numbers, start, count = np.unique(group[order], return_index=True, return_counts=True)
    table = [
        {"group": number + 1, "name": group_name(star, number), "particles": each} | dict.fromkeys(OPTICS)
        for number, each in zip(numbers.tolist(), count.tolist(), strict=True)
    ]
    for name, column in columns.items():
        low, high = (extreme.reduceat(column[order], start).tolist() for extreme in (np.minimum, np.maximum))
        for row, *ends in zip(table, low, high, strict=True):
            row[name] = one_or_range(*ends)
    return table


def group_name(star: StarFile, number: int) -> str:
    """What the file calls an optics group, by its 0-based row in the optics table."""
    if star.optics is None or "rlnOpticsGroupName" not in star.optics:
        return ""
    return str(star.optics["rlnOpticsGroupName"].iloc[number])


def one_or_range(low: float, high: float) -> float | list[float]:
    """The value that all share to six digits, or the least and the most."""
    low, high = (float(f"{value:.6g}") for value in (low, high))
    return low if low == high else [low, high]


def has_ctf(ctf: ContrastTransfer) -> bool:
    """Whether the images have a CTF: without one (option particles.ctf) it is 1 everywhere."""
    return not bool(((ctf.amplitude_contrast == 1) & (ctf.defocus_u == 0)).all())


def mean_defocus(ctf: ContrastTransfer) -> Float[np.ndarray, " image"]:
    """Å, of the two axes; underfocus is positive."""
    return ((ctf.defocus_u + ctf.defocus_v) / 2).double().numpy()


def astigmatism(ctf: ContrastTransfer) -> Float[np.ndarray, " image"]:
    """Å, difference of defocus between the two axes."""
    return (ctf.defocus_u - ctf.defocus_v).abs().double().numpy()


# ---- Poses


def shift_length(particles: Particles) -> Float[np.ndarray, " image"]:
    """Å, how far each particle is from its image's origin."""
    return particles.shift.double().norm(dim=1).numpy()


def views(particles: Particles) -> dict[str, Any]:
    """How evenly the views lie, copies included.

    cells (of equal area on the sphere), empty (the share without any particle), densest (the fullest one's density
    relative to uniform). A molecule with symmetry needs the cells of one asymmetric unit only.
    """
    axis = np.arange(DIRECTIONS) + 0.5
    height, turn = 1 - 2 * axis / DIRECTIONS, axis * np.pi * (3 - 5**0.5)  # a Fibonacci lattice
    flat = np.sqrt(1 - height**2)
    cells = np.stack([flat * np.cos(turn), flat * np.sin(turn), height], axis=1)
    _, nearest = KDTree(cells).query(particles.rotation[:, 2].numpy())
    count = np.bincount(np.asarray(nearest), minlength=DIRECTIONS)
    densest = float(count.max() * DIRECTIONS / len(particles))
    return {"cells": DIRECTIONS, "empty": float((count == 0).mean()), "densest": round(densest, 3)}


# ---- Statistics


def quantiles(values: Float[np.ndarray, " image"]) -> dict[str, float]:
    """Least, most and what lies between, by name."""
    found = np.quantile(values, list(QUANTILES.values()))
    return {name: float(f"{value:.6g}") for name, value in zip(QUANTILES, found, strict=True)}


def group_median(values: Float[np.ndarray, " image"], group: Int[np.ndarray, " image"]) -> Float[np.ndarray, " image"]:
    """Each row's group's median."""
    return pd.Series(values).groupby(group).transform("median").to_numpy(np.float64)


def robust(values: Float[np.ndarray, " image"], group: Int[np.ndarray, " image"]) -> Float[np.ndarray, " image"]:
    """Distance from the group's median in units of its spread: 1.4826 median absolute deviations, a normal's sigma.

    0 where most of a group has one value: no spread is known then.
    """
    distance = values - group_median(values, group)
    spread = 1.4826 * group_median(np.abs(distance), group)
    return np.divide(distance, spread, out=np.zeros_like(distance), where=spread > 0)
