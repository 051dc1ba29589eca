"""What changes along each half's trajectories, as fields on the same points, and which of them are the same.

A trajectory (a principal component, or a direction that was asked for) leads from one end of the particles to the
other. Between its ends every Gaussian is displaced by d, and its presence changes by q (a share of its amplitude).
Odd's fields are carried over to even's Gaussians as atoms follow Gaussians (`analysis.models`). Two changes are
compared in the metric of density: for a Gaussian of width s that is displaced and fades,

    |change|² = 2 p (1 - exp(-d² / 4 s²)) + q²,      p: the share of it that is there at both ends,

which is the integral of the squared difference of its density over that of its square. So a cosine of two changes
weighs motion and presence as an image does, whatever the axes and lengths of the latents; ends have no order, so that
the sign of a cosine means nothing. The displacement of what has vanished means nothing either, and counts nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from gaussemble.analysis.chance import (
    FITTED,
    Likelihoods,
    Normal,
    fit_normal,
    gain,
    likelihoods,
    log_evidence,
    plausible,
)
from gaussemble.analysis.latent import latent_columns
from gaussemble.analysis.metrics import match
from gaussemble.analysis.models import transition_to_atoms
from gaussemble.analysis.populations import evenly
from gaussemble.io.files import read_csv
from gaussemble.io.posteriors import Posteriors, read_posteriors
from gaussemble.model.heterogeneity import DeformableMixture, load_model

STILL = 1e-9
UNUSED = 0.05  # of the mean variance of latents: with less, and less than images could tell, no particle uses an axis


@dataclass(frozen=True)
class Change:
    """What happens to the Gaussians between the ends of a trajectory."""

    name: str  # of the trajectory's file
    displacement: Float[np.ndarray, "point 3"]  # Å
    presence: Float[np.ndarray, " point"]  # gained (+) or lost (-), as a share of the neutral amplitude
    present: Float[np.ndarray, " point"]  # the lesser of the ends' shares, at most 1
    direction: Float[np.ndarray, " latent"]  # from end to end


@dataclass(frozen=True)
class Points:
    """Where changes are compared: the Gaussians of the even half."""

    place: Float[np.ndarray, "point 3"]  # Å
    weight: Float[np.ndarray, " point"]  # share of the mass
    width: Float[np.ndarray, " point"]  # Å


def read_changes(analysis: Path) -> tuple[list[Change], Points]:
    """Every trajectory of an analysis, and the Gaussians of its neutral mixture."""
    model = load_model(analysis / "heterogeneity" / "model.pt")
    ends = trajectory_ends(analysis)
    return [change_between(model, torch.from_numpy(pair), name) for name, pair in ends.items()], points_of(model)


def trajectory_ends(analysis: Path) -> dict[str, Float32[np.ndarray, "2 latent"]]:
    """The two latents between which each trajectory leads, by its name."""
    tables = {path.stem: read_csv(path, ["z1"]) for path in sorted((analysis / "latent/trajectories").glob("*.csv"))}
    return {name: table[latent_columns(table)].to_numpy(np.float32)[[0, -1]] for name, table in tables.items()}


def points_of(model: DeformableMixture) -> Points:
    """The Gaussians of a model's neutral mixture."""
    mixture = model.neutral
    mass = mixture.amplitude.double().clamp(min=0).numpy()
    return Points(mixture.center.double().numpy(), mass / mass.sum(), mixture.width.double().numpy())


@torch.no_grad()
def change_between(model: DeformableMixture, ends: Float[Tensor, "2 latent"], name: str) -> Change:
    """What the model decodes at the two ends of a trajectory."""
    decoded = model.decode(ends)
    center, share = decoded.center.double().numpy(), decoded.amplitude.double().numpy()
    share = share / np.maximum(np.abs(model.neutral.amplitude.double().numpy()), STILL)
    return Change(
        name, center[1] - center[0], share[1] - share[0], share.min(0).clip(0, 1), (ends[1] - ends[0]).numpy()
    )


