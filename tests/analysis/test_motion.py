"""Motion-corrected reconstruction: bodies that move as one are found, and what moves comes out sharp."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gaussemble.analysis.bodies import about_mean, body_weights, find_bodies, moved, rigid_motion
from gaussemble.analysis.motion import Network, corrected_particles, find_moves, motion_corrected
from gaussemble.io.store import ImageStore, open_store, write_store
from gaussemble.model.heterogeneity import DeformableMixture, single_design
from gaussemble.physics.backprojection import divide
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import to_real
from gaussemble.physics.masks import soft_mask
from gaussemble.physics.projection import mixture_to_map, project, shift_phases
from gaussemble.physics.rings import shell_correlation
from gaussemble.prepare.slices import halves, sum_slices
from gaussemble.quantities import Map, Mixture
from made_store import BOX, PIXEL, make_particles

COUNT, CORE, ARM = 1000, 40, 20
AXIS = np.array([0.0, 0, 1])


def turns(degrees: np.ndarray) -> torch.Tensor:
    """Rotations about z."""
    return torch.from_numpy(Rotation.from_rotvec(np.deg2rad(degrees)[:, None] * AXIS).as_matrix()).float()


def molecule(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Beads of a core and of an arm beside it, the arm last; and the hinge."""
    rng = np.random.default_rng(seed)
    core, arm = rng.normal(scale=[12, 14, 12], size=(CORE, 3)), rng.normal(scale=[9, 5, 8], size=(ARM, 3))
    return torch.from_numpy(
        np.concatenate([core - np.array([18, 0, 0]), arm + np.array([34, 0, 0])])
    ).float(), torch.tensor([12.0, 0, 0])


def swung(center: torch.Tensor, hinge: torch.Tensor, degrees: np.ndarray) -> torch.Tensor:
    """(image, bead, 3): the arm turned about the hinge."""
    place = center.repeat(len(degrees), 1, 1)
    place[:, CORE:] = (center[CORE:] - hinge) @ turns(degrees).mT + hinge
    return place


class Swing(DeformableMixture):
    """A model that knows the motion: its latent is the angle, 30 degrees for 1."""

    def decode(self, latent, active=None):
        neutral = self.neutral.expand(len(latent))
        degrees = 30 * latent[:, 0].numpy().astype(np.float64)
        return Mixture(swung(self.center, molecule()[1], degrees), neutral.amplitude, neutral.width)


def model_of(center: torch.Tensor) -> Swing:
    design = single_design(
        gaussians=len(center), latent_dim=1, inputs=4, hidden=4, layers=1, dropout=0.0, length=1.0, field=BOX * PIXEL
    )
    return Swing(design, Mixture(center, torch.full((len(center),), 30.0), torch.full((len(center),), 6.0))).eval()


@pytest.fixture(scope="module")
def swinging(tmp_path_factory):
    """A store of particles whose arm swings by 30 degrees (standard deviation), with the network that knows it."""
    generator = torch.Generator().manual_seed(3)
    center, _ = molecule()
    model, particles = model_of(center), make_particles(COUNT, generator)
    latent = torch.randn(COUNT, 1, generator=generator)
    mixture = model.decode(latent)
    transform = project(mixture, particles.rotation, BOX, PIXEL)
    transform = transform * evaluate(particles.ctf, BOX, PIXEL) * shift_phases(particles.shift, BOX, PIXEL)
    images = to_real(transform, BOX)
    images = images + 0.7 * images.std() * torch.randn(images.shape, generator=generator)
    folder = tmp_path_factory.mktemp("swinging")
    write_store(folder, particles, images, PIXEL)
    return open_store(folder), Network(model, torch.arange(COUNT), latent)


def test_rigid_motion_is_found_exactly_and_is_no_mirror():
    center, _ = molecule()
    rotation = torch.from_numpy(Rotation.random(5, random_state=1).as_matrix()).float()
    shift = torch.arange(15.0).view(5, 3)
    found = rigid_motion(center, moved((rotation, shift), center), torch.rand(1, len(center)) + 0.1)
    assert torch.allclose(found[0], rotation, atol=1e-4)
    assert torch.allclose(found[1], shift, atol=1e-3)
    mirrored = rigid_motion(center, (center * torch.tensor([-1.0, 1, 1]))[None], torch.ones(1, len(center)))
    assert torch.linalg.det(mirrored[0]).item() == pytest.approx(1)


@pytest.mark.parametrize("spread", [5.0, 30.0])
def test_bodies_are_those_that_move_together(spread):
    center, hinge = molecule()
    place = swung(center, hinge, spread * np.linspace(-1, 1, 40))
    member, left = find_bodies(center, place, torch.ones(len(center)), 4, 0.05)
    assert left < 0.05
    assert len(torch.unique(member)) == 2
    assert len(torch.unique(member[:CORE])) == len(torch.unique(member[CORE:])) == 1


