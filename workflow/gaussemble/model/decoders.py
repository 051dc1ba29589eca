"""Decoders: from a latent vector to changes of the neutral mixture's Gaussians.

`dense` gives each Gaussian its own output; `hierarchical` gives outputs to a few anchors, which drive the Gaussians
through a transition matrix exp(-50 D²) (Chen, Toader & Lederman 2023), here with rows normalised to 1 so that a
Gaussian far from every anchor follows its nearest ones instead of standing still. A decoder's output is dimensionless;
`model.heterogeneity` turns it into Å and amplitudes.
"""

from typing import Literal

import torch
from jaxtyping import Float
from sklearn.cluster import KMeans
from torch import Tensor, nn

from gaussemble.model.networks import Perceptron

DecoderKind = Literal["dense", "hierarchical"]


def anchor_positions(
    center: Float[Tensor, "gaussian 3"], weight: Float[Tensor, " gaussian"], count: int, seed: int
) -> Float[Tensor, "anchor 3"]:
    """Centres of k-means over the Gaussians, weighted by their amplitudes; at most as many as Gaussians."""
    means = KMeans(min(count, len(center)), n_init="auto", random_state=seed)
    means.fit(center.numpy(), sample_weight=weight.clamp(min=0).numpy())
    return torch.from_numpy(means.cluster_centers_).to(center.dtype)


def transition_matrix(
    center: Float[Tensor, "gaussian 3"], anchor: Float[Tensor, "anchor 3"], field: float
) -> Float[Tensor, "gaussian anchor"]:
    """exp(-50 D²), rows summing to 1; D is the distance as a fraction of the field of view (Å)."""
    return torch.softmax(-50 * (torch.cdist(center, anchor) / field).square(), dim=-1)


class DenseDecoder(nn.Module):
    """A perceptron with `channels` outputs for each Gaussian."""

    def __init__(self, latent_dim: int, gaussians: int, channels: int, hidden: int, layers: int, dropout: float):
        super().__init__()
        self.channels = channels
        self.network = Perceptron(latent_dim, gaussians * channels, hidden, layers, dropout).start_at_zero()

    def forward(self, latent: Float[Tensor, "image latent"]) -> Float[Tensor, "image gaussian channel"]:
        """Changes of every Gaussian for each latent vector, dimensionless."""
        return self.network(latent).unflatten(-1, (-1, self.channels))


class HierarchicalDecoder(nn.Module):
    """A perceptron with `channels` outputs for each anchor, spread over the Gaussians by the transition matrix."""

    transition: Tensor

    def __init__(self, latent_dim: int, transition: Tensor, channels: int, hidden: int, layers: int, dropout: float):
        super().__init__()
        self.register_buffer("transition", transition)
        self.anchors = DenseDecoder(latent_dim, transition.shape[1], channels, hidden, layers, dropout)

    def forward(self, latent: Float[Tensor, "image latent"]) -> Float[Tensor, "image gaussian channel"]:
        """Changes of every Gaussian for each latent vector, dimensionless."""
        return self.transition @ self.anchors(latent)
