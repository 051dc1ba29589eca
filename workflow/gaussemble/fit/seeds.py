"""Where Gaussians start: on the beads of an atomic model, on the density it leaves unexplained, or on density alone.

Seeds carry the density's first three moments. A k-means cell of the density (or a bead of the model) becomes a
Gaussian of the cell's mass, at its centre of mass, as wide as its spread; sums over Gaussians then agree with the map
up to second order in frequency, before anything is fitted (that is the stage `neutral`).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from pydantic import Field
from scipy.ndimage import distance_transform_edt, label
from scipy.spatial import KDTree
from sklearn.cluster import kmeans_plusplus

from gaussemble.errors import InputError
from gaussemble.fit.placement import check_fit
from gaussemble.fit.topology import consecutive
from gaussemble.io.atoms import Atoms, Beads, Grouping, gather, group_atoms, read_atoms, write_models
from gaussemble.io.mixtures import write_mixture, write_pseudo_atoms
from gaussemble.io.mrc import read_map
from gaussemble.io.selections import selected_atoms
from gaussemble.io.structures import Choice
from gaussemble.options import StageOptions
from gaussemble.progress import say
from gaussemble.quantities import Map, Mixture

BLUR = 0.225  # standard deviation of a point in a map, over its resolution: 1 / (pi sqrt 2)
ITERATIONS = 15  # of the k-means; its error falls by less than a hundredth afterwards
START = 256  # Gaussians on density alone, from which the neutral fit grows (Chen & Ludtke 2021)
MOST = 4096  # Gaussians on what a model leaves unexplained
PIXELS_PER_RESOLUTION = 3  # the derived resolution: particles are cropped so that Nyquist lies a little beyond it


class Options(StageOptions):
    """Options of the stage `seeds`."""

    atoms: Grouping = Field(
        default="residue",
        description="What one Gaussian stands for, given a model: an atom, a residue, or a residue at its C-alpha (P "
        "in nucleic acids); ligands and glycans count as residues.",
    )
    selection: str | None = Field(
        default=None,
        min_length=1,
        description="The model's part to use, in gemmi's syntax with the file's names, such as A,B or A/220-334 "
        "(null: all of it, without waters and hydrogens).",
    )
    model_number: int | None = Field(
        default=None, description="Which of a file's several models to use, by its number (null: the first)."
    )
    assembly: str | None = Field(
        default=None,
        min_length=1,
        description="Name, in quotes, of a biological assembly that the model's file describes, to be made (null: the "
        "model as it stands).",
    )
    ncs: bool = Field(
        default=False, description="Make the strict NCS copies that the model's file describes but does not hold."
    )
    count: int | None = Field(
        default=None,
        ge=1,
        description="Number of Gaussians: of the model's part where there is a model, by k-means on its atoms (null: "
        "one per atom, residue or C-alpha), else of all (null: at most 256, from which the stage neutral grows).",
    )
    resolution: float | None = Field(
        default=None, gt=0, description="Resolution in Å at which Gaussians are sized (null: three pixels)."
    )
    width: float | None = Field(
        default=None,
        gt=0,
        description="Standard deviation of all Gaussians in Å (null: from bead size and resolution).",
    )
    threshold: float | None = Field(
        default=None,
        gt=0,
        description="Map value above which density is seeded (null: three standard deviations of the solvent, at least "
        "a tenth of the 99th percentile inside the mask).",
    )
    residual: bool = Field(
        default=True,
        description="Also seed density in the mask that the model does not explain, and let neutral add to that; not "
        "where parts move.",
    )
    moving: str | None = Field(
        default=None,
        min_length=1,
        description="The model's parts that move so far that the map shows them smeared, in gemmi's syntax: their "
        "Gaussians stay as the model has them, on the scale of the others, and none are seeded on what the model "
        "leaves. For rigid domains and poses.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the k-means and of the check of the model.")


@dataclass(frozen=True)
class Density:
    """The density to represent, as points: voxels inside the mask, at most half the resolution from solid ones.

    The skirts round solid density belong to its mass; solvent farther away, whose mean need not be zero, does not.
    """

    position: Float64[np.ndarray, "voxel 3"]  # Å, map frame
    value: Float64[np.ndarray, " voxel"]  # map times mask
    solid: Bool[np.ndarray, " voxel"]  # above the threshold


def seeds(*, map: Path, mask: Path, out: Path, model: Path | None = None, options: Options) -> None:
    """Write seeds.npz and seeds.cif, Gaussians to start the neutral mixture from; model.cif: the model as it was taken.

    Beside the mixture seeds.npz has `grow`, whether its number of Gaussians is only a start, `model`, whether they
    stand on one, beside which others may come, the pairs `bonds` and triples `angles` of Gaussians that stand for
    consecutive residues of a chain, and `moving`, those that the neutral fit leaves as they are, if there are any.
    """
    density_map, mask_map = read_map(map), read_map(mask)
    refuse_other_box(map, density_map, mask, mask_map)
    resolution = options.resolution or PIXELS_PER_RESOLUTION * density_map.pixel_size
    density = density_inside(density_map, mask_map, resolution, options.threshold)
    refuse_empty(map, mask, mask_map, density)
    if model is None:
        refuse_choice(options)
        beads = seed_density(density, density_map.pixel_size, resolution, options)
        grow = " to start from; their number grows in the stage neutral" if options.count is None else ""
        say(f"seeds: {len(beads)} Gaussians on {density.solid.sum()} voxels of density{grow}")
        others = {}
    else:
        atoms = read_atoms(model, Choice(options.model_number, options.selection, options.assembly, options.ncs))
        still = still_atoms(atoms, options.moving)
        check_fit(model, map, atoms, density_map, resolution, options.seed, still)
        beads, moving = seed_model(atoms, still, density, density_map.pixel_size, resolution, options)
        others = {} if options.count else consecutive(atoms, options.atoms)
        others |= {"moving": moving} if options.moving else {}
        write_models(out / "model.cif", atoms, [atoms.position])
    mixture = as_mixture(beads, density_map, options.width)
    grow = options.count is None and (model is None or (options.residual and options.moving is None))
    flags = {"grow": np.array(grow), "model": np.array(model is not None)}
    write_mixture(out / "seeds.npz", mixture, density_map, **flags, **others)
    write_pseudo_atoms(out / "seeds.cif", mixture, density_map)


def refuse_other_box(map_path: Path, density: Map, mask_path: Path, mask: Map) -> None:
    """Raise InputError where the mask is not on the map's grid."""
    if mask.box != density.box or abs(mask.pixel_size / density.pixel_size - 1) > 1e-3:
        raise InputError(
            f"{mask_path}: box {mask.box} at {mask.pixel_size:.4g} Å, but {map_path} has {density.box} at "
            f"{density.pixel_size:.4g} Å; give a mask on the map's grid"
        )


