"""What a rigid domain and what stands still look like, found from particles whose poses are known by their chances.

Where a map shows a domain smeared and there is no model of it, its poses tell its shape: what particles show of it,
each brought back to the domain's own frame by poses drawn from its posterior, adds up to the domain's density as whole
images do to a map; and what they show without the domain adds up to the rest. It is the step of expectation
maximisation for densities, to which the search for poses is the other one. (Multi-body refinement, Nakane et al., eLife
2018, does it with one best pose of each particle and from a map that shows the domain.)

Densities are Gaussians whose amplitudes are found by least squares, each ring with the mean weight of its cells. None
changes its sign: that also tells the mean, which images do not (ring 0 never counts).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex, Float, Int
from scipy.optimize import nnls
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.fit.asymmetric import joined
from gaussemble.fit.band import Band, Batch
from gaussemble.fit.distributed import combine
from gaussemble.fit.poses import BLOCK, Domain, Poses, own_blocks
from gaussemble.physics.backprojection import Sums, divide, empty_sums, half_disc, insert, project_map, shell_weights
from gaussemble.physics.beads import center_of_mass
from gaussemble.physics.projection import shift_phases
from gaussemble.physics.rings import ring_multiplicity, spread
from gaussemble.physics.rotations import random_rotations
from gaussemble.quantities import Mixture

DRAWS = 4  # poses of a particle; the rest of its posterior has its turn in other rounds
PADDING = 2  # cells per Fourier pixel
SLICES = 16  # of a density, from all directions, to which Gaussians are fitted
APART, MOST = 1 / 2, 3000  # of the resolution: the lattice of the domain's Gaussians; of so many, or it is wider
WIDE = 2 / 3  # of that: their widths
MASS = 0.99  # of a domain: the rest is noise round it
KNOWN = 1 / 4  # of the root mean square of amplitudes: how far the map's may be off, of what stands still
RIDGE = 1e-3  # of the mean square of a column
FAINTEST = 1e-3  # of the largest amplitude: fainter ones leave

Slices = tuple[Complex[Tensor, "image y half_x"], Float[Tensor, "image 3 3"]]


@dataclass(frozen=True)
class Drawn:
    """Some particles, and poses drawn from the posterior of each."""

    rows: Int[Tensor, " image"]  # of the band
    poses: Poses
    number: Int[Tensor, "image time"]  # of the pose; of this process's particles


def draw(
    rows: Int[Tensor, " image"],
    poses: Poses,
    chance: Iterable[Float[Tensor, "_ pose"]],
    generator: torch.Generator,
) -> Drawn:
    """Draw poses of some particles; `chance`: of the poses, for this process's blocks of them."""
    at = torch.rand(len(rows), DRAWS, generator=generator, dtype=torch.float64)  # the same in all processes
    number = torch.zeros(at.shape, dtype=torch.long)
    for own, each in zip(own_blocks(len(rows)), chance, strict=True):
        number[own] = torch.searchsorted(each.double().cumsum(1), at[own]).clamp(max=len(poses) - 1)
    return Drawn(rows, poses, number)


@torch.no_grad()
def body_again(domain: Domain, band: Band, drawn: Drawn, reach: float) -> Mixture:
    """The domain at rest, from the poses of particles: Gaussians on a lattice, at most `reach` Å from its centre.

    Raises:
        InputError: there is no density.
    """
    poses, center = drawn.poses, domain.beads.center

    def seen(batch: Batch, number: Int[Tensor, "image time"]) -> Iterator[Slices]:
        left = batch.image - batch.predict(domain.still)
        for one in number.unbind(1):
            place = (batch.rotation @ (center + poses.shift[one])[..., None])[:, :2, 0]
            yield left * shift_phases(place, batch.box, batch.pixel_size), batch.rotation @ poses.rotation[one]

    place, apart = lattice(reach, APART * band.resolution)
    width = torch.full((len(place),), WIDE * apart)
    unit = Mixture(place, torch.ones(len(place)), width)
    amplitude = amplitudes(backprojected(band, drawn, seen), unit, band.pixel_size)
    body = without_faint(Mixture(center + place, amplitude, width))
    if not len(body):
        raise InputError("option find_shape: the particles show no density of the domain; does its mask hold one?")
    return body


@torch.no_grad()
def still_again(domain: Domain, band: Band, drawn: Drawn, mapped: tuple[Mixture, Mixture]) -> Mixture:
    """What stands still, from what particles show beside the domain: Gaussians where the map has some.

    `mapped`: outside the domain's mask, which the map nearly has right, and inside, where nothing is expected of them
    and they may be as large as any. Of many, those far from the domain stay as they are.
    """
    beads, poses, places = domain.beads, drawn.poses, joined(*mapped)
    size, outside = places.amplitude.abs(), torch.arange(len(places)) < len(mapped[0])
    off = size.square().mean().sqrt() * torch.where(outside, KNOWN, 1.0)
    placed = beads.placed(poses.rotation, poses.shift)
    width = torch.full_like(beads.amplitude, beads.width)
    order = (places.center - beads.center).norm(dim=1).argsort()
    near_by = order[:MOST].sort().values
    near, far = places.select(near_by), places.select(order[MOST:].sort().values)
    known = ((size * outside)[near_by], off[near_by])

    def seen(batch: Batch, number: Int[Tensor, "image time"]) -> Iterator[Slices]:
        one = number[:, 0]
        body = Mixture(placed[one], beads.amplitude.expand(len(one), -1), width.expand(len(one), -1))
        left = batch.image - batch.predict(body)
        yield left - batch.predict(far) if len(far) else left, batch.rotation

    amplitude = amplitudes(backprojected(band, drawn, seen), near, band.pixel_size, known)
    return joined(without_faint(Mixture(near.center, amplitude, near.width)), far)


