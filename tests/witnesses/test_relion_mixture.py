"""`project` against relion_project on the map of a random mixture: both engines, scale, orientation, hand and place.

The maps that RELION reads are made in other ways than projections are: wide Gaussians from their formula in real space,
narrow ones from their three-dimensional transform. RELION interpolates linearly in a padded transform, and that is all
of the difference: it falls to a quarter where the padding is doubled. RELION is Debian's package `relion` (3.1);
without it these tests are skipped.
"""

import math
import shutil
import subprocess
from dataclasses import replace

import mrcfile
import numpy as np
import pytest
import torch

from gaussemble.physics.band_limited import band_limited_map
from gaussemble.physics.fourier import to_fourier
from gaussemble.physics.projection import Engine, mixture_to_map, project, shift_phases
from gaussemble.physics.rings import ring_index
from gaussemble.physics.rotations import euler_to_matrix
from gaussemble.physics.spreading import choose_grid
from gaussemble.quantities import Mixture
from made_particles import OPTICS, rows, write_star_text

pytestmark = pytest.mark.skipif(shutil.which("relion_project") is None, reason="relion_project is not installed")

BOX, PIXEL, COUNT, VIEWS = 64, 3.0, 300, 12
# Of the norm of an image. Found: at most 0.0007 (0.011 without padding, 0.0025 with RELION's usual one). A hundredth of
# a pixel, a quarter of a degree, half a per cent of scale or one of width exceed it.
CLOSE = 0.0015


def random_mixture(kind: str) -> Mixture:
    """A bent slab of unlike Gaussians off the centre, within 35 Å of it: unlike its mirror image."""
    generator = torch.Generator().manual_seed(7)
    spread, middle = torch.tensor([10.0, 7.0, 5.0]), torch.tensor([5.0, -3.0, 4.0])
    center = spread * torch.randn(COUNT, 3, generator=generator) + middle
    center[:, 0] += 0.03 * center[:, 1] ** 2
    center = center * (35 / center.norm(dim=-1, keepdim=True)).clamp(max=1)
    low = {"wide": 1.4, "narrow": 0.7}[kind]  # voxels: of 1.4, sampling folds 6e-5 back into the band
    width = PIXEL * (low + 0.6 * torch.rand(COUNT, generator=generator))
    return Mixture(center, 0.2 + torch.rand(COUNT, generator=generator), width)


def random_poses() -> tuple[torch.Tensor, torch.Tensor]:
    """Angles (rot, tilt, psi) in degrees, uniform over orientations, and shifts of up to 5 Å."""
    generator = torch.Generator().manual_seed(8)
    rot, cosine, psi = torch.rand(3, VIEWS, generator=generator)
    tilt = torch.rad2deg(torch.acos(2 * cosine - 1))
    return torch.stack([360 * rot - 180, tilt, 360 * psi - 180], -1), 10 * torch.rand(VIEWS, 2, generator=generator) - 5


def relion_transforms(folder, mixture: Mixture, kind: str, padding: int) -> torch.Tensor:
    """Transforms of what relion_project makes of the mixture's map, without a CTF."""
    draw = {"wide": mixture_to_map, "narrow": band_limited_map}[kind]
    with mrcfile.new(folder / "map.mrc", overwrite=True) as file:
        file.set_data(draw(mixture.to(torch.float64), BOX, PIXEL).numpy().astype(np.float32))
        file.voxel_size = PIXEL
    angles, shifts = random_poses()
    names = ("AngleRot", "AngleTilt", "AnglePsi", "OriginXAngst", "OriginYAngst")
    columns = {f"rln{name}": values.tolist() for name, values in zip(names, (*angles.T, *shifts.T), strict=True)}
    optics = OPTICS | {"rlnImagePixelSize": [PIXEL], "rlnImageSize": [BOX], "rlnImageDimensionality": [2]}
    write_star_text(folder / "in.star", rows(VIEWS, "x.mrcs", **columns), optics)
    command = ["relion_project", "--i", "map.mrc", "--o", "out", "--ang", "in.star", "--angpix", str(PIXEL)]
    subprocess.run([*command, "--pad", str(padding)], cwd=folder, check=True, capture_output=True)
    return to_fourier(torch.from_numpy(mrcfile.read(folder / "out.mrcs").copy()))


@pytest.fixture(scope="module", params=["wide", "narrow"])
def study(request, tmp_path_factory) -> tuple[Mixture, str, torch.Tensor]:
    """A mixture, its kind, and RELION's transforms at four times the box."""
    mixture, folder = random_mixture(request.param), tmp_path_factory.mktemp(request.param)
    return mixture, request.param, relion_transforms(folder, mixture, request.param, 4)


