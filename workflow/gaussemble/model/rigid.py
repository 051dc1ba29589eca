"""Rigid motion of domains: six numbers a domain, a rotation vector and a translation, about its centre of mass.

A domain's Gaussians keep their distances whatever the latent vector (Chen, Toader & Lederman 2023). Widths are
isotropic, so a rotation leaves them as they are.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gaussemble.model.networks import Perceptron
from gaussemble.quantities import Mixture

LEAST_RADIUS = 0.1  # of a domain, in units of the decoder's length: a single Gaussian has none


class RigidDecoder(nn.Module):
    """A perceptron with six outputs for each domain: rotation vector and translation."""

    offset: Tensor
    domain: Tensor
    turn: Tensor

    def __init__(self, latent_dim: int, gaussians: int, domains: int, hidden: int, layers: int, dropout: float):
        super().__init__()
        self.register_buffer("offset", torch.zeros(gaussians, 3))  # from the domain's centre, in units of the length
        self.register_buffer("domain", torch.zeros(gaussians, dtype=torch.long))
        self.register_buffer("turn", torch.ones(domains))  # radians for an output of 1
        self.network = Perceptron(latent_dim, 6 * domains, hidden, layers, dropout).start_at_zero()

    @torch.no_grad()
    def start_at(self, region: Mixture, domain: Int[Tensor, " gaussian"], length: float) -> None:
        """Take the domains' centres of mass, and their radii of gyration: a turn of 1 is `length` Å at the radius."""
        self.domain.copy_(domain)
        weight = region.amplitude.clamp(min=1e-12)
        for number in range(len(self.turn)):
            own = domain == number
            share = (weight[own] / weight[own].sum())[:, None]
            offset = (region.center[own] - (share * region.center[own]).sum(0)) / length
            self.offset[own] = offset
            self.turn[number] = 1 / (share * offset.square()).sum().sqrt().clamp(min=LEAST_RADIUS)

    def motion(self, latent: Float[Tensor, "image latent"]) -> tuple[Tensor, Tensor]:
        """Rotation vectors (radians) and translations (units of the length), both (image, domain, 3)."""
        rotation, translation = self.network(latent).unflatten(-1, (-1, 2, 3)).unbind(-2)
        return rotation * self.turn[:, None], translation

    def forward(self, latent: Float[Tensor, "image latent"]) -> Float[Tensor, "image gaussian 3"]:
        """Displacements, in units of the length."""
        rotation, translation = (part[:, self.domain] for part in self.motion(latent))
        return rotation_change(rotation, self.offset) + translation


def rotation_change(
    vector: Float[Tensor, "image gaussian 3"], offset: Float[Tensor, "gaussian 3"]
) -> Float[Tensor, "image gaussian 3"]:
    """(R - 1) x for the right-handed rotation by t = |v| radians about v, by Rodrigues' formula.

    sin t / t  v × x + (1 - cos t) / t²  v × (v × x): both factors are smooth functions of t², also at 0.
    """
    squared = vector.square().sum(-1, keepdim=True)
    across = torch.linalg.cross(vector, offset.expand_as(vector))
    twice = torch.linalg.cross(vector, across)
    return sine_ratio(squared) * across + 0.5 * sine_ratio(squared / 4).square() * twice


def sine_ratio(squared: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The function sin t / t of t²; below t = 0.1 by its series, whose next term is 1e-14 there."""
    small = squared < 0.01
    series = 1 - squared / 6 * (1 - squared / 20 * (1 - squared / 42))
    root = torch.where(small, 1.0, squared).sqrt()
    return torch.where(small, series, torch.sin(root) / root)
