"""A rigid body's likelihood at many poses, against projections; its slopes, against differences."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gaussemble.fit.band import open_band
from gaussemble.fit.poses import Domain, Poses, at_rest, information, shown_of
from gaussemble.io.store import open_store, write_store
from gaussemble.physics import beads
from gaussemble.physics.beads import SIDE, Beads, beads_of, center_of_mass, power_table
from gaussemble.physics.projection import mixture_to_map
from gaussemble.physics.rotations import random_rotations
from gaussemble.quantities import Mixture
from tiny import PIXEL, images, molecule, particles, white_noise_power

ARM = torch.arange(24) >= 16
NOISE = 0.03


def placed(poses: Poses, body: Mixture) -> Mixture:
    """(pose, gaussian): the body at each pose, about its centre of mass."""
    center = center_of_mass(body)
    place = (body.center - center) @ poses.rotation.mT + (center + poses.shift)[:, None]
    return Mixture(place, body.amplitude.expand(len(poses), -1), body.width.expand(len(poses), -1))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Noisy images of the molecule, its arm a domain, and forty poses of it."""
    generator, folder = torch.Generator().manual_seed(5), tmp_path_factory.mktemp("scene")
    known = particles(60, generator)
    known = replace(known, ctf=replace(known.ctf, defocus_v=known.ctf.defocus_u + 500))
    write_store(folder, known, images(known, molecule().expand(60), NOISE, generator), PIXEL)
    band = open_band(open_store(folder), white_noise_power(NOISE), 16.0)
    still, body = molecule().select(~ARM), molecule().select(ARM)
    own = Beads(center_of_mass(body), body.center - center_of_mass(body), body.amplitude, 6.0)
    table = power_table(body, band.box, band.pixel_size)
    poses = Poses(random_rotations(40, generator).float(), 6 * torch.randn(40, 3, generator=generator))
    return band, Domain(still, body, own, table, band.box, band.pixel_size), poses


def exact(scene) -> torch.Tensor:
    """(image, pose): the log-likelihood with the body over that without it, by projections."""
    band, domain, poses = scene
    batch, bodies = band.batch(torch.arange(60)), placed(poses, domain.body)
    alone = batch.image - batch.predict(domain.still)
    found = []
    for pose in range(len(poses)):
        body = Mixture(bodies.center[pose], bodies.amplitude[pose], bodies.width[pose])
        left = alone - batch.predict(body)
        found.append(0.5 * (alone.abs().square() - left.abs().square()).sum((1, 2)))
    return torch.stack(found, dim=1)


def test_likelihoods_are_those_of_projections(scene):
    """Nothing is left out but astigmatism (of 500 Å here), and interpolation."""
    band, domain, poses = scene
    found, truth = domain.gains(shown_of(domain, band, torch.arange(60)), poses), exact(scene)
    assert float(truth.std()) > 50  # nats: a bead seen elsewhere by a pixel would change them by tens
    assert float((found - truth).square().mean().sqrt()) < 0.03 * float(truth.std())
    assert abs(float((found - truth).mean())) < 0.02 * float(truth.std())  # rings' means, multiplied


def test_a_body_outside_the_images_makes_none_likelier(scene):
    """It leaves the residual as it is, and what it should have shown counts against it."""
    band, domain, poses = scene
    away = Poses(poses.rotation, poses.shift + torch.tensor([400.0, 900, -700]))
    found = domain.gains(shown_of(domain, band, torch.arange(60)), away)
    # a direction near that of the shift leaves it in the middle
    outside = ((band.particles.rotation[:, :2].float() @ away.shift.mT).abs().amax(1) > 250).float()
    assert float(outside.mean()) > 0.9
    assert (found[outside > 0] < 0).all()


def test_slopes_are_those_of_the_likelihood(scene):
    """Of each of six motions, summed over images that count differently; the body turned before."""
    band, domain, poses = scene
    shown, generator = shown_of(domain, band, torch.arange(60)), torch.Generator().manual_seed(1)
    counted = 0.1 + torch.rand(60, len(poses), generator=generator)
    found = domain.pulled(shown, poses, counted)
    assert torch.allclose(found[:, 0], counted.double().sum(0), rtol=1e-5)
    for axis, step in enumerate(3 * [0.06] + 3 * [0.5]):
        motion = torch.zeros(len(poses), 6)
        motion[:, axis] = step
        ahead, behind = (domain.gains(shown, poses.moved(each)) for each in (motion, -motion))
        slope = (counted * (ahead - behind)).double().sum(0) / (2 * step)
        assert float(torch.corrcoef(torch.stack([slope, found[:, 1 + axis]]))[0, 1]) > 0.995
        assert float((slope - found[:, 1 + axis]).square().mean().sqrt()) < 0.1 * float(slope.std())


def test_images_that_count_next_to_nothing_are_left_out(scene):
    band, domain, poses = scene
    shown = shown_of(domain, band, torch.arange(60))
    counted = torch.full((60, len(poses)), 1e-4)
    counted[7] = 0.5
    alone = domain.pulled(shown[7:8], poses, counted[7:8])
    assert torch.allclose(domain.pulled(shown, poses, counted), alone)


