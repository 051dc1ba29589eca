"""Latent vectors that are poses: distances in Å, the way back, and means of poses far apart."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gaussemble.model.heterogeneity import load_model, save_model
from gaussemble.model.pose import POSE, PoseDecoder
from gaussemble.physics.rotations import random_rotations
from gaussemble.quantities import Mixture
from made_poses import pose_model
from tiny import molecule

ARM = torch.arange(24) >= 16


def decoder() -> PoseDecoder:
    """Its decoder."""
    found = pose_model().poses
    assert found is not None
    return found


def some_poses(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Any rotations, shifts of tens of Å."""
    generator = torch.Generator().manual_seed(4)
    return random_rotations(count, generator).float(), 20 * torch.randn(count, 3, generator=generator)


def test_rest_is_zero_and_moves_nothing():
    model = pose_model()
    assert torch.allclose(decoder().latent(torch.eye(3)[None], torch.zeros(1, 3)), torch.zeros(1, POSE))
    assert torch.allclose(model.decode(torch.zeros(1, POSE)).center[0], molecule().center, atol=1e-4)


def test_the_arm_goes_where_the_pose_says_and_the_core_nowhere():
    rotation, shift = some_poses(5)
    decoded = pose_model().decode(decoder().latent(rotation, shift))
    arm, weight = molecule().center[ARM], molecule().amplitude[ARM]
    middle = np.average(arm.numpy(), axis=0, weights=weight.numpy())
    for number in range(5):
        turned = Rotation.from_matrix(rotation[number].numpy()).apply(arm.numpy() - middle)
        assert np.allclose(decoded.center[number, ARM], turned + middle + shift[number].numpy(), atol=1e-3)
    assert torch.equal(decoded.center[:, ~ARM], molecule().center[~ARM].expand(5, -1, -1))
    assert torch.equal(decoded.amplitude, molecule().amplitude.expand(5, -1))


def test_a_latent_tells_its_pose_and_a_distance_is_that_of_the_density():
    rotation, shift = some_poses(6)
    own, model = decoder(), pose_model()
    latent = own.latent(rotation, shift)
    again, moved = own.pose(latent)
    assert torch.allclose(again, rotation, atol=1e-4) and torch.equal(moved, shift)
    center, weight = model.decode(latent).center[:, ARM], molecule().amplitude[ARM]
    for one, other in ((0, 1), (2, 5)):
        square = (center[one] - center[other]).square().sum(1)
        apart = float((weight @ square / weight.sum()).sqrt())
        # the arm is thinner than LEAST_RADIUS along z, where the latents count 1 Å
        assert float((latent[one] - latent[other]).norm()) == pytest.approx(apart, rel=0.01)


def test_the_mean_of_two_poses_across_half_a_turn_lies_between_them():
    """As rotation vectors, turns of 170 and -170 degrees about z have the mean 0, which is farthest from both."""
    turns = Rotation.from_rotvec(np.deg2rad([[0, 0, 170], [0, 0, -170]]))
    own = decoder()
    latent = own.latent(torch.from_numpy(turns.as_matrix()).float(), torch.zeros(2, 3))
    rotation, _ = own.pose(latent.mean(0, keepdim=True))
    angle = Rotation.from_matrix(rotation.numpy()).as_rotvec()
    assert np.rad2deg(np.linalg.norm(angle)) == pytest.approx(180, abs=0.1)


def test_any_latent_is_a_rotation():
    generator = torch.Generator().manual_seed(2)
    rotation, _ = decoder().pose(30 * torch.randn(50, POSE, generator=generator))
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand(50, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(50), atol=1e-5)


def test_a_file_keeps_it(tmp_path):
    model = pose_model(3)
    model.landmark.copy_(decoder().latent(*some_poses(3)))
    model.moving.copy_(ARM)
    save_model(tmp_path / "model.pt", model)
    again = load_model(tmp_path / "model.pt")
    assert again.poses is not None and torch.equal(again.moving, ARM)
    with torch.no_grad():
        assert torch.equal(again.decode(again.landmark).center, model.eval().decode(model.landmark).center)


def test_a_domain_of_one_gaussian_has_a_pose():
    own = PoseDecoder(1, 16.0)
    own.start_at(Mixture(torch.tensor([[1.0, 2, 3]]), torch.ones(1), torch.ones(1)))
    moved = own(own.latent(torch.eye(3)[None], torch.tensor([[0.0, 4, 0]])))
    assert torch.allclose(16 * moved[0, 0], torch.tensor([0.0, 4, 0]))