def errors(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Norm of each image's difference over that of RELION's, inside Nyquist's circle, beyond which RELION has 0."""
    inside = ring_index(BOX) < BOX // 2
    return (ours - theirs)[:, inside].norm(dim=1) / theirs[:, inside].norm(dim=1)


def our_transforms(mixture: Mixture, engine: Engine = "separable", angles=None, shifts=None) -> torch.Tensor:
    poses = random_poses()
    angles, shifts = poses[0] if angles is None else angles, poses[1] if shifts is None else shifts
    rotation = euler_to_matrix(torch.deg2rad(angles))
    return project(mixture, rotation, BOX, PIXEL, engine) * shift_phases(shifts, BOX, PIXEL)


@pytest.mark.parametrize("engine", ["auto", "separable"])
def test_relion_makes_the_same_images(study, engine):
    mixture, _, theirs = study
    assert choose_grid(mixture.expand(VIEWS), BOX, PIXEL) is not None  # so that auto spreads
    found = errors(our_transforms(mixture, engine), theirs)
    print(f"{engine}: {float(found.mean()):.5f} on average, {float(found.max()):.5f} at most")
    assert float(found.max()) < CLOSE


@pytest.mark.parametrize("engine", ["auto", "separable"])
def test_the_scale_is_the_same(study, engine):
    """The factor by which our images are RELION's, by least squares: the amplitudes' unit."""
    mixture, _, theirs = study
    ours = our_transforms(mixture, engine)
    inside = ring_index(BOX) < BOX // 2
    factor = (ours * theirs.conj()).real[:, inside].sum(1) / theirs.abs().square()[:, inside].sum(1)
    assert float((factor - 1).abs().max()) < 5e-4  # found: 2e-4


def test_what_differs_is_relions_interpolation(study, tmp_path):
    """Linear interpolation's error goes with the square of the step; a part that were ours would stay.

    Found: 0.247, and 0.282 for narrow Gaussians, whose last rings RELION interpolates with zeros beyond Nyquist.
    """
    mixture, kind, theirs = study
    ours = our_transforms(mixture)
    coarse, fine = errors(ours, relion_transforms(tmp_path, mixture, kind, 2)).mean(), errors(ours, theirs).mean()
    assert 0.2 < float(fine / coarse) < 0.3


def mistakes(mixture: Mixture) -> dict[str, torch.Tensor]:
    """Our transforms with a convention broken, each in one place."""
    angles, shifts = random_poses()
    rot, tilt, psi = angles.T
    rotation, phases = euler_to_matrix(torch.deg2rad(angles)), shift_phases(shifts, BOX, PIXEL)
    half = torch.eye(3) * PIXEL / 2
    swapped, mirrored = mixture.center[:, [1, 0, 2]], mixture.center * torch.tensor([1.0, 1.0, -1.0])
    return {
        "rotation transposed": project(mixture, rotation.mT, BOX, PIXEL) * phases,
        "rot and psi swapped": our_transforms(mixture, angles=torch.stack([psi, tilt, rot], -1)),
        "sign of tilt": our_transforms(mixture, angles=torch.stack([rot, -tilt, psi], -1)),
        "sign of psi": our_transforms(mixture, angles=torch.stack([rot, tilt, -psi], -1)),
        "hand": our_transforms(replace(mixture, center=mirrored)),
        "x and y of the molecule": our_transforms(replace(mixture, center=swapped)),
        "x and y of the image": project(mixture, rotation[:, [1, 0, 2]], BOX, PIXEL) * phases,
        "sign of the shift": our_transforms(mixture, shifts=-shifts),
        "half a pixel along x": our_transforms(mixture, shifts=shifts + half[0, :2]),
        "half a pixel along y": our_transforms(mixture, shifts=shifts + half[1, :2]),
        "half a voxel along z": our_transforms(replace(mixture, center=mixture.center + half[2])),
        "sign of the contrast": -our_transforms(mixture),
        "exp(-x²/s²)": our_transforms(replace(mixture, width=mixture.width / math.sqrt(2))),
    }  # fmt: skip


def test_every_mistake_is_told_by_far(study):
    mixture, _, theirs = study
    for name, wrong in mistakes(mixture).items():
        assert float(errors(wrong, theirs).max()) > 50 * CLOSE, name


def test_small_ones_are_told_too(study):
    """What the threshold resolves."""
    mixture, _, theirs = study
    angles, shifts = random_poses()
    small = {
        "0.01 pixel": our_transforms(mixture, shifts=shifts + 0.01 * PIXEL),
        "a quarter of a degree": our_transforms(mixture, angles=angles + torch.tensor([0, 0.25, 0])),
        "half a per cent": 1.005 * our_transforms(mixture),
        "widths by one per cent": our_transforms(replace(mixture, width=1.01 * mixture.width)),
    }
    for name, wrong in small.items():
        assert float(errors(wrong, theirs).max()) > CLOSE, name