def carried_over(changes: list[Change], own: Points, to: Points) -> list[Change]:
    """The same changes, on other points."""
    carry, found = transition_to_atoms(to.place, own.place), []
    for each in changes:
        shares = carry(np.column_stack([each.presence, each.present, np.zeros(len(each.present))]))
        found.append(Change(each.name, carry(each.displacement), shares[:, 0], shares[:, 1], each.direction))
    return found


def as_vector(change: Change, points: Points) -> Float[np.ndarray, " entry"]:
    """A change in the metric of density, four entries a point: their squares sum to |change|² a unit of mass."""
    length = np.linalg.norm(change.displacement, axis=1)
    share = np.sqrt(2 * change.present * -np.expm1(-np.square(length / points.width) / 4))
    moved = change.displacement / np.maximum(length, STILL)[:, None] * share[:, None]
    return (np.column_stack([moved, change.presence]) * np.sqrt(points.weight)[:, None]).ravel()


def fading(points: Points) -> Float[np.ndarray, " entry"]:
    """The change of a molecule that fades as a whole."""
    still = np.zeros((len(points.weight), 3))
    return (np.column_stack([still, np.ones(len(still))]) * np.sqrt(points.weight)[:, None]).ravel()


def wholeness(change: Change, points: Points) -> float:
    """How much of a displacement the molecule's motion as one rigid body explains: a multiple correlation.

    Of small rotations and translations, weighed by mass and presence; 0 where nothing moves.
    """
    weight = np.sqrt(points.weight * change.present)[:, None]
    offset = points.place - points.weight @ points.place
    translations = np.broadcast_to(np.eye(3)[:, None], (3, *offset.shape))
    fields = np.concatenate([translations, [np.cross(axis, offset) for axis in np.eye(3)]])
    vector = (weight * change.displacement).ravel()
    return in_span(vector, list((weight * fields).reshape(6, -1))) if np.linalg.norm(vector) > STILL else 0.0


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """0 where one of them is nothing."""
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size > STILL else 0.0


def in_span(vector: np.ndarray, others: list[np.ndarray]) -> float:
    """The part of a vector's length that combinations of others can make."""
    base, size, _ = np.linalg.svd(np.stack(others).T, full_matrices=False)
    base = base[:, size > STILL]
    return float(np.linalg.norm(base.T @ vector) / max(np.linalg.norm(vector), STILL))


def compare_changes(
    even: list[Change], odd: list[Change], points: Points
) -> tuple[list[dict[str, Any]], list[pd.DataFrame]]:
    """Changes on the same points, matched one to one by the size of their cosine: a list for verdict.json, and fields.

    Keys: even, odd (trajectories' names); cosine (of the changes, its size); span (the part of even's change within
    what odd's changes can be combined to, and the reverse, whichever is less); kind (motion or presence, which of the
    two makes most of the change); fading (size of the cosine with a fading of the whole molecule); wholeness (of its
    motion as one rigid body); size (|change|, root mean square over the mass, the lesser of the halves); displacement
    (Å, even and odd: root mean square where it moves), ratio (of displacements, odd over even), difference (Å, root
    mean square where it moves), displacement_cosine (None where nothing moves).
    """
    vectors = [[as_vector(change, points) for change in half] for half in (even, odd)]
    cosines = np.array([[cosine(a, b) for b in vectors[1]] for a in vectors[0]])
    found, fields = [], []
    for i, j in zip(*match(np.abs(cosines)), strict=True):
        a, b = vectors[0][i], vectors[1][j]
        both = (np.square(a) + np.square(b)).reshape(-1, 4).sum(0)
        sign = -1.0 if cosines[i, j] < 0 else 1.0
        found.append(
            {
                "even": even[i].name,
                "odd": odd[j].name,
                "cosine": float(abs(cosines[i, j])),
                "span": min(in_span(a, vectors[1]), in_span(b, vectors[0])),
                "kind": "motion" if both[:3].sum() >= both[3] else "presence",
                "fading": min(abs(cosine(each, fading(points))) for each in (a, b)),
                "wholeness": min(wholeness(each, points) for each in (even[i], odd[j])),
                "size": float(min(np.linalg.norm(a), np.linalg.norm(b))),
            }
            | displacements(even[i], odd[j], sign, points)
        )
        fields.append(field_table(even[i], odd[j], sign, points))
    return found, fields


