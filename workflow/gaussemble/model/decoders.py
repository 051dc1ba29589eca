"""Decoders: from a latent vector to changes of the neutral mixture's Gaussians in a region.

`dense` gives each Gaussian its own output. `hierarchical` gives outputs to a few anchors, which drive the Gaussians
through a transition matrix exp(-50 D²) (Chen, Toader & Lederman 2023), here with rows normalised to 1 so that a
Gaussian far from every anchor follows its nearest ones instead of standing still; the matrix may be trained later.
`features` is one network for all Gaussians, which reads the latent vector and a vector of each Gaussian: learned for
each (CryoSPIRE), or from a second encoder that sees what the Gaussian is (GaussianEM). `rigid` moves domains as bodies
(`model.rigid`). `pose` moves one domain, and its latent vector is the pose itself (`model.pose`).

Outputs are dimensionless; a `Decoder` turns those for positions into Å. Outputs of several decoders are summed.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional

from gaussemble.model.encoders import GaussianEncoder
from gaussemble.model.networks import Perceptron
from gaussemble.model.pose import PoseDecoder
from gaussemble.model.rigid import RigidDecoder
from gaussemble.quantities import Mixture

DecoderKind = Literal["dense", "hierarchical", "rigid", "features", "pose"]
WITH_DOMAINS = ("rigid", "pose")
Vectors = Literal["learned", "encoded"]
REACH = 0.1  # of the field of view: exp(-50 D²) is a Gaussian of this standard deviation


@dataclass(frozen=True)
class DecoderDesign:
    """What one decoder is made of."""

    name: str
    kind: DecoderKind
    gaussians: int  # in its region
    position: bool  # which of their parameters vary
    amplitude: bool
    width: bool
    length: float  # Å of movement for an output of 1
    hidden: int
    layers: int
    dropout: float
    anchors: int = 0  # hierarchical: how many
    domains: int = 0  # rigid, pose: how many
    embedding: int = 0  # features: length of a Gaussian's vector
    vectors: Vectors = "learned"  # features

    @property
    def channels(self) -> int:
        """Outputs a Gaussian."""
        return 3 * self.position + self.amplitude + self.width


def anchor_positions(
    center: Float[Tensor, "gaussian 3"], weight: Float[Tensor, " gaussian"], count: int, seed: int
) -> Float[Tensor, "anchor 3"]:
    """Centres of k-means over the Gaussians, weighted by their amplitudes (negative ones: hardly)."""
    means = KMeans(min(count, len(center)), n_init="auto", random_state=seed)
    means.fit(center.numpy(), sample_weight=weight.clamp(min=1e-12).numpy())
    return torch.from_numpy(means.cluster_centers_).to(center.dtype)


def transition_matrix(
    center: Float[Tensor, "gaussian 3"], anchor: Float[Tensor, "anchor 3"], field: float
) -> Float[Tensor, "gaussian anchor"]:
    """exp(-50 D²), rows summing to 1; D is the distance as a fraction of the field of view (Å)."""
    return torch.softmax(-50 * (torch.cdist(center, anchor) / field).square(), dim=-1)


def embedded_positions(
    center: Float[Tensor, "gaussian 3"], length: int, field: float, seed: int
) -> Float[Tensor, "gaussian embedding"]:
    """Random waves at the centres, whose scalar products are about exp(-50 D²) as in `transition_matrix`.

    Neighbours begin alike, so that they move alike before each learns its own vector (random Fourier features: Rahimi
    & Recht 2007).
    """
    generator = torch.Generator().manual_seed(seed)
    waves = torch.randn(3, length, generator=generator).to(center) / (REACH * field)
    phase = 2 * math.pi * torch.rand(length, generator=generator).to(center)
    return math.sqrt(2) * torch.cos((center - center.mean(0)) @ waves + phase)


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

    def __init__(
        self, latent_dim: int, gaussians: int, anchors: int, channels: int, hidden: int, layers: int, dropout: float
    ):
        super().__init__()
        anchors = min(anchors, gaussians)
        self.transition = nn.Parameter(torch.zeros(gaussians, anchors), requires_grad=False)
        self.anchors = DenseDecoder(latent_dim, anchors, channels, hidden, layers, dropout)

    @torch.no_grad()
    def start_at(self, region: Mixture, field: float, seed: int) -> None:
        """Place the anchors by k-means; a transition matrix of distances."""
        anchor = anchor_positions(region.center, region.amplitude, self.transition.shape[1], seed)
        self.transition.copy_(transition_matrix(region.center, anchor, field))

    def forward(self, latent: Float[Tensor, "image latent"]) -> Float[Tensor, "image gaussian channel"]:
        """Changes of every Gaussian for each latent vector, dimensionless."""
        return self.transition @ self.anchors(latent)


class LearnedVectors(nn.Module):
    """A vector for each Gaussian, a parameter itself; where the Gaussian is, at first."""

    def __init__(self, gaussians: int, embedding: int):
        super().__init__()
        self.values = nn.Parameter(torch.zeros(gaussians, embedding))

    @torch.no_grad()
    def start_at(self, region: Mixture, field: float, seed: int) -> None:
        """Waves at the Gaussians' places."""
        self.values.copy_(embedded_positions(region.center, self.values.shape[1], field, seed))

    def forward(self) -> Float[Tensor, "gaussian embedding"]:
        """The vectors."""
        return self.values


