"""What images say of weights, against the likelihoods that it stands for and sums that are written out."""

import pytest
import torch

from gaussemble.fit import coordinates as coordinates_module
from gaussemble.fit.band import open_band
from gaussemble.fit.coordinates import Coordinates, coordinates_of, pairs
from gaussemble.fit.subspace import subspace_of
from tiny import bent, make_store, molecule, white_noise_power

NOISE, COUNT = 0.3, 150


@pytest.fixture
def seen(tmp_path, generator, monkeypatch):
    """Particles, components of a few structures, and what the particles say of these, in blocks of 64."""
    monkeypatch.setattr(coordinates_module, "READ", 64)
    store, _ = make_store(tmp_path, COUNT, NOISE, generator)
    band = open_band(store, white_noise_power(NOISE), 14.0)
    subspace = subspace_of([bent(molecule(), torch.linspace(-0.6, 0.6, 9))], molecule(), band.batch(torch.arange(16)))
    return band, subspace, coordinates_of(subspace, band)


def test_gains_are_those_of_the_images(seen):
    band, subspace, table = seen
    found = torch.cat([block.gains(subspace.weight) for block in table])
    true = subspace.gains(band.batch(torch.arange(COUNT)))
    assert float(true.std(1).mean()) > 2  # nats: there is something to tell apart
    assert torch.allclose(found, true, atol=1e-3 * float(true.abs().max()))
    chosen = torch.tensor([140, 3, 77])
    assert torch.allclose(table.of(chosen).gains(subspace.weight), true[chosen], atol=1e-3 * float(true.abs().max()))


def test_a_table_is_gone_through_as_often_as_one_likes(seen):
    _, _, table = seen
    assert [len(block) for block in table] == [len(block) for block in table] == [64, 64, 22]


def test_totals_are_sums_over_the_particles(generator):
    pull, factor = torch.randn(20, 3, generator=generator), torch.randn(20, 5, 3, generator=generator)
    gram = factor.mT @ factor
    row, column = pairs(3)
    share = torch.rand(20, 2, generator=generator, dtype=torch.float64)
    first, second = Coordinates(pull, gram[:, row, column]).totals(share)
    assert torch.allclose(first, torch.einsum("nk,nc->kc", share, pull.double()), rtol=1e-5)
    assert torch.allclose(second, torch.einsum("nk,ncd->kcd", share, gram.double()), rtol=1e-5)


def test_what_a_structure_leaves_is_what_it_does_not_explain(generator):
    pull, factor = torch.randn(20, 4, generator=generator), torch.randn(20, 5, 4, generator=generator)
    gram, weight = factor.mT @ factor, torch.randn(4, generator=generator)
    row, column = pairs(4)
    some = Coordinates(pull, gram[:, row, column])
    assert torch.allclose(some.left(weight), pull - gram @ weight, atol=1e-4)
    chosen = torch.tensor([3, 19])
    assert torch.equal(some[chosen].left(weight), some.left(weight)[chosen])
