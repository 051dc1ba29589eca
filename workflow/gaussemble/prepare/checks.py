"""Judgements: does the contrast look right, and do a user's map, mask and poses belong to these particles?

Each check returns what is wrong in one line that says what to do, or None.
"""

import math
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaussemble.io.store import ImageStore
from gaussemble.physics.backprojection import Sums, divide, empty_sums, insert, weighted_slices
from gaussemble.physics.coverage import Coverage
from gaussemble.physics.fourier import band_box, fourier_crop
from gaussemble.physics.masks import within_sphere
from gaussemble.physics.symmetric_sums import symmetrised
from gaussemble.prepare.contrast import COARSE, asymmetry, coarse, sign_of
from gaussemble.prepare.given import crop_map
from gaussemble.prepare.slices import BLOCK
from gaussemble.progress import say
from gaussemble.quantities import Map, Particles

POSE_PARTICLES = 3000  # at most, whose poses are tried another way round
POSE_CORRELATION = 0.8  # with the map, below which another way round proves nothing
POSE_GAIN = 0.3  # of atanh(correlation), by which it must be better
UNSEEN, UNEVEN = 0.03, 0.5  # fraction of directions, sampling efficiency: worth a warning


def correlation(a: Float[Tensor, "z y x"], b: Float[Tensor, "z y x"]) -> float:
    """Pearson's within the sphere that projections have seen; 0 where one of them is flat."""
    sphere = torch.from_numpy(within_sphere(a.shape[-1]))
    a, b = (values[sphere].double() - values[sphere].double().mean() for values in (a, b))
    norm = float(a.norm() * b.norm())
    return float(a @ b) / norm if norm > 0 else 0.0


def check_contrast(own: Map, reliability: float, folder: Path) -> str | None:
    """What is wrong with the contrast of a reconstruction whose half-maps correlate so well, or None."""
    skewness = asymmetry(own)
    if sign_of(skewness, reliability) >= 0:
        return None
    return (
        f"{folder}: contrast looks inverted: set particles.contrast to white or black, the other one (skewness of the "
        f"reconstruction's density at {COARSE:g} Å is {skewness:.2f}, expected positive)"
    )


def mirror_images(voxels: Float[Tensor, "z y x"]) -> list[Float[Tensor, "z y x"]]:
    """Of the other hand, in the ways that programs turn it: along x, y or z, or all three, about voxel D//2."""
    beyond = 1 - voxels.shape[-1] % 2  # of an even box, the plane of voxel 0 has no mate
    return [voxels.flip(axes).roll((beyond,) * len(axes), axes) for axes in ((2,), (1,), (0,), (0, 1, 2))]


def check_map(given: Map, own: Map, path: Path) -> str | None:
    """What is wrong with a user's map beside the particles' own reconstruction, or None; says how well they agree."""
    first, second = coarse(own), coarse(given)
    straight = correlation(first, second)
    mirrored = max(correlation(first, image) for image in mirror_images(second))
    found = f"correlation with the particles' own reconstruction at {COARSE:g} Å is {straight:.2f}"
    say(f"{path}: {found}")
    if straight < -0.3:
        return f"{path}: contrast inverted: {found}; multiply the map by -1, or set particles.contrast"
    if mirrored > straight + 0.05 and mirrored > 0.8:
        return f"{path}: the map has the other hand: {found}, that of its mirror image {mirrored:.2f}; mirror the map"
    if straight < 0.7:
        return (
            f"{path}: the map does not belong to these particles, or is turned or shifted, or their views leave much "
            f"of it unseen: {found}"
        )
    return None


def other_poses(particles: Particles) -> dict[str, Particles]:
    """The particles as they are and, by what would then be wrong, with poses that others write the other way round."""
    rotation, shift = particles.rotation.mT.contiguous(), -particles.shift
    return {
        "": particles,
        "poses appear inverted": replace(particles, rotation=rotation),
        "shifts appear inverted": replace(particles, shift=shift),
        "poses and shifts appear inverted": replace(particles, rotation=rotation, shift=shift),
    }


def sum_other_poses(store: ImageStore, rows: Int[Tensor, " image"], box: int) -> Sums:
    """Some images, cropped to a box, inserted in each of the ways of `other_poses`: a volume each."""
    pixel_size = store.pixel_size * store.box / box
    sums = empty_sums(len(other_poses(store.particles[:1])), box, 2)
    for block in rows.split(BLOCK):
        images = fourier_crop(store.read(block), box)
        for volume, particles in enumerate(other_poses(store.particles[block]).values()):
            data, weights = weighted_slices(images, particles, pixel_size)
            pairs = torch.stack([torch.arange(len(block)), torch.full((len(block),), volume)], dim=-1)
            insert(sums, data, weights, particles.rotation, pairs)
    return sums


def check_poses(given: Map, store: ImageStore, symmetry: str, path: Path) -> str | None:
    """Whether another way round of poses or shifts fits a user's map clearly better: what is wrong then, or None.

    The rotations turn the volume into the view here; files of other programs may hold the inverse.
    """
    count = min(POSE_PARTICLES, len(store))
    rows = torch.linspace(0, len(store) - 1, count).round().long().unique()
    box = band_box(store.box, store.pixel_size, COARSE / 2)
    sums = symmetrised(sum_other_poses(store, rows, box), symmetry)
    pixel_size = store.pixel_size * store.box / box
    reference = coarse(Map(crop_map(given.voxels, box), pixel_size))
    names = other_poses(store.particles[:1])
    maps = {name: coarse(Map(divide(sums, volume), pixel_size)) for volume, name in enumerate(names)}
    found = {name: correlation(voxels, reference) for name, voxels in maps.items()}
    best = max(found, key=lambda name: found[name])
    gain = math.atanh(min(found[best], 0.9999)) - math.atanh(max(found[""], 0.0))
    if best == "" or found[best] < POSE_CORRELATION or gain < POSE_GAIN:
        return None
    return (
        f"{store.folder}: {best}: {path} correlates with the reconstruction at {COARSE:g} Å by {found['']:.2f}, and by "
        f"{found[best]:.2f} when they are turned round; write rotations that turn the map into the view, and shifts "
        "that move the image to its centre"
    )


def check_mask(mask: Float[Tensor, "z y x"], own: Map, path: Path) -> str | None:
    """What is wrong with a user's mask beside the particles' own reconstruction, or None."""
    density, weight = own.voxels.double(), mask.double()
    if float((1 - weight).sum()) < 1:
        return None
    inside, outside = (float((density * part).sum() / part.sum()) for part in (weight, 1 - weight))
    if inside > outside:
        return None
    return (
        f"{path}: the mask misses the molecule: the reconstruction's mean density is {inside:.3g} inside and "
        f"{outside:.3g} outside; is it inverted, or of another map?"
    )


def check_coverage(found: Coverage, folder: Path) -> str | None:
    """What the views of the particles leave open, or None."""
    if found.unseen <= UNSEEN and found.efficiency >= UNEVEN:
        return None
    return (
        f"{folder}: views are uneven: {found.unseen:.1%} of the directions in Fourier space are seen by no particle, "
        f"the others with an efficiency of {found.efficiency:.2f} (1: even); maps are smeared, and FSC does not show it"
    )
