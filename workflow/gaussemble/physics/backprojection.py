"""Maps from images by direct Fourier inversion: slices into a 3D transform, the division by their weights, and back.

`insert` spreads each coefficient of a slice over the eight cells round `k @ R` (trilinear) of a zero-padded transform;
`divide` is `sum CTF X / (sum CTF² + prior)`, inverted and corrected for the interpolation (sinc² along each axis,
Jackson et al. 1991). `extract` is the exact adjoint of `insert`; `sample` does it with many volumes at once. Not here:
iterated gridding weights (RELION), and refinement of poses. The loops are numba's, a thread for each volume or for some
images: the result is the same for any number of threads.

Grid: `cells` are centred along z and y, and hold the half x >= 0 of a Hermitian transform. Each Friedel pair of an
image is inserted once; F(0), its own mate, with weight 1/2; the two halves of the plane x = 0 are summed on division.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import to_fourier, to_fourier_3d
from gaussemble.physics.loops import compiled, in_threads
from gaussemble.physics.projection import shift_phases
from gaussemble.quantities import Particles

# Weights below this share of their shell's mean are raised to it, so that hardly seen coefficients (zeros of the CTF,
# gaps between few views) are damped instead of blown up. RELION's 1/1000 leaves noise spikes where particles are few.
FLOOR = 0.1
IMAGES = 8  # of which a thread samples the slices


@dataclass(frozen=True)
class Sums:
    """What slices add up to in several volumes: real and imaginary part of `sum CTF X`, and `sum CTF²`."""

    cells: Float[Tensor, "volume depth row column 3"]
    box: int  # of the images and maps, pixels
    padding: int  # cells per Fourier pixel
    # Of each operator of a symmetry that was applied on the grid: the axes (x, y, z) along which that interpolated
    resampled: tuple[tuple[bool, bool, bool], ...] = ()

    def __len__(self) -> int:
        return len(self.cells)

    def merged(self, volumes: list[int]) -> "Sums":
        """The sums of some volumes added up to one: half-maps to a map."""
        return replace(self, cells=self.cells[volumes].sum(0, keepdim=True))


def _reach(box: int, padding: int) -> int:
    """Cells from the origin to the sphere |k| < box/2, plus the one that interpolation touches beyond."""
    return padding * box // 2 + 1


def sums_bytes(box: int, padding: int) -> int:
    """Memory of one volume's sums."""
    reach = _reach(box, padding)
    return (2 * reach + 1) ** 2 * (reach + 1) * 3 * 4


def empty_sums(volumes: int, box: int, padding: int) -> Sums:
    """Zeros for so many volumes."""
    reach = _reach(box, padding)
    return Sums(torch.zeros(volumes, 2 * reach + 1, 2 * reach + 1, reach + 1, 3), box, padding)