def refuse_choice(options: Options) -> None:
    """Raise InputError where options say which part of a model to use, but there is none."""
    choices = ("selection", "model_number", "assembly", "ncs", "moving")
    given = [name for name in choices if getattr(options, name) != Options.model_fields[name].default]
    if given:
        raise InputError(f"options {', '.join(given)}: they choose a part of a model; give a model, or leave them out")


def refuse_empty(path: Path, mask_path: Path, mask: Map, density: Density) -> None:
    """Raise InputError where the mask is empty, or there is no positive density in it."""
    if not (mask.voxels > 0).any():
        raise InputError(f"{mask_path}: no voxel above 0; give a mask that is 1 at the molecule")
    if not density.solid.any() or density.value.sum() <= 0:
        raise InputError(
            f"{path}: the density inside the mask sums to {density.value.sum():.4g}, with {density.solid.sum()} voxels "
            "above the threshold; expected molecule brighter than solvent: check mask and threshold, invert a dark map"
        )


def density_inside(density: Map, mask: Map, resolution: float, threshold: float | None) -> Density:
    """The density to represent; in the mask's soft edge it counts by the mask's value."""
    weight = mask.voxels.double().numpy()
    voxels = density.voxels.double().numpy()
    inside = weight > 0
    if threshold is None:
        threshold = derived_threshold(voxels, inside)
    value = voxels * weight
    solid = inside & (value > threshold)
    if solid.any():
        inside &= np.asarray(distance_transform_edt(~solid)) * density.pixel_size <= resolution / 2
    position = np.argwhere(inside)[:, ::-1] * density.pixel_size + np.asarray(density.origin)
    return Density(position, value[inside], solid[inside])


