"""Structures by components against their own projections, and components against the maps that they are of."""

import pytest
import torch

from gaussemble.fit import subspace as subspace_module
from gaussemble.fit.band import open_band
from gaussemble.fit.losses import likelihood
from gaussemble.fit.subspace import Tolerance, components, narrowed, subspace_of
from gaussemble.physics.band_limited import band_limited_map
from gaussemble.quantities import Mixture
from tiny import BOX, PIXEL, bent, make_store, molecule, white_noise_power

NOISE = 0.3
ANGLES = torch.linspace(-0.6, 0.6, 24)


def structures() -> Mixture:
    """The arm at many angles, brighter the further it is turned."""
    found = bent(molecule(), ANGLES)
    return Mixture(found.center, found.amplitude * (1 + 0.2 * ANGLES[:, None]), found.width)


def alone(states: Mixture, number: int) -> Mixture:
    """One of them."""
    return Mixture(states.center[number], states.amplitude[number], states.width[number])


def blocks(states: Mixture, size: int) -> list[Mixture]:
    """Some at a time."""
    return [Mixture(*part) for part in zip(*(each.split(size) for each in vars(states).values()), strict=True)]


def maps(states: Mixture) -> torch.Tensor:
    return torch.stack([band_limited_map(alone(states, number), BOX, PIXEL) for number in range(len(states.center))])


@pytest.fixture
def batch(tmp_path, generator):
    store, _ = make_store(tmp_path, 60, NOISE, generator)
    return open_band(store, white_noise_power(NOISE), 14.0).batch(torch.arange(60))


def direct(batch, states: Mixture) -> torch.Tensor:
    """Log-likelihoods over the neutral mixture's, from each structure's own projections."""
    found = [likelihood(batch, batch.predict(alone(states, number))) for number in range(len(states.center))]
    return likelihood(batch, batch.predict(molecule()))[:, None] - torch.stack(found, dim=1)


def assert_gains(found: torch.Tensor, true: torch.Tensor, error: float = 0.2) -> None:
    """The error is a part of what separates structures; a sign, pose or scale that is wrong would be all of it.

    What is left out, a tenth of a nat in the mean, is multiplied by noise of unit variance. What no structure makes a
    difference to (a constant for each particle) counts too.
    """
    assert float(true.std(1).mean()) > 2  # nats: there is something to tell apart
    assert float((found - true).square().mean().sqrt()) < error * float(true.std())
    assert float((found - true).mean().abs()) < 0.3 * error * float(true.std())


def test_gains_are_those_of_each_structures_own_projections(batch):
    states = structures()
    found = subspace_of(blocks(states, 5), molecule(), batch)
    assert found.grids.shape[-1] < 10
    assert_gains(found.gains(batch), direct(batch, states))


def test_gains_without_anything_left_out_are_exact_but_for_interpolation(batch):
    states, exact = structures(), Tolerance(nats=1e-3, power=1e-6)
    assert_gains(subspace_of(blocks(states, 5), molecule(), batch, exact).gains(batch), direct(batch, states), 0.02)


def test_no_more_components_than_are_allowed_for(batch, capsys):
    found = subspace_of([structures()], molecule(), batch, Tolerance(nats=1e-3, power=1e-6, most=2))
    assert found.grids.shape[-1] == found.weight.shape[1] == 2
    assert "compared by 2 components, which leave out" in capsys.readouterr().err


def test_gains_in_a_smaller_box_are_those_of_its_rings(batch, monkeypatch):
    monkeypatch.setattr(subspace_module, "WIDEST", 20)
    small = narrowed(batch)
    assert small.box == 20 < batch.box
    states = structures()
    assert_gains(subspace_of(blocks(states, 24), molecule(), batch).gains(batch), direct(small, states))


def test_a_structure_that_is_the_reference_gains_nothing(batch):
    same = molecule().expand(3)
    assert float(subspace_of([same], molecule(), batch).gains(batch).abs().max()) < 1e-3


@pytest.mark.parametrize("size", [24, 7, 1])
@pytest.mark.parametrize("tolerance", [0.1, 0.01, 1e-4])
def test_components_add_up_to_the_maps_whatever_the_blocks(size, tolerance):
    """Orthonormal, as few as principal components of all maps together, and no more left out than allowed."""
    truth = maps(structures()) - band_limited_map(molecule(), BOX, PIXEL)
    parts, weights = components(truth.split(size), tolerance)
    flat = parts.flatten(start_dim=1)
    assert torch.allclose(flat @ flat.T, torch.eye(len(parts)), atol=1e-4)
    left = (torch.einsum("sc,czyx->szyx", weights, parts) - truth).square().sum() / truth.square().sum()
    assert float(left) <= 1.001 * tolerance
    values = torch.linalg.svdvals(truth.flatten(start_dim=1).double()).square()
    fewest = int((1 - values.cumsum(0) / values.sum() > tolerance).sum()) + 1
    half = int((1 - values.cumsum(0) / values.sum() > 0.5 * tolerance).sum()) + 1
    assert fewest <= len(parts) <= half + 1


def test_many_maps_of_two_dimensions_have_two_components(generator):
    """Rounding in later blocks is no direction of its own."""
    plane = torch.randn(2, 8, 8, 8, generator=generator)
    weight = torch.randn(600, 2, generator=generator) * torch.tensor([1.0, 30.0])
    truth = torch.einsum("sc,czyx->szyx", weight, plane)
    parts, weights = components(truth.split(7), 1e-4, most=50)
    assert len(parts) == 2
    assert torch.allclose(torch.einsum("sc,czyx->szyx", weights, parts), truth, atol=1e-3)


def test_no_more_components_than_asked_for_and_those_the_strongest():
    truth = maps(structures())
    parts, weights = components(truth.split(24), 1e-6, most=3)
    assert parts.shape == (3, BOX, BOX, BOX)
    values = torch.linalg.svdvals(truth.flatten(start_dim=1).double()).square()
    left = (torch.einsum("sc,czyx->szyx", weights, parts) - truth).square().sum()
    assert float(left) == pytest.approx(float(values[3:].sum()), rel=0.02)


def test_maps_without_anything_have_a_component_of_nothing():
    parts, weights = components([torch.zeros(4, 8, 8, 8)], 0.01)
    assert parts.isfinite().all()
    assert len(weights) == 4
    assert float((weights @ parts.flatten(start_dim=1)).abs().max()) == 0
    with pytest.raises(ValueError, match="no maps"):
        components([], 0.01)
