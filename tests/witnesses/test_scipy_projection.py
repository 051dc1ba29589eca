"""`project` against scipy: line integrals of the density by quadrature, and maps that scipy turned and summed.

A pixel of ours is a sample, at the pixel's centre, of the projected density without what lies beyond Nyquist. It is not
the integral over the pixel's area (differences of error functions), which is lower by sinc(kx p) sinc(ky p).
"""

import numpy as np
import pytest
import torch
from scipy import integrate, ndimage, signal, stats

from gaussemble.physics.fourier import to_fourier, to_real
from gaussemble.physics.projection import Engine, mixture_to_map, project
from gaussemble.physics.rotations import euler_to_matrix
from gaussemble.physics.spreading import choose_grid
from gaussemble.quantities import Mixture

PIXEL = 2.0
ANGLES = np.deg2rad([[50.0, 65, -130], [-20, 110, 75]])  # rot, tilt, psi


def random_mixture(count: int, narrowest: float, box: int) -> Mixture:
    """A bent slab off the centre, unlike its mirror image; widths from so many pixels to half a pixel more."""
    generator = torch.Generator().manual_seed(5)
    scale = box * PIXEL / 40
    center = scale * torch.tensor([4.0, 3, 2]) * torch.randn(count, 3, generator=generator) + scale
    center[:, 0] += center[:, 1] ** 2 / (8 * scale)
    amplitude = 0.5 + torch.rand(count, generator=generator)
    return Mixture(center, amplitude, PIXEL * (narrowest + 0.5 * torch.rand(count, generator=generator)))


def turn(angles: np.ndarray) -> np.ndarray:
    """RELION's matrix of (rot, tilt, psi), element by element: x_view = Rz(-psi) Ry(-tilt) Rz(-rot) x."""

    def about_z(angle: float) -> np.ndarray:
        cosine, sine = np.cos(angle), np.sin(angle)
        return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])

    rot, tilt, psi = -angles
    cosine, sine = np.cos(tilt), np.sin(tilt)
    about_y = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
    return about_z(psi) @ about_y @ about_z(rot)


def density(mixture: Mixture, points: np.ndarray) -> np.ndarray:
    """Sum of a p³ N(x; c, s² 1) at points (..., 3) of the molecule's frame."""
    parts = zip(mixture.center.numpy(), mixture.amplitude.numpy(), mixture.width.numpy(), strict=True)
    values = [a * PIXEL**3 * stats.multivariate_normal(c, s**2).pdf(points) for c, a, s in parts]
    return np.sum(values, axis=0)


