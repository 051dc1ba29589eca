"""The sign of molecules in images: found where there are some, never made up."""

from dataclasses import replace

import pytest
import torch

from gaussemble.io.mrc import write_map
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import to_real
from gaussemble.physics.projection import mixture_to_map, project, shift_phases
from gaussemble.prepare.contrast import asymmetry, contrast_sign, sign_of
from gaussemble.quantities import Map
from made_store import BOX, PIXEL, lopsided, make_particles


def _images(generator, count: int, sign: int, snr: float, ctf: bool = True):
    """Images of a known mixture, and their particles; background at 0."""
    particles = make_particles(count, generator)
    transfer = evaluate(particles.ctf, BOX, PIXEL) if ctf else 1.0
    signal = to_real(
        project(lopsided(), particles.rotation, BOX, PIXEL) * transfer * shift_phases(particles.shift, BOX, PIXEL),
        BOX,
    )
    noise = float(signal.std()) / snr**0.5 * torch.randn(signal.shape, generator=generator)
    return sign * signal + noise, particles


@pytest.fixture
def density() -> Map:
    return Map(mixture_to_map(lopsided(), BOX, PIXEL), PIXEL)


@pytest.mark.parametrize("sign", [1, -1])
def test_skewness_has_the_sign_of_the_molecule(density, sign):
    skewness = asymmetry(density.with_voxels(sign * density.voxels))
    assert sign * skewness > 1
    assert sign_of(skewness, 0.3) == sign


def test_slight_tails_count_only_where_half_maps_agree_and_none_where_they_do_not():
    assert [sign_of(skewness, 0.9) for skewness in (-0.7, -0.4, 0.4, 0.7)] == [-1, 0, 0, 1]
    assert [sign_of(skewness, 0.3) for skewness in (-2.0, -0.7, 0.7, 2.0)] == [-1, 0, 0, 1]
    assert [sign_of(skewness, 0.1) for skewness in (-2.0, 2.0)] == [0, 0]


@pytest.mark.parametrize("with_map", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_sign_is_found(tmp_path, generator, density, sign, with_map):
    """200 particles at a tenth of the noise's power."""
    images, particles = _images(generator, 200, sign, 0.1)
    write_map(tmp_path / "map.mrc", density)
    given = tmp_path / "map.mrc" if with_map else None
    found = contrast_sign(images, particles, PIXEL, torch.arange(200) % 2, given)
    assert found.sign == sign, found.evidence


@pytest.mark.parametrize("sign", [1, -1])
def test_a_map_finds_the_sign_where_a_reconstruction_cannot(tmp_path, generator, density, sign):
    """It may have another grid and field of view; sixty particles, a hundredth of the noise's power."""
    images, particles = _images(generator, 60, sign, 0.01)
    assert contrast_sign(images, particles, PIXEL, torch.arange(60) % 2).sign == 0
    write_map(tmp_path / "map.mrc", Map(mixture_to_map(lopsided(), 60, 3.1), 3.1))
    assert contrast_sign(images, particles, PIXEL, torch.arange(60) % 2, tmp_path / "map.mrc").sign == sign


@pytest.mark.parametrize("with_map", [False, True])
def test_noise_decides_nothing(tmp_path, generator, density, with_map):
    """As little as two particles; 40 trials would show a rule that is wrong once in 20 with 87 %."""
    write_map(tmp_path / "map.mrc", density)
    given = tmp_path / "map.mrc" if with_map else None
    for trial in range(40):
        count = (2, 5, 20, 60)[trial % 4]
        particles = make_particles(count, generator)
        noise = torch.randn(count, BOX, BOX, generator=generator)
        found = contrast_sign(noise, particles, PIXEL, torch.arange(count) % 2, given)
        assert found.sign == 0, found.evidence


def test_a_map_of_something_else_decides_nothing(tmp_path, generator):
    """Its density is random: by chance the mean correlation is far within five standard errors."""
    images, particles = _images(generator, 200, 1, 0.1)
    write_map(tmp_path / "map.mrc", Map(torch.randn(BOX, BOX, BOX, generator=generator), PIXEL))
    found = contrast_sign(images, particles, PIXEL, torch.arange(200) % 2, tmp_path / "map.mrc")
    assert found.sign == 0, found.evidence


def test_the_ctf_is_reckoned_with(generator):
    """With a CTF of the other sign the same images show dark molecules."""
    images, particles = _images(generator, 300, 1, 0.3)
    assert contrast_sign(images, particles, PIXEL, torch.arange(300) % 2).sign == 1
    other = replace(particles, ctf=replace(particles.ctf, scale=-particles.ctf.scale))
    assert contrast_sign(images, other, PIXEL, torch.arange(300) % 2).sign == -1