def backprojected(band: Band, drawn: Drawn, seen: Callable[[Batch, Tensor], Iterator[Slices]]) -> Sums:
    """Sums of slices of all processes' particles; `seen` has what they show of a density, and from where."""
    sums, multiplicity = empty_sums(1, band.box, PADDING), ring_multiplicity(band.box)
    for block in own_blocks(len(drawn.rows)):
        for part in block.split(BLOCK):
            batch = band.batch(drawn.rows[part])
            pairs = torch.stack([torch.arange(len(part)), torch.zeros(len(part), dtype=torch.long)], dim=1)
            weight = batch.transfer / multiplicity  # each pair of mates is inserted once
            for left, rotation in seen(batch, drawn.number[part]):
                insert(sums, weight * left, weight * batch.transfer, rotation, pairs)
    return replace(sums, cells=combine(sums.cells))


def reach_of(body: Mixture, apart: float) -> float:
    """Å from its centre of mass that hold nearly all of a domain, and `apart` beyond."""
    away, order = (body.center - center_of_mass(body)).norm(dim=1).sort()
    mass = body.amplitude.abs()[order].cumsum(0)
    return float(away[mass >= MASS * mass[-1]].min()) + apart


def lattice(reach: float, apart: float) -> tuple[Float[Tensor, "place 3"], float]:
    """Cubic, in a ball of radius `reach`, and how far apart its places are."""
    apart = max(apart, (4 / 3 * torch.pi * reach**3 / MOST) ** (1 / 3))
    axis = torch.arange(-int(reach / apart), int(reach / apart) + 1) * apart
    place = torch.cartesian_prod(axis, axis, axis)
    return place[place.norm(dim=1) <= reach], apart


def amplitudes(
    sums: Sums,
    places: Mixture,
    pixel_size: float,
    known: tuple[Float[Tensor, " gaussian"], Float[Tensor, " gaussian"]] | None = None,
) -> Float[Tensor, " gaussian"]:
    """Of Gaussians, each with the sign that it has in `places`, by least squares of slices of a density's sums.

    `known`: sizes that are expected, and how far these may be off (standard deviations, where 1/k of what images tell
    counts); zero, by next to nothing, where it is left out.
    """
    rotation = random_rotations(SLICES, torch.Generator().manual_seed(0)).float()
    index, frequency = half_disc(sums.box)
    wave = frequency / (sums.box * pixel_size)  # 1/Å
    # Not times k, as the likelihood would have it (a slice has k of a shell's k² cells): poses are least certain where
    # detail is finest, and held-out particles liked the shapes less (docs/science.md)
    weight = spread(shell_weights(sums), sums.box) * ring_multiplicity(sums.box)
    root = (weight / weight.max()).flatten()[index].sqrt()
    target = project_map(divide(sums), rotation).flatten(start_dim=1)[:, index] * root
    damped = torch.exp(-2 * (torch.pi * places.width) ** 2 * wave.square().sum(1, keepdim=True)) * root[:, None]
    signed = damped * places.amplitude.sign()
    square = torch.zeros(len(places), len(places), dtype=torch.float64)
    cross = torch.zeros(len(places), dtype=torch.float64)
    for view, own in zip(rotation, target, strict=True):
        phase = 2 * torch.pi * wave @ (view[:2] @ places.center.mT)
        real, imaginary = signed * phase.cos(), -signed * phase.sin()
        square += (real.mT @ real + imaginary.mT @ imaginary).double()
        cross += (real.mT @ own.real + imaginary.mT @ own.imag).double()
    ridge, expected = (RIDGE * square.diagonal().mean()).expand(len(places)), torch.zeros_like(cross)
    if known is not None:
        expected, deviation = (part.double() for part in known)
        # the variance of noise is one in the sums; slices have so many times a ring's cells, divided by k
        ridge = ridge + SLICES / (2 * PADDING**3) / (weight.max() * deviation.square())
    square += ridge.diag()
    cross += ridge * expected
    try:  # |L' a - inv(L) cross|² is the same problem, with as few rows as columns
        root_square = torch.linalg.cholesky(square)
        right = torch.linalg.solve_triangular(root_square, cross[:, None], upper=False)[:, 0]
        found, _ = nnls(root_square.mT.numpy(), right.numpy(), maxiter=20 * len(places))
    except (RuntimeError, ValueError) as error:  # of what is not finite, or of too many steps
        raise InputError(f"option find_shape: densities cannot be told from these particles ({error})") from error
    return (torch.from_numpy(found) * places.amplitude.sign()).float()


def without_faint(mixture: Mixture) -> Mixture:
    """The Gaussians that count."""
    size = mixture.amplitude.abs()
    return mixture.select(size > FAINTEST * size.amax()) if len(size) else mixture