def line_integrals(mixture: Mixture, rotation: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """The density integrated along z of the view through (x, y) of a grid, over p, as a map's sum along z would be."""
    x, y = np.meshgrid(axis, axis)  # (y, x)

    def layer(z: float) -> np.ndarray:
        return density(mixture, np.stack([x, y, np.full_like(x, z)], -1) @ rotation)  # x_volume = R' x_view

    reach = 3 * float(mixture.center.abs().max()) + 8 * float(mixture.width.max())
    return integrate.quad_vec(layer, -reach, reach, epsrel=1e-8)[0] / PIXEL


def pixel_axis(box: int) -> np.ndarray:
    return (np.arange(box) - box // 2) * PIXEL


def our_image(mixture: Mixture, angles: np.ndarray, box: int, engine: Engine = "separable") -> np.ndarray:
    rotation = euler_to_matrix(torch.from_numpy(angles)[None])
    return to_real(project(mixture, rotation.to(mixture.center), box, PIXEL, engine), box)[0].numpy()


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference over the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("angles", ANGLES)
@pytest.mark.parametrize("box", [32, 33])
def test_an_image_is_the_line_integral_of_the_density(box, angles):
    """Scale, orientation, hand and place of the exact form; 1.6 pixels of width leave 3e-6 beyond Nyquist."""
    mixture = random_mixture(6, 1.6, box).to(torch.float64)
    expected = line_integrals(mixture, turn(angles), pixel_axis(box))
    assert error(our_image(mixture, angles, box), expected) < 2e-6  # found: 4e-7
    # what the nearest mistakes would give
    assert error(our_image(mixture, -angles, box), expected) > 0.1
    assert error(our_image(mixture, angles, box).T, expected) > 0.1
    assert error(our_image(mixture, angles, box)[::-1], expected) > 0.1
    half_a_pixel = line_integrals(mixture, turn(angles), pixel_axis(box) + PIXEL / 2)
    assert error(half_a_pixel, expected) > 0.1


@pytest.mark.parametrize("box", [32, 33])
def test_so_is_one_by_spreading(box):
    mixture = random_mixture(40, 1.6, box)
    assert choose_grid(mixture.expand(1), box, PIXEL) is not None
    expected = line_integrals(mixture.to(torch.float64), turn(ANGLES[0]), pixel_axis(box))
    found = our_image(mixture, ANGLES[0], box, "auto")
    assert not np.array_equal(found, our_image(mixture, ANGLES[0], box))
    # each coefficient may be off by 4e-5 of their largest; in a pixel they add up, out of phase. Found: 1e-5
    assert error(found, expected) < 1e-4


def test_narrow_gaussians_lose_what_is_beyond_nyquist():
    """Integrals four times as fine, brought to our pixels by scipy's Fourier resampling; an odd box has no Nyquist."""
    box, fine = 25, 4
    mixture = random_mixture(6, 0.5, box).to(torch.float64)
    axis = (np.arange(fine * box) - fine * (box // 2)) * PIXEL / fine
    expected = line_integrals(mixture, turn(ANGLES[0]), axis)
    for along in (0, 1):
        expected = np.asarray(signal.resample(expected, box, axis=along))
    found = our_image(mixture, ANGLES[0], box)
    assert error(found, expected) < 1e-10
    assert error(line_integrals(mixture, turn(ANGLES[0]), pixel_axis(box)), expected) > 0.02  # plain samples are not it


@pytest.mark.parametrize("angles", ANGLES)
def test_an_image_is_the_sum_of_the_turned_map(angles):
    """scipy.ndimage turns the map about voxel D//2 by splines; output voxel o comes from input M (o - c) + c."""
    box = 36
    mixture = random_mixture(40, 1.8, box)
    voxels = mixture_to_map(mixture.to(torch.float64), box, PIXEL).numpy()
    inverse = turn(angles).T[::-1, ::-1]  # of (z, y, x)
    middle = np.full(3, box // 2)
    turned = ndimage.affine_transform(voxels, inverse, middle - inverse @ middle, order=5)  # type: ignore[arg-type]
    engines: tuple[Engine, ...] = ("auto", "separable")
    for engine in engines:
        # the splines' own error, hence with both engines; found: 1e-4 and 4e-5
        assert error(our_image(mixture, angles, box, engine), turned.sum(0)) < 3e-4
        assert error(our_image(mixture, -angles, box, engine), turned.sum(0)) > 0.1


def test_psi_turns_the_image_counter_clockwise_on_a_screen():
    """scipy.ndimage.rotate turns anticlockwise where y points down, as psi does; about the middle of an odd box."""
    box = 37
    mixture = random_mixture(40, 1.8, box).to(torch.float64)
    unturned, turned = (our_image(mixture, np.deg2rad([20.0, 70, psi]), box) for psi in (0.0, 35.0))
    assert error(ndimage.rotate(unturned, 35, reshape=False, order=5), turned) < 1e-4
    assert error(ndimage.rotate(unturned, -35, reshape=False, order=5), turned) > 0.1


def test_pixels_are_samples_and_not_integrals():
    """Integrals over the pixels are our images times sinc sinc, and not our images."""
    box = 32
    mixture, angles = random_mixture(6, 1.6, box).to(torch.float64), ANGLES[0]
    edges = np.append(pixel_axis(box), pixel_axis(box)[-1] + PIXEL) - PIXEL / 2
    integrals = np.zeros((box, box))
    place = mixture.center.numpy() @ turn(angles).T
    for (x, y, _), amplitude, width in zip(place, mixture.amplitude.numpy(), mixture.width.numpy(), strict=True):
        along_x, along_y = (np.diff(stats.norm(middle, width).cdf(edges)) for middle in (x, y))
        integrals += amplitude * np.outer(along_y, along_x)
    ours = our_image(mixture, angles, box)
    damping = np.outer(np.sinc(np.fft.fftfreq(box)), np.sinc(np.fft.rfftfreq(box)))
    damped = to_real(to_fourier(torch.from_numpy(ours)) * torch.from_numpy(damping), box).numpy()
    assert error(damped, integrals) < 2e-6
    assert error(ours, integrals) > 0.015  # p² / 12 s² at the middle of a Gaussian, 0.019 to 0.033 of these