def derived_threshold(voxels: Float[np.ndarray, "z y x"], inside: Bool[np.ndarray, "z y x"]) -> float:
    """Three robust standard deviations of the solvent, at least a tenth of the 99th percentile in the mask.

    The second bound rules in maps without noise outside; it is low, so that mobile and partly occupied domains stay.
    Where the mask leaves nothing outside, the solvent is judged by the whole map, most of which it is.
    """
    tenth = 0.1 * np.percentile(voxels[inside], 99) if inside.any() else 0.0
    solvent = voxels if inside.all() else voxels[~inside]
    deviation = 1.4826 * np.median(np.abs(solvent - np.median(solvent)))
    return max(float(tenth), float(3 * deviation), 0.0)


def seed_density(density: Density, pixel_size: float, resolution: float, options: Options) -> Beads:
    """Gaussians by weighted k-means on the density above the threshold; their masses sum to the density in the mask."""
    solid = density.solid
    count = options.count or min(START, int(solid.sum()))
    if count > solid.sum():
        raise InputError(
            f"option count, {count}, is more than the {solid.sum()} voxels above the threshold; lower one of them"
        )
    beads = cluster(density.position[solid], density.value[solid], count, options.seed)
    return scaled(widened(beads, BLUR * resolution, pixel_size), density.value.sum())


def still_atoms(atoms: Atoms, moving: str | None) -> Bool[np.ndarray, " atom"]:
    """The atoms that are not of parts that move; raises InputError where all are."""
    if moving is None:
        return np.ones(len(atoms), dtype=bool)
    still = ~selected_atoms("moving", moving, atoms)
    if not still.any():
        raise InputError(
            f"option moving, {moving!r}: all atoms of the model; leave out the part that the map shows, from which the "
            "scale is taken"
        )
    return still


def seed_model(
    atoms: Atoms,
    still: Bool[np.ndarray, " atom"],
    density: Density,
    pixel_size: float,
    resolution: float,
    options: Options,
) -> tuple[Beads, Bool[np.ndarray, " bead"]]:
    """Beads of the model with the mass of the density round its atoms, then Gaussians for the density elsewhere.

    Round an atom means within its radius (2 Å) and half the resolution; a blurred atom is below a tenth of its height
    there. Where parts move the mass is that of the others, and nothing is seeded elsewhere, where those parts are
    smeared. Which beads are theirs comes second.
    """
    beads, moving = beads_of_parts(atoms, still, options.atoms, options.count, options.seed)
    beads = Beads(beads.position, beads.weight, np.hypot(beads.spread, BLUR * resolution))
    distance, _ = KDTree(atoms.position[still]).query(density.position, distance_upper_bound=2.0 + resolution / 2)
    explained = np.isfinite(distance)
    mass = density.value[explained].sum()
    if mass <= 0:
        raise InputError(f"the map sums to {mass:.4g} round the model's atoms inside the mask; check the mask")
    beads, share = scaled(beads, mass * beads.weight.sum() / beads.weight[~moving].sum()), mass / density.value.sum()
    if options.moving:
        say(f"seeds: {len(beads)} Gaussians, {moving.sum()} of parts that move; the others explain {share:.0%}")
        return beads, moving
    say(f"seeds: {len(beads)} Gaussians on the model, which explains {share:.0%} of the density")
    if not options.residual:
        return beads, moving
    rest = seed_residual(density, explained, mass / len(beads), pixel_size, resolution, options.seed)
    say(f"seeds: {len(rest)} Gaussians on density that the model leaves unexplained")
    return scaled(_joined(beads, rest), density.value.sum()), moving


def model_beads(atoms: Atoms, grouping: Grouping, count: int | None, seed: int) -> Beads:
    """The model's beads, or `count` clusters of its atoms; raises InputError where it has fewer atoms."""
    if count is None:
        return group_atoms(atoms, grouping)
    if count > len(atoms):
        raise InputError(f"option count, {count}, is more than the model's {len(atoms)} atoms; lower it")
    return cluster(atoms.position, atoms.electrons, count, seed)


def beads_of_parts(
    atoms: Atoms, still: Bool[np.ndarray, " atom"], grouping: Grouping, count: int | None, seed: int
) -> tuple[Beads, Bool[np.ndarray, " bead"]]:
    """The model's beads, and whether they are of parts that move.

    Clusters are of atoms that stand still or of such as move, in proportion to their electrons.

    Raises:
        InputError: fewer atoms of either than clusters.
    """
    if count is None:
        whole = np.arange(len(atoms)) if grouping == "atom" else atoms.residue
        moving = np.bincount(whole, atoms.electrons * still) < 0.5 * np.bincount(whole, atoms.electrons)
        return model_beads(atoms, grouping, count, seed), moving
    if still.all():
        return model_beads(atoms, grouping, count, seed), np.zeros(count, dtype=bool)
    own = int(np.clip(round(count * atoms.electrons[still].sum() / atoms.electrons.sum()), 1, count - 1))
    if min(own, count - own) < 1 or own > still.sum() or count - own > (~still).sum():
        raise InputError(f"option count, {count}: too few or too many for a part that moves and the others; change it")
    sizes = ((still, own), (~still, count - own))
    parts = [cluster(atoms.position[one], atoms.electrons[one], size, seed) for one, size in sizes]
    return _joined(*parts), np.arange(count) >= own


