"""Orientations: RELION's Euler angles, rotation matrices, random views.

`x_view = rotation @ x_volume` with RELION's ZYZ angles (rot, tilt, psi); checked against relion_project.
"""

import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor


def euler_to_matrix(angles: Float[Tensor, "image 3"]) -> Float[Tensor, "image 3 3"]:
    """Matrices of (rot, tilt, psi) in radians: R = Rz(-psi) Ry(-tilt) Rz(-rot) of column vectors."""
    rotation = Rotation.from_euler("ZYZ", angles.double().numpy()).inv()
    return torch.from_numpy(rotation.as_matrix()).to(angles.dtype)


def matrix_to_euler(rotation: Float[Tensor, "image 3 3"]) -> Float[Tensor, "image 3"]:
    """(rot, tilt, psi) in radians, tilt in [0, pi]; where tilt is 0 or pi, psi is 0."""
    # gimbal lock is scipy's warning; the angles that it then gives are right
    angles = Rotation.from_matrix(rotation.double().numpy()).inv().as_euler("ZYZ", suppress_warnings=True)
    return torch.from_numpy(angles).to(rotation.dtype)


def random_rotations(count: int, generator: torch.Generator) -> Float[Tensor, "image 3 3"]:
    """Uniform over all orientations, in float64: unit quaternions of normal deviates."""
    quaternions = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return torch.from_numpy(Rotation.from_quat(quaternions.numpy()).as_matrix())