def test_what_stands_still_is_one_body():
    center, _ = molecule()
    member, left = find_bodies(center, center.repeat(10, 1, 1), torch.ones(len(center)), 4, 0.1)
    assert (member == 0).all()
    assert left < 1e-4


def test_the_mean_place_does_not_depend_on_what_was_at_rest():
    """Halves of the data have other structures at rest; their bodies must come to the same place."""
    center, hinge = molecule()
    degrees = np.random.default_rng(1).normal(scale=25, size=200) + 10
    place = swung(center, hinge, degrees)[:, CORE:]
    means = []
    for start in (place[3], place[50] @ turns(np.array([40.0]))[0].mT + 7):
        motion = rigid_motion(start, place, torch.ones(1, ARM))
        mean, about = about_mean(motion, start.mean(0))
        means.append(moved(mean, start))
        assert torch.allclose(moved(about, means[-1]), place, atol=1e-3), "motions lead from the mean place"
    assert torch.allclose(*means, atol=1e-3)


def test_weights_add_up_and_each_body_has_its_own_place():
    center, _ = molecule()
    weights = body_weights([center[:CORE], center[CORE:]], BOX, PIXEL, 4.0)
    assert torch.allclose(weights.sum(0), torch.ones(BOX, BOX, BOX), atol=1e-5)
    x, y, z = (center[-1] / PIXEL).round().long() + BOX // 2
    assert weights[1, z, y, x] > 0.9


def test_a_corrected_pose_sees_the_body_at_rest(swinging):
    """The projection of the arm at its mean place in the corrected pose is that of the swung arm in the particle's."""
    store, network = swinging
    moves = find_moves(network, 4, 8.0)
    arm = int(moves.member[-1])
    corrected = corrected_particles(store.particles, moves, arm)
    decoded = network.mixtures(torch.arange(COUNT)).center[:, CORE:]
    seen = (decoded @ store.particles.rotation.mT)[..., :2] - store.particles.shift[:, None]
    rest = (moves.center[CORE:] @ corrected.rotation.mT)[..., :2] - corrected.shift[:, None]
    assert torch.allclose(seen, rest, atol=0.01)
    assert (corrected.shift - store.particles.shift).abs().max() > 1


def domain_curve(half_maps: list[torch.Tensor]) -> torch.Tensor:
    """FSC with the truth at the mean angle inside the arm's mask."""
    center, _ = molecule()
    whole = Mixture(center, torch.full((len(center),), 30.0), torch.full((len(center),), 6.0))
    mask = soft_mask(mixture_to_map(whole.select(torch.arange(CORE, CORE + ARM)), BOX, PIXEL), PIXEL, 15.0)
    truth = mixture_to_map(whole, BOX, PIXEL)
    return shell_correlation((half_maps[0] + half_maps[1]) / 2 * mask, truth * mask)


def half_of(network: Network, store: ImageStore, half: int) -> Network:
    """A network with the particles of one half alone."""
    own = store.half == half
    return Network(network.model, network.rows[own], network.latent[own])


@pytest.fixture(scope="module")
def plain(swinging):
    store, _ = swinging
    sums = sum_slices(store, halves(store, torch.arange(COUNT)), 2, 2)
    return [divide(sums, half) for half in (0, 1)]


def test_a_moving_domain_comes_out_sharper_than_in_the_consensus(swinging, plain):
    store, network = swinging
    frame = Map(torch.ones(BOX, BOX, BOX), PIXEL)
    # the odd half has other Gaussians, and its arm is at rest elsewhere: the half-maps still show one structure
    center, hinge = molecule(seed=1)
    other = Network(model_of(swung(center, hinge, np.array([10.0]))[0]), network.rows, network.latent - 1 / 3)
    networks = [half_of(network, store, 0), half_of(other, store, 1)]
    found = motion_corrected(store, networks, frame, 4, 10.0, 2)
    before, after = domain_curve(plain), domain_curve([found.half1, found.half2])
    assert before[5:10].mean() < 0.75
    assert after[5:10].min() > 0.9
    assert shell_correlation(found.half1, found.half2)[1:8].min() > 0.9
    unaware = replace(network, latent=-network.latent)
    wrong = motion_corrected(store, [unaware], frame, 4, 10.0, 2)
    assert domain_curve([wrong.half1, wrong.half2])[5:10].mean() < before[5:10].mean(), "it sees the motion's direction"


def test_each_half_map_is_moved_by_the_network_of_its_own_half(swinging):
    """With particles of another latent the first half-map changes; the second does not, to the last bit."""
    store, network = swinging
    frame = Map(torch.ones(BOX, BOX, BOX), PIXEL)
    even, odd = (half_of(network, store, half) for half in (0, 1))
    first = motion_corrected(store, [even, odd], frame, 2, 10.0, 1)
    second = motion_corrected(store, [replace(even, latent=0.5 * even.latent), odd], frame, 2, 10.0, 1)
    assert torch.equal(first.half2, second.half2)
    assert not torch.allclose(first.half1, second.half1, rtol=0.01)
