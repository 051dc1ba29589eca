"""Whether an atomic model lies on a map's density and, where it does not, the place at which it would.

A model that is fitted in a map lies on density that is higher than at the same atoms shifted aside; how much, in
standard deviations over many shifts, is the score. All translations together are one cross-correlation. Rotations are
not searched: a model of another orientation has to be fitted by a program made for it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.fft import irfftn, rfftn
from scipy.ndimage import map_coordinates
from scipy.optimize import minimize

from gaussemble.errors import InputError
from gaussemble.io.atoms import Atoms
from gaussemble.progress import say
from gaussemble.quantities import Map

SHIFTS, SAMPLED_ATOMS = 200, 5000
# scores of three real maps with their models: fitted 10 to 27, 10 Å aside up to 1.7, 15 Å or more up to 0.9, turned
# up to 4.2; those of other molecules at the best of all translations up to 4.8, mirrored up to 7.4
REFUSED, DOUBTED = 1.0, 3.0
FOUND, FOUND_MIRRORED = 6.0, 8.0
BETTER = 1.1  # how much better another place must score to be told
SEARCH_BOX = 96  # voxels along an edge in the search of all translations, at most


@dataclass(frozen=True)
class Place:
    """Where a model would lie: mirrored through the box's centre along an axis (or not), then shifted."""

    score: float
    shift: Float64[np.ndarray, " 3"]  # Å, (x, y, z)
    mirrored: str = ""  # x, y, z or none


def check_fit(
    model: Path,
    map_path: Path,
    atoms: Atoms,
    density: Map,
    resolution: float,
    seed: int,
    still: Bool[np.ndarray, " atom"] | None = None,
) -> None:
    """Say how well the model lies on the map, and where it would lie better, to judge by atoms that stand `still`.

    Raises:
        InputError: atoms outside the box; a model that does not lie on the density, or hardly, where it clearly would
            at another place.
    """
    distance = max(1.5 * resolution, 10.0)
    shown = atoms.position if still is None else atoms.position[still]
    score = fit_score(shown, density, distance, seed)
    place = better_place(shown, density, resolution, score, seed)
    advice = "" if place is None else described(place, density, resolution)
    refuse_outside(model, map_path, atoms, density, advice)
    if score < (REFUSED if place is None else DOUBTED):
        raise InputError(
            f"{model}: not fitted in {map_path}: the map at its atoms is {score:.1f} sd above the map at the same "
            f"atoms shifted aside (fitted models: 8 or more); {advice or 'fit the model into the map first'}"
        )
    say(f"seeds: {model} lies on the map with z = {score:.1f} (fitted models: 8 or more)")
    if place is not None:
        say(f"seeds: WARNING: {model}: {advice}")
    elif score < DOUBTED:
        say(f"seeds: WARNING: {model}: z is low; look whether the model is fitted in this map")


def refuse_outside(model: Path, map_path: Path, atoms: Atoms, density: Map, advice: str = "") -> None:
    """Raise InputError where atoms lie outside the box."""
    low = np.asarray(density.origin)
    high = low + (density.box - 1) * density.pixel_size
    outside = np.flatnonzero(((atoms.position < low) | (atoms.position > high)).any(1))
    if len(outside) == 0:
        return
    residue = atoms.residue[outside[0]]
    where = f"{atoms.chain[residue]}/{atoms.residue_name[residue]} {atoms.number[residue]}"
    raise InputError(
        f"{model}: model outside the map: {len(outside)} of {len(atoms)} atoms, the first in {where} at "
        f"{_triple(atoms.position[outside[0]])} Å, while {map_path} reaches from {_triple(low)} to {_triple(high)} Å; "
        + (advice or "fit the model into this map, check the map's origin, or select the part that is in it")
    )


def fit_score(position: Float64[np.ndarray, "atom 3"], density: Map, distance: float, seed: int) -> float:
    """How much better the atoms lie in the map than shifted by `distance` Å in random directions, as a z-score.

    z = (m - mean m') / sd m', where m is the mean map value at the atoms and m' that after each shift.
    """
    random = np.random.default_rng(seed)
    sample = position[random.permutation(len(position))[:SAMPLED_ATOMS]]
    direction = random.normal(size=(SHIFTS, 3))
    shifts = distance * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    shifted = [mean_value(sample + shift, density) for shift in shifts]
    gain = mean_value(sample, density) - np.mean(shifted)
    return float(gain / max(np.std(shifted), 1e-6 * density.voxels.abs().max().item(), 1e-30))


def mean_value(position: Float64[np.ndarray, "atom 3"], density: Map) -> float:
    """Mean of the map at points, linear between voxels, 0 outside the box."""
    index_zyx = ((position - np.asarray(density.origin)) / density.pixel_size)[:, ::-1]
    return float(map_coordinates(density.voxels.numpy(), index_zyx.T, order=1).mean())


