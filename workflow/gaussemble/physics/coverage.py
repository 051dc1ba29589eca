"""How evenly views fill Fourier space, which half-map FSC cannot see: what no half has seen, both lack alike.

A view fills the central slice across its axis, so a direction of Fourier space is seen by the views whose axes are
perpendicular to it. How often each direction is seen bounds what the map can be (Baldwin & Lyumkis 2020, Prog. Biophys.
Mol. Biol. 150, 160-183).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaussemble.physics.symmetry import operators

VIEWS = 50_000  # at most; more say nothing new
BLOCK = 4096


@dataclass(frozen=True)
class Coverage:
    """What a set of views leaves of Fourier space."""

    unseen: float  # fraction of the directions that no view has seen
    efficiency: float  # sampling compensation factor: 1 for even views, 0.81 for side views alone


def sphere_directions(count: int) -> Float[Tensor, "direction 3"]:
    """Unit vectors evenly over the half sphere z > 0 (a spiral by the golden angle); their opposites are the same."""
    number = torch.arange(count, dtype=torch.float64)
    height = 1 - (number + 0.5) / count
    azimuth = number * torch.pi * (3 - 5**0.5)
    radius = (1 - height.square()).sqrt()
    return torch.stack([radius * azimuth.cos(), radius * azimuth.sin(), height], dim=-1)


def view_axes(rotation: Float[Tensor, "image 3 3"], symmetry: str = "C1") -> Float[Tensor, "view 3"]:
    """In the volume's frame, the axes along which images and their symmetric copies look; some only of very many."""
    group = operators(symmetry)
    most = max(1, VIEWS // len(group))
    rows = torch.linspace(0, len(rotation) - 1, min(most, len(rotation))).round().long()
    return (rotation[rows, 2].double()[:, None, None] @ group).flatten(end_dim=2)


def count_views(
    axes: Float[Tensor, "view 3"], directions: Float[Tensor, "direction 3"], shell: float
) -> Int[Tensor, " direction"]:
    """How many slices, one voxel thick, pass through the point of a shell (radius in voxels) in each direction."""
    blocks = axes.split(BLOCK)
    return torch.stack([((block @ directions.T).abs() < 0.5 / shell).sum(0) for block in blocks]).sum(0)


def coverage(
    rotation: Float[Tensor, "image 3 3"], shell: float, symmetry: str = "C1", directions: int = 500
) -> Coverage:
    """How evenly images of these orientations fill a shell.

    Args:
        rotation: `x_view = rotation @ x_volume`.
        shell: radius in voxels, at least 1; of the resolution, say.
        symmetry: of the molecule; its copies of a view count.
        directions: on the half sphere.

    Returns:
        `efficiency` is the harmonic mean over the mean of the counts of the directions that are seen.
    """
    counts = count_views(view_axes(rotation, symmetry), sphere_directions(directions), max(shell, 1.0)).double()
    seen = counts[counts > 0]
    if not len(seen):
        return Coverage(1.0, 0.0)
    return Coverage(1 - len(seen) / directions, float(1 / (seen.reciprocal().mean() * seen.mean())))
