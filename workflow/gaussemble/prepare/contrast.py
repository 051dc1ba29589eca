"""Is the molecule bright in the images, as the model has it, or dark? Judged against the user's map, or by skewness.

A reconstruction of particles whose contrast is reversed is the negative of the molecule. With a map of the user's,
whose molecule is positive, the images are correlated with its projections. Without one, a coarse reconstruction of
some particles is looked at: a molecule fills a small part of its box, so its density has a long tail on its own side.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from scipy.stats import skew, ttest_1samp
from torch import Tensor

from gaussemble.io.mrc import read_map
from gaussemble.physics.backprojection import divide, empty_sums, insert, project_map, weighted_slices, wiener_snr
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import resample_3d, to_fourier, to_real
from gaussemble.physics.masks import low_pass, within_sphere
from gaussemble.physics.projection import shift_phases
from gaussemble.physics.rings import shell_correlation
from gaussemble.quantities import Map, Particles

SAMPLE = 2000  # particles at most
COMPARED = 500  # of them with projections of a map
COARSE_BOX = 48  # pixels to which they are cropped
COARSE = 20.0  # Å, where contrast is judged
CHANCE = 6e-7  # of a mean correlation with a map's projections: 5 standard errors, of few particles more
TAIL = 1.0  # skewness of a molecule's density; of noise one in 500 has it
SLIGHT_TAIL = 0.5  # the same where half-maps agree
LITTLE_AGREEMENT, AGREEMENT = 0.2, 0.5  # correlation of half-maps that is more than chance; of those that agree


@dataclass(frozen=True)
class Contrast:
    """What the images say."""

    sign: int  # 1: molecules are bright; -1: dark; 0: undecided
    evidence: str


def coarse(density: Map) -> Float[Tensor, "z y x"]:
    """The map low-passed for judging, in float64."""
    return low_pass(density.voxels, density.pixel_size, max(COARSE, 3 * density.pixel_size)).double()


def asymmetry(density: Map) -> float:
    """Skewness of the low-passed density in the sphere that projections have seen: of bright molecules positive."""
    return float(skew(coarse(density).numpy()[within_sphere(density.box)]))


def sign_of(skewness: float, agreement: float) -> int:
    """1 for bright molecules, -1 for dark ones, 0 where a reconstruction does not tell.

    Args:
        skewness: of the low-passed density (`asymmetry`).
        agreement: correlation of its half-maps.
    """
    needed = SLIGHT_TAIL if agreement > AGREEMENT else TAIL
    if abs(skewness) < needed or agreement < LITTLE_AGREEMENT:
        return 0
    return 1 if skewness > 0 else -1


def contrast_sign(
    images: Float[Tensor, "image y x"],
    particles: Particles,
    pixel_size: float,
    half: Int[Tensor, " image"],
    given: Path | None = None,
) -> Contrast:
    """The sign of the molecule in some images.

    Args:
        images: whose background is at 0, coarsely sampled.
        particles: of the images.
        pixel_size: Å, of the images.
        half: 0 or 1: two reconstructions are made, which must agree where the tail is slight.
        given: the user's map, with positive molecule.
    """
    if given is not None:
        some = torch.linspace(0, len(images) - 1, min(COMPARED, len(images))).long()
        return _by_map(images[some], particles[some], pixel_size, given)
    return _by_skewness(images, particles, pixel_size, half)


def _by_skewness(images: Tensor, particles: Particles, pixel_size: float, half: Tensor) -> Contrast:
    """From two coarse reconstructions."""
    sums = empty_sums(2, images.shape[-1], 2)
    for rows in torch.arange(len(images)).split(COMPARED):
        data, weights = weighted_slices(images[rows], particles[rows], pixel_size)
        insert(sums, data, weights, particles.rotation[rows], torch.stack([torch.arange(len(rows)), half[rows]], dim=1))
    sphere = torch.from_numpy(within_sphere(images.shape[-1]))
    halves = [divide(sums, volume) for volume in (0, 1)]
    pair = torch.stack([coarse(Map(voxels, pixel_size))[sphere] for voxels in halves])
    agreement = float(torch.corrcoef(pair)[0, 1].nan_to_num())
    filtered = divide(sums.merged([0, 1]), snr=wiener_snr(shell_correlation(*halves)))
    skewness = asymmetry(Map(filtered, pixel_size))
    evidence = (
        f"skewness of a coarse reconstruction of {len(images)} particles is {skewness:.2f}, half-maps correlate by "
        f"{agreement:.2f} (bright molecules: above {TAIL:g} and {LITTLE_AGREEMENT:g}, or {SLIGHT_TAIL:g} and "
        f"{AGREEMENT:g})"
    )
    return Contrast(sign_of(skewness, agreement), evidence)


def _by_map(images: Tensor, particles: Particles, pixel_size: float, path: Path) -> Contrast:
    """Whether the mean correlation with the projections of a map can be chance (Student's t)."""
    given, box = read_map(path), images.shape[-1]
    voxels = resample_3d(given.voxels, given.pixel_size, box, pixel_size)
    smooth = coarse(Map(voxels, pixel_size)).float()
    expected = project_map(smooth, particles.rotation) * evaluate(particles.ctf, box, pixel_size)
    expected[:, 0, 0] = 0
    centred = to_fourier(images) * shift_phases(particles.shift, box, pixel_size).conj()
    pair = torch.stack([to_real(part, box).flatten(1) for part in (centred, expected)])
    pair = pair - pair.mean(dim=2, keepdim=True)
    each = (pair[0] * pair[1]).sum(1) / pair.square().sum(2).prod(0).sqrt().clamp(min=1e-30)
    test: Any = ttest_1samp(each.double().numpy(), 0) if len(each) > 1 else None
    chance = 1.0 if test is None else float(test.pvalue)
    mean = float(each.mean())
    evidence = (
        f"mean correlation of {len(images)} images with projections of {path} is {mean:.3g}, by chance with "
        f"probability {chance:.1g} ({CHANCE:g} decides)"
    )
    return Contrast(0 if not chance < CHANCE else 1 if mean > 0 else -1, evidence)