def test_the_information_is_the_curvature_of_the_likelihood(scene):
    """A body where it is: half the mean square of what a small motion changes in the images."""
    band, domain, _ = scene
    batch, about = band.batch(torch.arange(60)), information(domain, band)
    assert torch.linalg.eigvalsh(about).min() > 0
    motion = torch.tensor([[0.02, -0.01, 0.03, 0.2, -0.3, 0.1]])
    body = placed(at_rest().moved(motion), domain.body)
    changed = batch.predict(Mixture(body.center[0], body.amplitude[0], body.width[0])) - batch.predict(domain.body)
    cost = float(0.5 * changed.abs().square().sum((1, 2)).mean())
    assert cost == pytest.approx(float(0.5 * motion.double() @ about @ motion.double().mT), rel=0.03)


def test_every_direction_has_a_cell_which_its_opposite_shares():
    directions = beads._directions(SIDE)
    assert torch.allclose(directions.norm(dim=1), torch.ones(len(directions)))
    whole = [[face, row, column] for face in range(3) for row in range(SIDE) for column in range(SIDE)]
    for sign in (1, -1):
        cells = [beads._cell(*(sign * one), SIDE) for one in directions.numpy().astype(np.float32)]
        assert np.allclose(cells, whole, atol=2e-3)  # the last are taken a trifle before the edge
    for one in [*np.eye(3), [1, 1, 1], [1, -1, 1], [0, 1, -1], [-1, -1, 0.999]]:
        face, row, column = beads._cell(*np.float32(one), SIDE)
        assert face in (0, 1, 2) and 0 <= row < SIDE - 1 and 0 <= column < SIDE - 1


def test_views_see_along_their_directions():
    directions = beads._directions(5)
    views = beads._views(directions)
    assert torch.allclose(views @ views.mT, torch.eye(3).expand_as(views), atol=1e-6)
    assert torch.allclose(torch.linalg.det(views), torch.ones(len(views)), atol=1e-5)
    assert torch.allclose(views[:, 2], directions, atol=1e-6)


def test_beads_keep_the_mass_and_are_as_few_as_the_resolution_wants(generator):
    body = Mixture(40 * torch.rand(400, 3, generator=generator), torch.rand(400, generator=generator), torch.ones(400))
    fine, coarse = beads_of(body, 12.0), beads_of(body, 30.0)
    assert len(coarse.offset) < len(fine.offset) < 400
    for one, resolution in ((fine, 12.0), (coarse, 30.0)):
        assert float(one.amplitude.sum()) == pytest.approx(float(body.amplitude.sum()), rel=0.02)
        assert float((one.amplitude @ one.offset).norm() / one.amplitude.sum()) < 0.5
        assert 1 < one.width**2 <= 1 + (resolution / beads.FINE) ** 2 + 1e-6
    alone = beads_of(body.select(torch.arange(3)), 12.0)
    assert len(alone.offset) == 3


def test_beads_leave_nothing_of_a_body_that_they_could_have(generator):
    """Of blurred densities on a grid, what is left is orthogonal to each bead; unlike widths, and one is negative."""
    center = torch.randn(150, 3, generator=generator) * torch.tensor([9.0, 9, 18])
    amplitude = torch.where(torch.arange(150) == 7, -1.0, torch.rand(150, generator=generator))
    body, resolution = Mixture(center, amplitude, 3 + 2 * torch.rand(150, generator=generator)), 14.0
    few, blur = beads_of(body, resolution), resolution * beads.BLUR
    assert len(few.offset) < 100

    def blurred(place: torch.Tensor, amplitude: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
        return mixture_to_map(Mixture(place, amplitude, (width.square() + blur**2).sqrt()), 80, 2.0).flatten()

    width = torch.full_like(few.amplitude, few.width)
    whole = blurred(body.center - few.center, body.amplitude, body.width)
    left = whole - blurred(few.offset, few.amplitude, width)
    assert float(left.norm()) < 0.1 * float(whole.norm())
    for bead in range(0, len(few.offset), 6):
        one = blurred(few.offset[[bead]], torch.ones(1), width[:1])
        assert abs(float(one @ left)) < 0.01 * float(one.norm() * left.norm())


def test_poses_move_by_the_axes_of_the_turned_body():
    """Against scipy: first the turn, then the motion in the frame that was turned with the body."""
    start = Rotation.from_rotvec([[0.3, -0.8, 0.5]])
    pose = Poses(torch.from_numpy(start.as_matrix()).float(), torch.tensor([[1.0, 2, 3]]))
    found = pose.moved(torch.tensor([[0.1, 0.4, -0.2, 5, 0, -1]]))
    turned = start * Rotation.from_rotvec([[0.1, 0.4, -0.2]])
    assert np.allclose(found.rotation.numpy(), turned.as_matrix(), atol=1e-6)
    expected = np.array([[1, 2, 3]]) + start.apply([5, 0, -1])
    assert np.allclose(found.shift.numpy(), expected, atol=1e-5)
