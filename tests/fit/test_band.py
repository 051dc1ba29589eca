"""Whitened, centred, band-limited particles: scale, phase and noise as the likelihood needs them."""

import pytest
import torch

from gaussemble.fit.band import half_sums, open_band, particle_scales, ring_gain
from gaussemble.fit.losses import frc, likelihood
from gaussemble.io.store import open_store, write_store
from gaussemble.physics.rings import ring_multiplicity
from gaussemble.quantities import Mixture
from tiny import BOX, PIXEL, bent, images, make_store, molecule, particles, white_noise_power


@pytest.fixture
def clean(tmp_path, generator):
    """Noiseless particles of the unbent molecule."""
    known = particles(20, generator)
    write_store(tmp_path, known, images(known, bent(molecule(), torch.zeros(20)), 0.0, generator), PIXEL)
    return open_band(open_store(tmp_path), white_noise_power(0.1), 16.0)


def test_the_true_mixture_predicts_the_images(clean):
    batch = clean.batch(torch.arange(20))
    predicted = batch.predict(molecule())
    assert (batch.image - predicted).norm() / predicted.norm() < 1e-4


def test_a_moved_mixture_does_not(clean):
    batch = clean.batch(torch.arange(20))
    moved = molecule()
    moved = Mixture(moved.center + torch.tensor([PIXEL / 2, 0, 0]), moved.amplitude, moved.width)
    assert (batch.image - batch.predict(moved)).norm() / batch.image.norm() > 0.2


def test_likelihood_of_the_truth_is_half_the_number_of_coefficients(tmp_path, generator):
    """Each coefficient of the full transform has a whitened noise power of 1."""
    known = particles(400, generator)
    write_store(tmp_path, known, images(known, bent(molecule(), torch.zeros(400)), 0.7, generator), PIXEL)
    band = open_band(open_store(tmp_path), white_noise_power(0.7), 16.0)
    batch = band.batch(torch.arange(400))
    axis = torch.fft.fftfreq(BOX, PIXEL)
    radius = (torch.hypot(axis[:, None], axis[None, :]) * BOX * PIXEL + 0.5).floor()
    coefficients = int(((radius >= 1) & (radius / (BOX * PIXEL) <= 1 / 16.0)).sum())
    expected = coefficients / 2
    # a chi-squared mean over 400 particles: standard error expected * sqrt(2 / coefficients / 400) * sqrt(2)
    assert float(likelihood(batch, batch.predict(molecule())).mean()) == pytest.approx(expected, rel=0.01)


def test_frc_of_the_truth_is_one_whatever_the_scale(clean):
    batch = clean.batch(torch.arange(20))
    truth = molecule()
    for factor in (0.1, 1.0, 10.0):
        scaled = Mixture(truth.center, truth.amplitude * factor, truth.width)
        assert torch.allclose(frc(batch, batch.predict(scaled)), torch.full((20,), -1000.0), rtol=1e-3)
    assert torch.allclose(frc(batch, -batch.predict(truth)), torch.full((20,), 1000.0), rtol=1e-3)


def test_rings_outside_the_band_do_not_count(tmp_path, generator):
    store, _ = make_store(tmp_path, 8, 1.0, generator)
    band = open_band(store, white_noise_power(1.0), 20.0, lowest_resolution=60.0)
    power = band.weight[0].square()
    frequency = torch.hypot(*torch.meshgrid(torch.fft.fftfreq(band.box), torch.fft.rfftfreq(band.box), indexing="ij"))
    ring = (frequency * band.box + 0.5).floor() / (BOX * PIXEL)
    assert (power[ring > 1 / 20.0] == 0).all()
    assert (power[ring < 1 / 60.0 - 1e-6] == 0).all()
    assert (power[(ring <= 1 / 20.0) & (ring >= 1 / 60.0)] > 0).all()


def test_gain_finds_a_radial_filter(tmp_path, generator):
    known = particles(200, generator)
    truth = molecule()
    twice = Mixture(truth.center, 2 * truth.amplitude, truth.width)
    write_store(tmp_path, known, images(known, bent(twice, torch.zeros(200)), 0.05, generator), PIXEL)
    band = open_band(open_store(tmp_path), white_noise_power(0.05), 20.0)
    gain = ring_gain(band, truth)
    batch = band.batch(torch.arange(200))
    information = half_sums(batch.predict(truth).abs().square(), band.box).sum(0)
    inside = information > 0
    # least squares in units of the noise: standard error 1 / sqrt(information), at most 3 % here
    assert ((gain - 2.0)[inside].abs() < 4 * information[inside].rsqrt()).all()
    assert float(information[inside].rsqrt().max()) < 0.03
    batch = band.with_gain(gain).batch(torch.arange(10))
    assert (batch.image - batch.predict(truth)).norm() < (
        batch.image - band.batch(torch.arange(10)).predict(truth)
    ).norm()


