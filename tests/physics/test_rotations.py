"""Euler angles: definition, inverse, composition."""

import math

import torch

from gaussemble.physics.rotations import euler_to_matrix, matrix_to_euler, random_rotations


def test_single_angles_turn_the_way_relion_says():
    quarter = math.pi / 2
    angles = torch.tensor([[quarter, 0, 0], [0, quarter, 0], [0, 0, quarter]], dtype=torch.float64)
    rot, tilt, psi = euler_to_matrix(angles)
    x, y, z = torch.eye(3, dtype=torch.float64)
    # RELION's matrices turn the coordinate system: about z, the volume's x axis goes to -y of the view
    assert torch.allclose(rot @ x, -y)
    assert torch.allclose(psi @ x, -y)
    assert torch.allclose(tilt @ x, z)
    assert torch.allclose(tilt @ z, -x)


def test_angles_come_back(generator):
    rotation = random_rotations(200, generator)
    assert torch.allclose(euler_to_matrix(matrix_to_euler(rotation)), rotation, atol=1e-10)


def test_random_rotations_are_proper_and_uniform(generator):
    rotation = random_rotations(20000, generator)
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(20000, 3, 3), atol=1e-12)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(20000, dtype=torch.float64))
    # uniform orientations average to nothing and every direction cosine has variance 1/3; 5 sigma of 20,000
    assert rotation.mean(0).abs().max() < 5 / math.sqrt(3 * 20000)
    assert (rotation.square().mean(0) - 1 / 3).abs().max() < 5 * math.sqrt(4 / 45 / 20000)
