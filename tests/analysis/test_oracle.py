"""The Bayes-optimal score of any states, against projections made directly and against known probabilities."""

import numpy as np
import pytest
import torch

from gaussemble.analysis.oracle import Comparison, compare, components, expected, grey_scale, oracle, posterior
from gaussemble.fit.band import open_band
from gaussemble.io.store import open_store, write_store
from gaussemble.physics.projection import mixture_to_map
from gaussemble.quantities import Mixture
from tiny import BOX, PIXEL, bent, images, molecule, particles, white_noise_power

NOISE = 0.4


def states() -> Mixture:
    """The arm at five angles."""
    return bent(molecule(), torch.linspace(-0.6, 0.6, 5))


def maps() -> torch.Tensor:
    each = states()
    return torch.stack(
        [mixture_to_map(Mixture(*one), BOX, PIXEL) for one in zip(each.center, each.amplitude, each.width, strict=True)]
    )


def store_of(folder, state: torch.Tensor, noise: float, generator: torch.Generator):
    known, each = particles(len(state), generator), states()
    own = Mixture(each.center[state], each.amplitude[state], each.width[state])
    write_store(folder, known, images(known, own, noise, generator), PIXEL)
    return open_store(folder)


def test_comparisons_are_those_of_direct_projections(tmp_path, generator):
    """From components of maps against the mixtures' own analytic projections: sign, scale, pose and CTF."""
    state = torch.arange(20) % 5
    store, power = store_of(tmp_path, state, NOISE, generator), white_noise_power(NOISE)
    found = compare(store, maps(), power, 15.0)
    batch = open_band(store, power, 15.0).batch(torch.arange(20))
    each = states()
    for number in range(5):
        alone = Mixture(each.center[number], each.amplitude[number], each.width[number])
        predicted = batch.predict(alone)
        # interpolation in Fourier space: about a percent of the projections' norm
        scale = predicted.abs().square().sum((-2, -1)).double()
        assert torch.allclose(found.norm[:, number], scale, rtol=0.03)
        matched = (predicted.conj() * batch.image).real.sum((-2, -1)).double()
        assert ((found.matched[:, number] - matched) / (scale + scale.sqrt())).abs().max() < 0.03


def test_components_add_up(generator):
    truth = maps()
    parts, weights = components(truth)
    again = torch.einsum("sc,czyx->szyx", weights, parts)
    left = (again - truth).square().sum() / (truth - truth.mean(0)).square().sum()
    assert left < 1e-3 and len(parts) < 5 + 1
    parts, weights = components(truth[:1])
    assert len(parts) == 1 and torch.allclose(parts, truth[:1])


def test_without_noise_to_speak_of_the_state_is_known(tmp_path, generator):
    state = torch.arange(40) % 5
    probability = oracle(store_of(tmp_path, state, 0.02, generator), maps(), state, white_noise_power(0.02), 15.0)
    assert (probability.argmax(1) == state).all()
    assert torch.allclose(probability.sum(1), torch.ones(40).double())


def test_probabilities_are_honest(tmp_path, generator):
    """Where the posterior says p, the state is true in p of the cases (noise at which it is often wrong)."""
    state = torch.randint(0, 5, (400,), generator=generator)
    store = store_of(tmp_path, state, 1.0, generator)
    probability = oracle(store, maps(), state, white_noise_power(1.0), 15.0)
    right = probability.gather(1, state[:, None]).mean()
    assert 0.25 < right < 0.9
    # E p(true) = E sum p² for calibrated posteriors
    assert float(right) == pytest.approx(float(probability.square().sum(1).mean()), abs=0.04)


def test_posterior_by_hand():
    """Two states that fit equally but for their shares, and one that fits better by log 2."""
    compared = Comparison(torch.tensor([[1.0, 1.0]]).double(), torch.tensor([[2.0, 2.0]]).double())
    assert torch.allclose(
        posterior(compared, 1.0, torch.tensor([0.25, 0.75]).double()), torch.tensor([[0.25, 0.75]]).double()
    )
    better = Comparison(torch.tensor([[np.log(2.0), 0.0]]).double(), torch.zeros(1, 2).double())
    found = posterior(better, 1.0, torch.tensor([0.5, 0.5]).double())
    assert found[0, 0] == pytest.approx(2 / 3)
    assert expected(found, np.array([[3.0], [0.0]]))[0, 0] == pytest.approx(2)
    assert grey_scale(Comparison(torch.tensor([[3.0, 9.0]]), torch.tensor([[2.0, 5.0]])), torch.tensor([0])) == 1.5
