"""Penalties in their units: nothing at rest or under rigid motion, a known number for a known change."""

import math

import pytest
import torch

from gaussemble.fit.penalties import (
    Penalties,
    RestraintPenalty,
    RigidityPenalty,
    WanderPenalty,
    inside,
    make_penalties,
    neighbours,
    standing_for_all,
)
from gaussemble.fit.regions import Ground
from gaussemble.fit.restraints import Restraints, bond_angles, distances
from gaussemble.fit.sections import DecoderOptions
from gaussemble.physics.rotations import random_rotations
from gaussemble.quantities import Map, Mixture
from tiny import molecule

ALL = torch.ones(24, dtype=torch.bool)


def chain() -> Mixture:
    """Four Gaussians 4 Å apart on two sides of a square, and one far away."""
    center = torch.tensor([[0.0, 0, 0], [4, 0, 0], [4, 4, 0], [0, 4, 0], [90, 0, 0]])
    return Mixture(center, torch.ones(5), torch.full((5,), 3.0))


def restraints(mixture: Mixture) -> Restraints:
    bonds, angles = torch.tensor([[0, 1], [1, 2], [2, 3]]), torch.tensor([[0, 1, 2], [1, 2, 3]])
    return Restraints(bonds, angles, distances(mixture.center, bonds), bond_angles(mixture.center, angles))


def batch_of(mixture: Mixture, center: torch.Tensor, amplitude: torch.Tensor | None = None) -> Mixture:
    """Mixtures with other centres (image, gaussian, 3), and other amplitudes if given."""
    count = len(center)
    fade = mixture.amplitude.expand(count, -1) if amplitude is None else amplitude
    return Mixture(center, fade, mixture.width.expand(count, -1))


def nats_of(term: torch.nn.Module, mixtures: Mixture) -> torch.Tensor:
    """Of each image of a whole batch."""
    return term(mixtures, standing_for_all(len(mixtures.center)))


@pytest.mark.parametrize("kind", ["restraint", "rigidity"])
def test_geometry_costs_nothing_at_rest_and_in_rigid_motion(kind, generator):
    mixture = molecule()
    bonds, angles = torch.tensor([[0, 1], [5, 6]]), torch.tensor([[0, 1, 2]])
    known = Restraints(bonds, angles, distances(mixture.center, bonds), bond_angles(mixture.center, angles))
    term = (
        RestraintPenalty(known, 2.0)
        if kind == "restraint"
        else RigidityPenalty(mixture.center, neighbours(mixture.center, ALL), 0.5)
    )
    turned = mixture.center @ random_rotations(4, generator).float().mT + 30 * torch.randn(4, 1, 3, generator=generator)
    assert float(nats_of(term, batch_of(mixture, mixture.center[None])).max()) == 0
    assert float(nats_of(term, batch_of(mixture, turned)).max()) < 1e-5
    assert float(nats_of(term, batch_of(mixture, 1.1 * turned)).mean()) > 0.1


def test_restraint_is_its_weight_times_squared_angstrom():
    mixture = chain()
    moved = mixture.center.clone()
    moved[3] = torch.tensor([2.0, 4.0, 0.0])  # the last bond shorter by 2 Å, no angle changed
    term = RestraintPenalty(restraints(mixture), weight=3.0)
    values = nats_of(term, batch_of(mixture, torch.stack([mixture.center, moved])))
    assert values.tolist() == pytest.approx([0, 12], abs=1e-4)
    bent = mixture.center.clone()
    bent[3] = torch.tensor([4.0, 8.0, 0.0])  # a right angle becomes a straight one; its arc at 4 Å is 2 pi Å
    expected = 3 * (2 * math.pi) ** 2
    assert float(nats_of(term, batch_of(mixture, bent[None]))) == pytest.approx(expected, rel=1e-3)