class FeatureDecoder(nn.Module):
    """One perceptron for all Gaussians, of the latent vector and of each Gaussian's own vector.

    The first layer is a sum of a part that depends on the image and one that depends on the Gaussian, so each is
    computed once.
    """

    def __init__(self, latent_dim: int, design: DecoderDesign):
        super().__init__()
        encoded, hidden = design.vectors == "encoded", design.hidden
        vectors = GaussianEncoder if encoded else LearnedVectors
        self.vectors = vectors(design.gaussians, design.embedding)
        self.of_latent = nn.Linear(latent_dim, hidden)
        self.of_vector = nn.Linear(design.embedding, hidden, bias=False)
        self.network = Perceptron(hidden, design.channels, hidden, design.layers - 1, design.dropout).start_at_zero()

    def start_at(self, region: Mixture, field: float, seed: int) -> None:
        """Vectors that say where the Gaussians are, or what."""
        if isinstance(self.vectors, GaussianEncoder):
            self.vectors.start_at(region)
        else:
            self.vectors.start_at(region, field, seed)

    def forward(self, latent: Float[Tensor, "image latent"]) -> Float[Tensor, "image gaussian channel"]:
        """Changes of every Gaussian for each latent vector, dimensionless."""
        both = self.of_latent(latent)[:, None] + self.of_vector(self.vectors())
        return self.network(functional.silu(both))


Network = DenseDecoder | HierarchicalDecoder | FeatureDecoder | RigidDecoder | PoseDecoder


def make_network(design: DecoderDesign, latent_dim: int) -> Network:
    """The network of a design, which knows nothing yet of where its Gaussians are."""
    sizes = (design.hidden, design.layers, design.dropout)
    if design.kind == "hierarchical":
        return HierarchicalDecoder(latent_dim, design.gaussians, design.anchors, design.channels, *sizes)
    if design.kind == "features":
        return FeatureDecoder(latent_dim, design)
    if design.kind == "pose":
        return PoseDecoder(design.gaussians, design.length)
    if design.kind == "rigid":
        return RigidDecoder(latent_dim, design.gaussians, design.domains, *sizes)
    return DenseDecoder(latent_dim, design.gaussians, design.channels, *sizes)


class Decoder(nn.Module):
    """One of a model's decoders: which Gaussians it changes, and how."""

    rows: Tensor

    def __init__(self, design: DecoderDesign, latent_dim: int):
        super().__init__()
        self.design = design
        self.register_buffer("rows", torch.zeros(design.gaussians, dtype=torch.long))
        self.network = make_network(design, latent_dim)

    @torch.no_grad()
    def start_at(self, neutral: Mixture, domain: Int[Tensor, " gaussian"], field: float, seed: int) -> None:
        """Take the Gaussians where `domain` is not -1; it is the number of the domain where the decoder is rigid."""
        rows = torch.nonzero(domain >= 0).flatten()
        self.rows.copy_(rows)
        region = neutral.select(rows)
        if isinstance(self.network, RigidDecoder):
            self.network.start_at(region, domain[rows], self.design.length)
        elif isinstance(self.network, PoseDecoder):
            self.network.start_at(region)
        elif not isinstance(self.network, DenseDecoder):
            self.network.start_at(region, field, seed)

    def forward(self, latent: Float[Tensor, "image latent"]) -> dict[str, Float[Tensor, "image chosen *axis"]]:
        """Changes of the Gaussians `rows`: `position` in Å, `amplitude` and `width` as outputs; those that vary."""
        output, design = self.network(latent), self.design
        changes = {"position": design.length * output[..., :3]} if design.position else {}
        if design.amplitude:
            changes["amplitude"] = output[..., 3 * design.position]
        if design.width:
            changes["width"] = output[..., -1]
        return changes

    def transitions(self) -> list[nn.Parameter]:
        """The transition matrix, where there is one."""
        return [self.network.transition] if isinstance(self.network, HierarchicalDecoder) else []
