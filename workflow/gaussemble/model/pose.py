"""A rigid domain whose latent vector is its pose: twelve displacements, in Å, and no network.

They are how far the domain's centre of mass is shifted, and how far the ends of its three principal axes, each one
radius of gyration long, are turned. So the distance between two latents is the root-mean-square displacement of the
domain's density between the poses, the mean of latents is that of displacements, and nothing jumps where a rotation
reaches half a turn, as a rotation vector does.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gaussemble.physics.beads import center_of_mass
from gaussemble.quantities import Mixture

POSE = 12  # numbers of a latent vector
LEAST_RADIUS = 1.0  # Å of gyration along an axis: a domain of one Gaussian or of a line has none


class PoseDecoder(nn.Module):
    """From displacements to the nearest rigid motion, and back."""

    offset: Tensor
    axes: Tensor

    def __init__(self, gaussians: int, length: float):
        super().__init__()
        self.length = length
        self.register_buffer("offset", torch.zeros(gaussians, 3))  # Å from the domain's centre of mass
        self.register_buffer("axes", torch.eye(3))  # columns: the principal axes as long as their radii of gyration, Å

    @torch.no_grad()
    def start_at(self, region: Mixture) -> None:
        """Take the domain's Gaussians."""
        weight = region.amplitude.abs().clamp(min=1e-12)
        offset = region.center - center_of_mass(region)
        square, direction = torch.linalg.eigh((offset.mT * (weight / weight.sum())) @ offset)
        self.offset.copy_(offset)
        self.axes.copy_(direction * square.clamp(min=LEAST_RADIUS**2).sqrt())

    def latent(
        self, rotation: Float[Tensor, "pose 3 3"], shift: Float[Tensor, "pose 3"]
    ) -> Float[Tensor, "pose latent"]:
        """Latent vectors of poses: the domain turned about its centre of mass, then shifted (Å)."""
        turned = (rotation - torch.eye(3).to(rotation)) @ self.axes.to(rotation)
        return torch.cat([shift, turned.flatten(start_dim=1)], dim=1)

    def pose(self, latent: Float[Tensor, "image latent"]) -> tuple[Tensor, Tensor]:
        """Rotations (image, 3, 3) and shifts (image, 3) in Å, of the least squares of what the latents displace.

        The rotation of the greatest trace of R' D A', with D the displaced axes and A those at rest (Kabsch 1976).
        """
        displaced = latent[:, 3:].unflatten(1, (3, 3)) + self.axes
        left, _, right = torch.linalg.svd(displaced @ self.axes.mT)
        proper = torch.ones_like(latent[:, :3])
        proper[:, 2] = torch.linalg.det(left @ right)
        return (left * proper[:, None]) @ right, latent[:, :3]

    def forward(self, latent: Float[Tensor, "image latent"]) -> Float[Tensor, "image gaussian 3"]:
        """Displacements, in units of the decoder's length."""
        rotation, shift = self.pose(latent)
        return (self.offset @ rotation.mT - self.offset + shift[:, None]) / self.length