def field_table(even: Change, odd: Change, sign: float, points: Points) -> pd.DataFrame:
    """x, y, z (Å from the box's origin), mass (share), and of each half its displacement dx, dy, dz (Å), and presence.

    Where the ends of the odd half's trajectory are the other way round they have been exchanged.
    """
    columns = dict(zip("xyz", points.place.T, strict=True)) | {"mass": points.weight}
    for half, change, turned in (("even", even, 1.0), ("odd", odd, sign)):
        moved = dict(zip((f"d{axis}_{half}" for axis in "xyz"), turned * change.displacement.T, strict=True))
        columns |= moved | {f"presence_{half}": turned * change.presence, f"present_{half}": change.present}
    return pd.DataFrame(columns)


def displacements(even: Change, odd: Change, sign: float, points: Points) -> dict[str, Any]:
    """Å of two matched motions, weighed by mass, presence, and how much a point moves in either."""
    first, second = even.displacement, sign * odd.displacement
    there = points.weight * even.present * odd.present
    lengths = [np.square(each).sum(axis=1) for each in (first, second)]
    moving = there * (lengths[0] + lengths[1])
    moving = moving / max(moving.sum(), STILL)
    size = [float(np.sqrt(moving @ each)) for each in lengths]
    norms = [float(np.sqrt(there @ each)) for each in lengths]
    common = float(there @ (first * second).sum(axis=1))
    return {
        "displacement": size,
        "ratio": norms[1] / norms[0] if norms[0] > STILL else None,
        "difference": float(np.sqrt(moving @ np.square(first - second).sum(axis=1))),
        "displacement_cosine": common / (norms[0] * norms[1]) if min(norms) > STILL else None,
    }


def seen_of(known: Posteriors) -> Likelihoods:
    """What images say of their latents, without the prior."""
    seen = likelihoods(known.latent, known.covariance, known.prior_mean, known.prior_covariance)
    return plausible(seen, known.prior_mean, known.prior_covariance)


def direction_gain(
    population: Normal,
    others: Likelihoods,
    direction: Float[np.ndarray, " latent"],
    particle: Int[np.ndarray, " row"] | None = None,
) -> dict[str, float]:
    """Nats a particle that a spread along one direction adds for particles that the network never saw.

    The evidence under the normal distribution C of the network's own half, less that under the one without the
    direction t, `C - t tᵀ / (tᵀ C⁻¹ t)`, where particles do not differ along it. Of t counts what lies along axes that
    particles use: along another no spread is possible, so that a direction which leans to it would seem to have none.
    One that lies mostly along axes that no particle uses has none.

    Args:
        population: the latents of the network's own half.
        others: what the images of the other half say.
        direction: in latent space, of any length.
        particle: number of each row of `others`, where rows may be copies of one.
    """
    unit = direction.astype(float) / max(float(np.linalg.norm(direction)), STILL)
    variance, axes = np.linalg.eigh(population.covariance)
    told = variance * np.einsum("iu,ij,ju->u", axes, others.precision.mean(0), axes)
    used = (variance > UNUSED * variance.mean()) | (told > 1)
    along = axes[:, used].T @ unit
    if along @ along < 0.5:
        return {"gain": 0.0, "error": 0.0}
    strength = 1 / float((along**2 / variance[used]).sum())
    along = axes[:, used] @ along
    without = population.covariance - (1 - 1e-4) * strength * np.outer(along, along)
    found = gain(log_evidence(others, population) - log_evidence(others, Normal(population.mean, without)), particle)
    return {"gain": found.mean, "error": found.error}


def gains(network: Path, other: Path, changes: list[Change]) -> dict[str, dict[str, float]]:
    """`direction_gain` of every change of one half's network, on the particles of the other half, by its name."""
    population = fit_normal(evenly(seen_of(read_posteriors(network / "heterogeneity" / "posterior.npz")), FITTED))
    crossed = read_posteriors(other / "crossed" / "posterior.npz")
    others = seen_of(crossed)
    return {each.name: direction_gain(population, others, each.direction, crossed.particle) for each in changes}