def test_what_is_elsewhere_does_not_make_what_stands_still_faint(tmp_path, generator):
    """An arm of a third of the molecule anywhere through 120 degrees, a filter of 2: seen as 2 by the rest alone."""
    known, truth = particles(300, generator), molecule()
    moving = torch.arange(24) >= 16
    angle = torch.linspace(-1.05, 1.05, 300)[torch.randperm(300, generator=generator)]
    states = bent(truth, angle)
    twice = Mixture(states.center, 2 * states.amplitude, states.width)
    write_store(tmp_path, known, images(known, twice, 0.05, generator), PIXEL)
    band = open_band(open_store(tmp_path), white_noise_power(0.05), 20.0)
    information = half_sums(band.batch(torch.arange(300)).predict(truth).abs().square(), band.box).sum(0)
    fine = (information > 0) & (torch.arange(len(information)) >= 3)  # coarser, the smear is like the arm at rest
    alone, together = ring_gain(band, truth, moving)[fine], ring_gain(band, truth)[fine]
    assert float((alone - 2).abs().max()) < 0.2
    assert float((together - 2).mean()) < -0.3
    assert torch.equal(ring_gain(band, truth, ~moving & moving)[fine], together)  # nothing moves
    blurred = Mixture(truth.center, truth.amplitude, torch.where(moving, 40.0, truth.width))
    told = ring_gain(band, blurred, moving)[fine]  # where the moving part draws nothing, the others' factor alone
    assert float((told - 2).abs().max()) < 0.3


def test_a_batch_is_the_same_whoever_has_read_its_images(tmp_path, generator):
    store, _ = make_store(tmp_path, 8, 1.0, generator)
    band = open_band(store, white_noise_power(1.0), 20.0)
    rows = torch.tensor([5, 1, 2])
    one = band.batch(rows)
    assert torch.equal(one.image, band.batch(rows, image=band.transforms.read(rows)).image)
    for place, row in enumerate(rows.tolist()):
        assert torch.equal(one.image[place], band.batch(torch.tensor([row])).image[0])


def test_a_checksum_tells_other_images(tmp_path, generator):
    store, _ = make_store(tmp_path / "one", 130, 1.0, generator)
    images = store.read(slice(0, 130)).clone()
    write_store(tmp_path / "same", store.particles, images, PIXEL)
    images[70, 3, 4] += 1e-3
    write_store(tmp_path / "other", store.particles, images, PIXEL)
    folders = [tmp_path / name for name in ("one", "same", "other")]
    first, again, other = (open_band(open_store(each), white_noise_power(1.0), 20.0).checksum for each in folders)
    assert first == again != other


def test_each_optics_group_is_whitened_by_its_own_noise(tmp_path, generator):
    """Noise three times as strong in the second group (odd rows): whitened, both have a power of 1."""
    known = particles(200, generator)
    noise = torch.randn(200, BOX, BOX, generator=generator)
    noise[1::2] *= 3
    write_store(tmp_path, known, noise, PIXEL)
    power = white_noise_power(1.0) * torch.tensor([[1.0], [9.0]])
    band = open_band(open_store(tmp_path), power, 16.0)
    batch = band.batch(torch.arange(200))
    squared = half_sums(batch.image.abs().square(), band.box).sum(-1)
    counted = ((band.weight[0] > 0) * ring_multiplicity(band.box)).sum()
    for group in range(2):
        # 100 images of some 450 coefficients: 2 % is four standard errors
        assert float(squared[group::2].mean() / counted) == pytest.approx(1.0, rel=0.02)
    # and the transfer follows: the second group's is a third of what the first's would be
    assert torch.allclose(band.weight[1] * 3, band.weight[0])


def with_contrast(tmp_path, generator, contrast: torch.Tensor, noise: float):
    """The band of particles whose signal, not their noise, is multiplied by their contrast."""
    known = particles(len(contrast), generator)
    clean = images(known, bent(molecule(), torch.zeros(len(contrast))), 0.0, generator)
    noisy = contrast[:, None, None] * clean + noise * torch.randn(clean.shape, generator=generator)
    write_store(tmp_path, known, noisy, PIXEL)
    return open_band(open_store(tmp_path), white_noise_power(noise), 16.0)


def test_each_particles_contrast_is_found(tmp_path, generator):
    truth = 0.6 + 0.8 * torch.rand(300, generator=generator)
    band = with_contrast(tmp_path, generator, truth, 0.5)
    found, deviation = particle_scales(band, molecule())
    batch = band.batch(torch.arange(300))
    information = batch.predict(molecule()).abs().square().sum((-2, -1))
    assert deviation == pytest.approx(0.8 / 12**0.5, rel=0.15)  # 300 particles: 4 % standard error, noise besides
    errors = (found - truth) * information.sqrt()
    assert float(errors.std()) < 1.1  # in units of each particle's own noise; drawn to the mean it is a little less
    scaled = band.with_scale(found).batch(torch.arange(300))
    gain = likelihood(batch, batch.predict(molecule())) - likelihood(scaled, scaled.predict(molecule()))
    assert float(gain.mean()) > 0


def test_contrast_that_does_not_vary_is_left_alone(tmp_path, generator):
    """Noise alone must not give particles a contrast of their own."""
    band = with_contrast(tmp_path, generator, torch.ones(300), 2.0)
    found, deviation = particle_scales(band, molecule())
    information = band.batch(torch.arange(300)).predict(molecule()).abs().square().sum((-2, -1))
    noise = float(information.mean().rsqrt())  # what each particle's own factor would vary by
    assert deviation < 0.5 * noise
    assert float(found.std()) < 0.25 * noise
    assert float(found.mean()) == pytest.approx(1.0, abs=4 * noise / 300**0.5)
