"""The encoder's inputs: exact gradients, pooled exactly, pointing to where the molecule went."""

from dataclasses import replace

import torch

from gaussemble.fit.band import open_band
from gaussemble.fit.gradients import encoder_inputs, gradient_inputs, make_pooling, particle_gradients
from gaussemble.fit.losses import likelihood
from gaussemble.io.store import open_store, write_store
from gaussemble.physics.rotations import random_rotations
from gaussemble.quantities import Mixture
from tiny import PIXEL, bent, images, make_store, molecule, particles, white_noise_power


def test_pooled_gradient_is_that_of_moving_the_group(tmp_path, generator):
    store, _ = make_store(tmp_path, 4, 0.5, generator)
    batch = open_band(store, white_noise_power(0.5), 16.0).batch(torch.arange(4))
    neutral = molecule()
    pooling = make_pooling(neutral, torch.ones(24, dtype=torch.bool), 5, ["position", "amplitude"], seed=0)
    pooled = pooling(particle_gradients(batch, neutral, likelihood, length=10.0))
    group, axis, step = 2, 1, 0.02
    change = torch.zeros(24, 3)
    change[pooling.group == group, axis] = step
    for sign in (1.0, -1.0):
        moved = Mixture(neutral.center + sign * change, neutral.amplitude, neutral.width)
        quotient = (likelihood(batch, batch.predict(moved)) - likelihood(batch, batch.predict(neutral))) / step
        # a step of 0.02 Å in float32: agreement to a few per cent of the largest gradient
        expected = -sign * 10.0 * quotient
        assert torch.allclose(pooled[:, group, axis], expected, atol=0.05 * float(pooled.abs().max()))


def test_gradient_points_downhill_to_the_truth(tmp_path, generator):
    """Noiseless particles of a molecule whose arm went to +y and dimmed: the mean gradient says both."""
    known = particles(60, generator)
    truth = molecule()
    center, amplitude = truth.center.clone(), truth.amplitude.clone()
    center[16:, 1] += 2.0
    moved = Mixture(center, amplitude, truth.width)
    write_store(tmp_path / "a", known, images(known, bent(moved, torch.zeros(60)), 0.0, generator), PIXEL)
    amplitude[16:] *= 0.5
    dimmed = Mixture(truth.center, amplitude, truth.width)
    write_store(tmp_path / "b", known, images(known, bent(dimmed, torch.zeros(60)), 0.0, generator), PIXEL)
    for name, column, sign in (("a", 1, 1.0), ("b", 3, -1.0)):
        batch = open_band(open_store(tmp_path / name), white_noise_power(1.0), 16.0).batch(torch.arange(60))
        mean = particle_gradients(batch, truth, likelihood, 1.0)[:, 16:, column].sum(-1).mean()
        assert sign * float(mean) > 0


def test_gaussians_that_do_not_vary_have_no_inputs(tmp_path, generator):
    store, _ = make_store(tmp_path, 4, 0.5, generator)
    band = open_band(store, white_noise_power(0.5), 16.0)
    varies = torch.arange(24) >= 16
    pooling = make_pooling(molecule(), varies, 4, ["width"], seed=0)
    assert (pooling.group[:16] == -1).all()
    inputs = encoder_inputs(band, molecule(), likelihood, pooling, 16.0, torch.device("cpu"))
    assert inputs.shape == (4, pooling.inputs) == (4, 2 * 4)  # two bands of four groups, of width alone
    assert torch.isfinite(inputs).all()


def test_each_column_is_its_own_parameter(tmp_path, generator):
    """Steps along x, y, z, amplitude and width of one Gaussian, each predicted by its own column alone."""
    store, _ = make_store(tmp_path, 4, 0.5, generator)
    batch = open_band(store, white_noise_power(0.5), 16.0).batch(torch.arange(4))
    neutral, one = molecule(), 18
    gradient = particle_gradients(batch, neutral, likelihood, length=1.0)[:, one]
    for column in range(5):
        losses = []
        for step in (0.02, -0.02):
            center, amplitude, width = neutral.center.clone(), neutral.amplitude.clone(), neutral.width.clone()
            if column < 3:
                center[one, column] += step
            else:
                (amplitude if column == 3 else width)[one] *= 1 + step
            losses.append(likelihood(batch, batch.predict(Mixture(center, amplitude, width))))
        quotient = (losses[0] - losses[1]) / 0.04
        # the likelihood is hundreds of nats in float32: its difference is good to 1e-4 of that over 0.04
        assert torch.allclose(-quotient, gradient[:, column], atol=0.02 * float(gradient.abs().max()) + 0.02)


def test_gradients_turn_with_the_molecule(tmp_path, generator):
    """Molecule and poses turned together: the same images, position gradients turned, the others as they were."""
    store, _ = make_store(tmp_path, 6, 0.5, generator)
    batch = open_band(store, white_noise_power(0.5), 16.0).batch(torch.arange(6))
    neutral, turn = molecule(), random_rotations(1, generator)[0].float()
    turned = Mixture(neutral.center @ turn.T, neutral.amplitude, neutral.width)
    gradient = particle_gradients(batch, neutral, likelihood, length=10.0)
    again = particle_gradients(replace(batch, rotation=batch.rotation @ turn.T), turned, likelihood, length=10.0)
    scale = float(gradient.abs().max())
    assert torch.allclose(again[..., :3], gradient[..., :3] @ turn.T, atol=2e-3 * scale)
    assert torch.allclose(again[..., 3:], gradient[..., 3:], atol=2e-3 * scale)


def test_gradients_are_each_particles_own_and_scale_with_length(tmp_path, generator):
    store, _ = make_store(tmp_path, 6, 0.5, generator)
    band = open_band(store, white_noise_power(0.5), 16.0)
    pooling = make_pooling(molecule(), torch.ones(24, dtype=torch.bool), 5, ["position"], seed=0)
    order = torch.tensor([4, 0, 5, 1])
    known = {"neutral": molecule(), "loss": likelihood, "pooling": pooling}
    whole = gradient_inputs(band.batch(torch.arange(6)), length=10.0, **known)
    part = gradient_inputs(band.batch(order), length=20.0, **known)
    assert torch.allclose(part, 2 * whole[order], rtol=1e-3, atol=1e-3 * float(whole.abs().max()))