@lru_cache(maxsize=8)
def half_disc(box: int) -> tuple[Int[Tensor, " coefficient"], Float[Tensor, "coefficient 2"]]:
    """Those of a half transform with |k| < box/2: flat indices, and (kx, ky) in pixels."""
    y = torch.fft.fftfreq(box, 1 / box)[:, None].expand(box, box // 2 + 1)
    x = torch.arange(box // 2 + 1.0).expand(box, -1)
    inside = x**2 + y**2 < (box / 2) ** 2
    return inside.flatten().nonzero().flatten(), torch.stack([x[inside], y[inside]], dim=-1)


@lru_cache(maxsize=8)
def _disc(box: int) -> tuple[Int[Tensor, " coefficient"], Float[Tensor, "coefficient 2"]]:
    """The same, but one of each Friedel pair, of which the column x = 0 has both."""
    index, frequency = half_disc(box)
    first = (frequency[:, 0] > 0) | (frequency[:, 1] >= 0)
    return index[first], frequency[first]


@compiled
@no_type_check
def _cell(kx, ky, rotation):
    """Of k @ R in the half x >= 0: the lower corner's cell, the offsets from it, and -1 where its mate was taken."""
    x = kx * rotation[0, 0] + ky * rotation[1, 0]
    y = kx * rotation[0, 1] + ky * rotation[1, 1]
    z = kx * rotation[0, 2] + ky * rotation[1, 2]
    sign = np.float32(1)
    if x < 0:
        x, y, z, sign = -x, -y, -z, -sign
    left, low, near = int(x), int(np.floor(y)), int(np.floor(z))
    return left, low, near, x - np.float32(left), y - np.float32(low), z - np.float32(near), sign


@compiled
@no_type_check
def _insert(cells, values, weights, frequency, rotation, images, counts):
    """Add images, each as often as it counts, to a volume; all in float32, which takes half of the time of float64."""
    reach, one = cells.shape[0] // 2, np.float32(1)
    for place in range(images.shape[0]):
        image, count = images[place], counts[place]
        for coefficient in range(frequency.shape[0]):
            left, low, near, fx, fy, fz, sign = _cell(
                frequency[coefficient, 0], frequency[coefficient, 1], rotation[image]
            )
            real, imaginary = count * values[image, coefficient].real, count * sign * values[image, coefficient].imag
            weight = count * weights[image, coefficient]
            for dz in range(2):
                share_z = fz if dz else one - fz
                for dy in range(2):
                    share_y = share_z * (fy if dy else one - fy)
                    row = cells[near + dz + reach, low + dy + reach]
                    for dx in range(2):
                        share = share_y * (fx if dx else one - fx)
                        row[left + dx, 0] += share * real
                        row[left + dx, 1] += share * imaginary
                        row[left + dx, 2] += share * weight


@compiled
@no_type_check
def _sample(grids, values, frequency, rotation, factor):
    """Fill `values` (image, coefficient, real parts and then imaginary ones) at the slices of the rotations.

    Real and imaginary parts of all volumes are neighbours in memory, and written once: the inner loop is vectors.
    """
    reach, one, parts = grids.shape[0] // 2, np.float32(1), grids.shape[3]
    for image in range(rotation.shape[0]):
        for coefficient in range(frequency.shape[0]):
            left, low, near, fx, fy, fz, sign = _cell(
                frequency[coefficient, 0], frequency[coefficient, 1], rotation[image]
            )
            z, y, out = near + reach, low + reach, values[image, coefficient]
            share_z, share_y, share_x = factor[image, coefficient] * (one - fz), one - fy, one - fx
            next_z = factor[image, coefficient] * fz
            cell_0, share_0 = grids[z, y, left], share_z * share_y * share_x
            cell_1, share_1 = grids[z, y, left + 1], share_z * share_y * fx
            cell_2, share_2 = grids[z, y + 1, left], share_z * fy * share_x
            cell_3, share_3 = grids[z, y + 1, left + 1], share_z * fy * fx
            cell_4, share_4 = grids[z + 1, y, left], next_z * share_y * share_x
            cell_5, share_5 = grids[z + 1, y, left + 1], next_z * share_y * fx
            cell_6, share_6 = grids[z + 1, y + 1, left], next_z * fy * share_x
            cell_7, share_7 = grids[z + 1, y + 1, left + 1], next_z * fy * fx
            for part in range(parts):
                out[part] = (
                    share_0 * cell_0[part] + share_1 * cell_1[part] + share_2 * cell_2[part] + share_3 * cell_3[part]
                    + share_4 * cell_4[part] + share_5 * cell_5[part] + share_6 * cell_6[part] + share_7 * cell_7[part]
                )  # fmt: skip
            if sign < 0:
                for part in range(parts // 2, parts):
                    out[part] = -out[part]


def _checked(rotation: Float[Tensor, "image 3 3"]) -> Tensor:
    """Rotations in float32; the loops write where these say, so anything else must not reach them."""
    if not torch.allclose(rotation @ rotation.mT, torch.eye(3, dtype=rotation.dtype), atol=1e-3):
        raise ValueError("a matrix is not a rotation (or not finite)")
    return rotation.float().contiguous()


def insert(
    sums: Sums,
    data: Complex[Tensor, "image y half_x"],
    weights: Float[Tensor, "image y half_x"],
    rotation: Float[Tensor, "image 3 3"],
    pairs: Int[Tensor, "pair 2"],
    count: Float[Tensor, " pair"] | None = None,
) -> None:
    """Add slices to the sums, in place (they may be most of the memory): pair (i, v) adds image i to volume v.

    `data` and `weights` are those of `weighted_slices`. Each volume gets its images in the order of the pairs. `count`:
    how often each pair counts, once if None; an image that counts half moves a map as half of such an image would.
    """
    index, frequency = _disc(sums.box)
    once = torch.where(index == 0, 0.5, 1.0)
    values = (data.flatten(start_dim=1)[:, index] * once).to(torch.complex64)
    squares = (weights.flatten(start_dim=1)[:, index] * once).float()
    arguments = (values, squares, frequency * sums.padding, _checked(rotation))
    arrays = [argument.contiguous().numpy() for argument in arguments]
    counts = torch.ones(len(pairs)) if count is None else count.float()
    chosen = [(int(volume), pairs[:, 1] == volume) for volume in pairs[:, 1].unique()]
    in_threads(
        _insert,
        [(sums.cells[volume].numpy(), *arrays, pairs[own, 0].numpy(), counts[own].numpy()) for volume, own in chosen],
    )


def extract(
    grid: Complex[Tensor, "depth row column"], rotation: Float[Tensor, "image 3 3"], box: int, padding: int
) -> Complex[Tensor, "image y half_x"]:
    """Central slices of a grid (`volume_grid`), |k| < box/2 and 0 beyond: the adjoint of `insert`."""
    index, frequency = half_disc(box)
    values = sample(torch.view_as_real(grid)[..., None], rotation, frequency * padding)
    slices = torch.zeros(len(rotation), box, box // 2 + 1, dtype=torch.complex64)
    slices.view(len(rotation), -1)[:, index] = torch.view_as_complex(values[..., 0])
    return slices


def sample(
    grids: Float[Tensor, "depth row column part volume"],
    rotation: Float[Tensor, "image 3 3"],
    frequency: Float[Tensor, "coefficient 2"],
    factor: Float[Tensor, "image coefficient"] | None = None,
) -> Float[Tensor, "image coefficient part volume"]:
    """Coefficients of the central slices of several grids; parts are real and imaginary.

    Args:
        grids: of `volume_grids`.
        rotation: of the images.
        frequency: (kx, ky) in cells of the grids, kx >= 0, inside the sphere that these were made for.
        factor: what each coefficient is multiplied by; 1 if None.

    Raises:
        ValueError: a frequency that the grids do not hold.
    """
    if len(frequency) and float(frequency.norm(dim=-1).max()) >= grids.shape[0] // 2:
        raise ValueError("the grids do not reach as far as the slices")
    count, (parts, volumes) = len(rotation), grids.shape[3:]
    factor = torch.ones(count, len(frequency)) if factor is None else factor
    values = torch.empty(count, len(frequency), parts * volumes)
    flat, at = grids.flatten(start_dim=3).contiguous().numpy(), frequency.float().contiguous().numpy()
    each = zip(values.split(IMAGES), _checked(rotation).split(IMAGES), factor.float().split(IMAGES), strict=True)
    in_threads(_sample, [(flat, v.numpy(), at, r.numpy(), f.contiguous().numpy()) for v, r, f in each])
    return values.unflatten(2, (parts, volumes))


def weighted_slices(
    images: Float[Tensor, "image y x"], particles: Particles, pixel_size: float
) -> tuple[Complex[Tensor, "image y half_x"], Float[Tensor, "image y half_x"]]:
    """What a reconstruction sums: CTF times the centred transforms, and CTF²."""
    box = images.shape[-1]
    ctf = evaluate(particles.ctf, box, pixel_size)
    centred = to_fourier(images) * shift_phases(particles.shift, box, pixel_size).conj()
    return ctf * centred, ctf.square()


def _gridding(box: int, padding: int, resampled: tuple[tuple[bool, bool, bool], ...] = ()) -> Float[Tensor, "z y x"]:
    """What trilinear interpolation multiplies a map by: sinc² along each axis.

    Symmetry on the grid (`Sums.resampled`) does it once more, for the share of the operators that interpolate: along
    turned axes, but a product of sinc² is nearly round.
    """
    axis = torch.sinc((torch.arange(box) - box // 2) / (padding * box)).square()
    along_x, along_y, along_z = axis, axis[:, None], axis[:, None, None]
    once = along_z * along_y * along_x
    if not resampled:
        return once
    again = torch.zeros_like(once)
    for (x, y, z), count in Counter(resampled).items():
        again += count / len(resampled) * along_x**x * along_y**y * along_z**z
    return once * again


def _padded_rows(box: int, padding: int) -> tuple[Tensor, Tensor, int]:
    """Along z or y: rows of the centred cells and the same rows of the padded transform; the length along x."""
    reach, last = _reach(box, padding), (padding * box - 1) // 2
    centred = torch.arange(-last, last + 1)
    return centred + reach, centred % (padding * box), last + 1


def volume_grid(voxels: Float[Tensor, "z y x"], padding: int = 2) -> Complex[Tensor, "depth row column"]:
    """Padded transform of a map for `extract`, already divided by the gridding function."""
    box = voxels.shape[-1]
    size, reach = padding * box, _reach(box, padding)
    start = size // 2 - box // 2
    padded = torch.zeros(size, size, size)
    padded[start : start + box, start : start + box, start : start + box] = voxels / _gridding(box, padding)
    rows, wrapped, columns = _padded_rows(box, padding)
    grid = torch.zeros(2 * reach + 1, 2 * reach + 1, reach + 1, dtype=torch.complex64)
    grid[rows[:, None], rows[None, :], :columns] = to_fourier_3d(padded)[wrapped[:, None], wrapped[None, :], :columns]
    return grid


def volume_grids(
    maps: Float[Tensor, "volume z y x"], padding: int = 2
) -> Float[Tensor, "depth row column part volume"]:
    """`volume_grid` of several maps for `sample`: each cell has all their real parts, and then the imaginary ones."""
    reach = _reach(maps.shape[-1], padding)
    grids = torch.empty(2 * reach + 1, 2 * reach + 1, reach + 1, 2, len(maps))
    for volume, voxels in enumerate(maps):
        grids[..., volume] = torch.view_as_real(volume_grid(voxels, padding))
    return grids


def project_map(
    voxels: Float[Tensor, "z y x"], rotation: Float[Tensor, "image 3 3"], padding: int = 2
) -> Complex[Tensor, "image y half_x"]:
    """Centred projections of a map, |k| < box/2, before CTF and shift; trilinear in the padded transform."""
    views = extract(volume_grid(voxels, padding), rotation, voxels.shape[-1], padding)
    views[:, 0, 0] = voxels.sum()  # the origin is on the grid: nothing is damped there that had to be divided out
    return views


@lru_cache(maxsize=1)
def _radius(box: int, padding: int) -> Float[Tensor, "depth row column"]:
    """Cells from the origin."""
    reach = _reach(box, padding)
    axis = torch.arange(-reach, reach + 1).float()
    return (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis[reach:] ** 2).sqrt()


def _mean_at_radius(
    values: Float[Tensor, "depth row column"], radius: Float[Tensor, "depth row column"]
) -> Float[Tensor, "depth row column"]:
    """Each cell's value replaced by the mean over its shell of one cell's thickness."""
    shells = (radius + 0.5).long().flatten()
    total = torch.bincount(shells, weights=values.flatten())
    return (total / torch.bincount(shells).clamp(min=1)).float()[shells].view_as(values)


def with_mates(cells: Float[Tensor, "depth row column 3"]) -> Tensor:
    """Cells whose plane x = 0 has both of each Friedel pair."""
    cells = cells.clone()
    plane = cells[:, :, 0]
    cells[:, :, 0] = plane + plane.flip(0, 1) * torch.tensor([1.0, -1.0, 1.0])
    return cells


def shell_weights(sums: Sums, volume: int = 0) -> Float[Tensor, " ring"]:
    """Mean weight of a volume's cells in each shell: of rings of the box, as `divide` counts them."""
    shell = (_radius(sums.box, sums.padding) / sums.padding + 0.5).long().flatten()
    total = torch.bincount(shell, weights=with_mates(sums.cells[volume])[..., 2].flatten())
    return (total / torch.bincount(shell).clamp(min=1))[: sums.box // 2 + 1].float()


def divide(sums: Sums, volume: int = 0, snr: Float[Tensor, " ring"] | None = None) -> Float[Tensor, "z y x"]:
    """Map of one volume's sums.

    Args:
        sums: of `insert`.
        volume: which of them.
        snr: per ring, signal power over noise power in the mean over these slices: then Wiener's
            `N / (D + mean(D) / snr)` (Scheres 2012, eq. 4, with tau² from the FSC). Without it `N / max(D, floor)`,
            whose scale is not damped.
    """
    box, padding = sums.box, sums.padding
    cells, radius = with_mates(sums.cells[volume]), _radius(box, padding)
    weight = cells[..., 2]
    mean = _mean_at_radius(weight, radius)
    if snr is None:
        denominator = torch.maximum(weight, FLOOR * mean)
    else:
        rings = (radius / padding + 0.5).long().clamp(max=box // 2)
        denominator = weight + mean / snr.float().clamp(min=1e-6)[rings]
    seen = (denominator > 0) & (radius < padding * box / 2)
    numerator = torch.complex(cells[..., 0], cells[..., 1])
    grid = torch.where(seen, numerator / torch.where(seen, denominator, 1.0), 0)
    return in_sphere(_to_map(grid, box, padding) / _gridding(box, padding, sums.resampled))


def _to_map(grid: Complex[Tensor, "depth row column"], box: int, padding: int) -> Float[Tensor, "z y x"]:
    """Back from a grid to a map, before the gridding function is divided out."""
    size = padding * box
    rows, wrapped, columns = _padded_rows(box, padding)
    transform = torch.zeros(size, size, size // 2 + 1, dtype=torch.complex64)
    transform[wrapped[:, None], wrapped[None, :], :columns] = grid[rows[:, None], rows[None, :], :columns]
    padded = torch.fft.irfftn(transform, s=(size, size, size))
    near = (torch.arange(box) - box // 2) % size
    return padded[near][:, near][:, :, near]


def in_sphere(voxels: Float[Tensor, "z y x"], edge: float = 3.0) -> Float[Tensor, "z y x"]:
    """A map whose corners, which few images have seen, are their mean; with a soft edge, as RELION's."""
    axis = torch.arange(voxels.shape[-1]) - voxels.shape[-1] // 2
    radius = (axis[:, None, None].square() + axis[:, None].square() + axis.square()).sqrt()
    outside = 0.5 - 0.5 * torch.cos(math.pi * ((radius - voxels.shape[-1] / 2) / edge).clamp(0, 1))
    return torch.lerp(voxels, (voxels * outside).sum() / outside.sum(), outside)


def reconstruct(
    images: Float[Tensor, "image y x"], particles: Particles, pixel_size: float, padding: int = 2
) -> Float[Tensor, "z y x"]:
    """One map from images that fit in memory."""
    sums = empty_sums(1, images.shape[-1], padding)
    data, weights = weighted_slices(images, particles, pixel_size)
    pairs = torch.stack([torch.arange(len(images)), torch.zeros(len(images), dtype=torch.long)], dim=-1)
    insert(sums, data, weights, particles.rotation, pairs)
    return divide(sums)


def wiener_snr(fsc: Float[Tensor, " ring"]) -> Float[Tensor, " ring"]:
    """Signal-to-noise ratio per ring of the mean of two half-maps, 2 FSC / (1 - FSC) (Rosenthal & Henderson 2003).

    After the curve first falls below 1/7 it may only fall on: what rises there again is chance.
    """
    curve = fsc.clone().float()
    below = (curve[1:] < 1 / 7).nonzero().flatten()
    if len(below):
        start = int(below[0]) + 1
        curve[start:] = curve[start:].cummin(0).values
    curve = curve.clamp(1e-3, 0.9999)
    return 2 * curve / (1 - curve)