def test_rigidity_is_half_a_squared_deviation_for_each_pair_of_neighbours():
    mixture = chain()
    pairs = neighbours(mixture.center, torch.ones(5, dtype=torch.bool))
    assert sorted(map(sorted, pairs.tolist())) == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    moved = mixture.center.clone()
    moved[4] += 50  # no neighbour of any
    moved[0, 2] = 3.0  # two sides become 5 Å, the diagonal sqrt(41)
    expected = 0.5 * (1 + 1 + (math.sqrt(41) - math.sqrt(32)) ** 2) / 0.5**2
    term = RigidityPenalty(mixture.center, pairs, weight=0.5 / 0.5**2)
    for images in (1, 4, 7):  # in the mean of a batch, of which some are reckoned for all
        values = nats_of(term, batch_of(mixture, moved.expand(images, -1, -1)))
        assert len(values) == images and float(values.mean()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("images", [1, 2, 7, 34, 64])
def test_few_images_stand_for_all(images):
    standing = standing_for_all(images)
    assert float(standing.sum()) == pytest.approx(images)
    assert int((standing > 0).sum()) == -(-images // 4)
    mixture = chain()
    moved = batch_of(mixture, mixture.center * torch.linspace(1, 2, images)[:, None, None])
    term = RigidityPenalty(mixture.center, neighbours(mixture.center, torch.ones(5, dtype=torch.bool)), weight=1.0)
    whole = nats_of(term, moved)
    assert torch.equal(whole > 0, (standing > 0) & (torch.arange(images) > 0))  # the first one is at rest
    half = images // 2  # processes that share the batch see the same
    parts = [
        term(Mixture(moved.center[own], moved.amplitude[own], moved.width[own]), standing[own])
        for own in (slice(0, half), slice(half, images))
    ]
    torch.testing.assert_close(torch.cat(parts), whole)


@pytest.mark.parametrize("particles", [16, 4000])
def test_rigidity_counts_all_particles_as_sixteen_structures(particles):
    mixture = chain()
    section = DecoderOptions(name="main", position=True, restraint=0.0, rigidity=0.5)
    ground = Ground(mixture, Map(torch.zeros(4, 4, 4), 4.0))
    penalties = make_penalties([section], [torch.ones(5, dtype=torch.bool)], ground, None, particles)
    moved = mixture.center.clone()
    moved[0, 2] = 3.0
    each = 0.5 * (1 + 1 + (math.sqrt(41) - math.sqrt(32)) ** 2) / 0.5**2
    total = particles * float(nats_of(penalties, batch_of(mixture, moved[None])))
    assert total == pytest.approx(16 * each, rel=1e-4)
    both = make_penalties([section, section], [torch.ones(5, dtype=torch.bool)] * 2, ground, None, particles)
    assert particles * float(nats_of(both, batch_of(mixture, moved[None]))) == pytest.approx(total)  # once, not twice
    fixed = section.model_copy(update={"position": False})
    assert make_penalties([fixed], [torch.ones(5, dtype=torch.bool)], ground, None, particles) is None


def test_neighbours_and_restraints_stay_in_the_region():
    region = torch.tensor([True, True, True, False, True])
    assert sorted(map(sorted, neighbours(chain().center, region).tolist())) == [[0, 1], [0, 2], [1, 2]]
    kept = inside(restraints(chain()), region)
    assert kept.bonds.tolist() == [[0, 1], [1, 2]]
    assert kept.angles.tolist() == [[0, 1, 2]]
    assert kept.distance.tolist() == [4, 4]
    assert len(neighbours(chain().center, torch.arange(5) == 2)) == 0


def test_only_what_has_vanished_may_not_wander():
    mixture = chain()
    center = mixture.center.expand(3, -1, -1).clone()
    center[:, 1, 1] += 6.0
    amplitude = torch.ones(3, 5)
    amplitude[0, 1], amplitude[1, 1], amplitude[2, 1] = 0.0, 0.5, 1.4
    values = nats_of(WanderPenalty(mixture, deviation=2.0), batch_of(mixture, center, amplitude))
    assert values.tolist() == pytest.approx([0.5 * 9, 0.5 * 9 / 16, 0.0])


def test_wandering_pulls_positions_back_and_leaves_amplitudes_alone():
    mixture = chain()
    center = (mixture.center + 1.0)[None].clone().requires_grad_()
    amplitude = torch.full((1, 5), 0.2).requires_grad_()
    nats_of(WanderPenalty(mixture, 1.0), batch_of(mixture, center, amplitude)).sum().backward()
    assert (center.grad > 0).all()
    assert amplitude.grad is None


def test_terms_are_added():
    mixture = chain()
    moved = batch_of(mixture, 1.3 * mixture.center[None])
    terms = [RestraintPenalty(restraints(mixture), 1.0), RigidityPenalty(mixture.center, torch.tensor([[0, 4]]), 2.0)]
    each = [float(nats_of(term, moved)) for term in terms]
    assert min(each) > 0
    assert float(nats_of(Penalties(terms), moved)) == pytest.approx(sum(each))
    assert Penalties(terms).state_dict() == {}