def seed_residual(
    density: Density,
    explained: Bool[np.ndarray, " voxel"],
    mass_per_gaussian: float,
    pixel_size: float,
    resolution: float,
    seed: int,
) -> Beads:
    """Gaussians of the given mean mass on the solid density that is not explained.

    Patches smaller than a resolution element are noise or skirts of the model and get none.
    """
    chosen = density.solid & ~explained
    index = np.round((density.position - density.position.min(0)) / pixel_size).astype(int)
    grid = np.zeros(index.max(0) + 1, dtype=bool)
    grid[tuple(index[chosen].T)] = True
    number = np.zeros(grid.shape, dtype=np.int32)
    label(grid, output=number)
    patch = number[tuple(index.T)]
    smallest = resolution**3 / pixel_size**3
    chosen &= (np.bincount(patch) >= smallest)[patch]
    if not chosen.any():
        return Beads(np.zeros((0, 3)), np.zeros(0), np.zeros(0))
    count = int(np.clip(round(density.value[chosen].sum() / mass_per_gaussian), 1, min(chosen.sum(), MOST)))
    beads = cluster(density.position[chosen], density.value[chosen], count, seed)
    return widened(beads, BLUR * resolution, pixel_size)


def cluster(
    position: Float64[np.ndarray, "point 3"], weight: Float64[np.ndarray, " point"], count: int, seed: int
) -> Beads:
    """Weighted k-means: mass, centre of mass and spread of each cell. Starts by k-means++ on a weighted sample.

    In three dimensions a tree finds the nearest centres much quicker than a table of all distances. A centre that
    loses all of its points goes to the point that is worst represented.
    """
    random = np.random.default_rng(seed)
    sample = random.choice(len(position), min(len(position), 5 * count), replace=False, p=weight / weight.sum())
    center, _ = kmeans_plusplus(position[sample], count, n_local_trials=1, random_state=seed)
    for _ in range(ITERATIONS):
        beads, worst = _cells(position, weight, np.asarray(center, np.float64))
        center = np.concatenate([beads.position, worst])
    return _cells(position, weight, center)[0]


def _cells(
    position: Float64[np.ndarray, "point 3"],
    weight: Float64[np.ndarray, " point"],
    center: Float64[np.ndarray, "cell 3"],
) -> tuple[Beads, Float64[np.ndarray, "lost 3"]]:
    """The cells round the centres and, for each centre without points, the point that is worst represented."""
    distance, nearest = KDTree(center).query(position)
    used, cell = np.unique(nearest, return_inverse=True)
    lost = len(center) - len(used)
    worst = np.argsort(weight * np.square(distance))[len(position) - lost :]
    return gather(position, weight, cell, len(used)), position[worst]


def widened(beads: Beads, least: float, pixel_size: float) -> Beads:
    """Beads of voxels: a voxel's own extent (a cube's standard deviation) added, and no narrower than the blur."""
    spread = np.hypot(beads.spread, pixel_size / np.sqrt(12))
    return Beads(beads.position, beads.weight, np.maximum(spread, least))


def scaled(beads: Beads, mass: float) -> Beads:
    """The same beads with weights that sum to a mass."""
    return Beads(beads.position, beads.weight * (mass / beads.weight.sum()), beads.spread)


def as_mixture(beads: Beads, frame: Map, width: float | None) -> Mixture:
    """The beads as Gaussians relative to the box's origin; one width for all if it is given."""
    spread = beads.spread if width is None else np.full(len(beads), width)
    parts = beads.position - frame.center, beads.weight, spread
    return Mixture(*(torch.from_numpy(part).float() for part in parts))


def _joined(first: Beads, second: Beads) -> Beads:
    return Beads(
        np.concatenate([first.position, second.position]),
        np.concatenate([first.weight, second.weight]),
        np.concatenate([first.spread, second.spread]),
    )