def better_place(
    position: Float64[np.ndarray, "atom 3"], density: Map, resolution: float, score: float, seed: int
) -> Place | None:
    """The place, of all translations of the model and of its mirror images, where it lies well and clearly better.

    A mirror image is told only where no translation of the model itself is as good. None if the model lies well where
    it is, or nowhere.
    """
    coarse = coarsened(density)
    distance = max(1.5 * resolution, 10.0)
    places = []
    for axis in ("", *"xyz"):
        image = mirrored(position, density, axis)
        shift = refined(image, density, best_translation(image, coarse), coarse.pixel_size)
        places.append(Place(fit_score(image + shift, density, distance, seed), shift, axis))
    here, *images = places
    mirror = max(images, key=lambda place: place.score)
    if mirror.score > max(FOUND_MIRRORED, BETTER * max(score, here.score)):
        return mirror
    aside = np.linalg.norm(here.shift) > resolution / 3
    return here if aside and here.score > max(FOUND, BETTER * score) else None


def coarsened(density: Map) -> Map:
    """Means over blocks of voxels, so that an edge has at most `SEARCH_BOX`; what does not fill a block is left out."""
    step = -(-density.box // SEARCH_BOX)
    box = density.box // step
    blocks = density.voxels[: box * step, : box * step, : box * step].reshape(box, step, box, step, box, step)
    middle = (step - 1) / 2 * density.pixel_size
    x, y, z = density.origin
    return Map(blocks.mean((1, 3, 5)), step * density.pixel_size, (x + middle, y + middle, z + middle))


def best_translation(position: Float64[np.ndarray, "atom 3"], density: Map) -> Float64[np.ndarray, " 3"]:
    """Å, by which the atoms must be shifted to lie on the most density: c(t) = sum over atoms of map(x + t).

    The map is taken as periodic; of the shifts that are equal then, the one that brings the centroid into the box.
    """
    edge = density.box * density.pixel_size
    index = _nearest_voxels(position, density) % density.box
    counts = np.zeros(density.voxels.shape, np.float32)
    np.add.at(counts, tuple(index[:, ::-1].T), 1.0)
    transform = np.conj(np.asarray(rfftn(counts))) * np.asarray(rfftn(density.voxels.numpy()))
    correlation = np.asarray(irfftn(transform, counts.shape))
    steps = np.array(np.unravel_index(int(np.argmax(correlation)), counts.shape))[::-1]
    shift = steps * density.pixel_size
    moved = position.mean(0) + shift - np.asarray(density.origin)
    return shift - np.floor(moved / edge) * edge


def refined(
    position: Float64[np.ndarray, "atom 3"], density: Map, start: Float64[np.ndarray, " 3"], step: float
) -> Float64[np.ndarray, " 3"]:
    """Å, the shift near `start` at which the atoms lie on the most density; to about a tenth of a voxel."""
    sample = position[:: -(-len(position) // SAMPLED_ATOMS)]
    simplex = start + step * np.concatenate([np.zeros((1, 3)), np.eye(3)])
    accuracy = {"initial_simplex": simplex, "xatol": density.pixel_size / 10, "fatol": 0.0, "maxfev": 150}
    found = minimize(lambda shift: -mean_value(sample + shift, density), start, method="Nelder-Mead", options=accuracy)
    return np.asarray(found.x, np.float64)


def mirrored(position: Float64[np.ndarray, "atom 3"], density: Map, axis: str) -> Float64[np.ndarray, "atom 3"]:
    """Reflected through the plane across an axis at the middle of the box; as they are if the axis is empty."""
    if not axis:
        return position
    column = "xyz".index(axis)
    result = position.copy()
    result[:, column] = 2 * _middle(density)[column] - result[:, column]
    return result


def described(place: Place, density: Map, resolution: float) -> str:
    """What to do about a model that would lie better elsewhere."""
    shift, near = place.shift, max(resolution / 3, density.pixel_size)
    origin = np.asarray(density.origin)
    if place.mirrored:
        where = f", shifted by {_triple(shift)} Å," if np.linalg.norm(shift) > near else ""
        return (
            f"its mirror image across {place.mirrored}{where} would score z = {place.score:.1f}: the map seems to be "
            "of the other hand; flip the map"
        )
    named = ""
    if origin.any() and np.abs(shift - origin).max() <= near:
        named, shift = "the model seems to be in the frame of origin (0, 0, 0), the map's first voxel: ", origin
    elif np.abs(shift - density.center).max() <= near:
        named, shift = "the model seems to be in a frame that starts at the box's centre: ", density.center
    return (
        f"{named}shift the model by {_triple(shift)} Å (z = {place.score:.1f} there), or give the map the origin "
        f"{_triple(origin - shift)} Å"
    )


def _nearest_voxels(position: Float64[np.ndarray, "atom 3"], density: Map) -> Int[np.ndarray, "atom 3"]:
    return np.round((position - np.asarray(density.origin)) / density.pixel_size).astype(int)


def _middle(density: Map) -> Float[np.ndarray, " 3"]:
    """Å, of the middle between the first and the last voxel: where flipping the array leaves a point in place."""
    return np.asarray(density.origin) + (density.box - 1) / 2 * density.pixel_size


def _triple(position: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in position) + ")"
