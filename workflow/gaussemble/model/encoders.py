"""The encoder: from the gradient of a particle's loss to its latent vector.

A linear part stands beside the perceptron. It starts as the principal components of the inputs, scaled to unit
variance, while the perceptron starts at zero: training begins from latents that carry what varies most, instead of
from a point where every particle looks the same and nothing can be learnt.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from gaussemble.model.networks import Perceptron

EncoderKind = Literal["gradient", "image", "both"]


class Evidence(NamedTuple):
    """What an encoder sees of some particles; the last three are those of a fit.band.Batch of the whole band."""

    gradient: Float[Tensor, "image input"]  # pooled (fit.gradients); no columns where the encoder reads images alone
    image: Complex[Tensor, "image y half_x"]  # empty (image, 0, 0), like the transfer, where it reads gradients alone
    transfer: Float[Tensor, "image y half_x"]
    rotation: Float[Tensor, "image 3 3"]


def gradient_evidence(gradient: Float[Tensor, "image input"]) -> Evidence:
    """Evidence without images, for an encoder that reads gradients alone."""
    empty = gradient.new_zeros(len(gradient), 0, 0)
    return Evidence(gradient, empty.to(torch.complex64), empty, gradient.new_zeros(len(gradient), 3, 3))


class GradientEncoder(nn.Module):
    """latent = linear(inputs / scale) + perceptron(inputs / scale)."""

    scale: Tensor

    def __init__(self, inputs: int, latent_dim: int, hidden: int, layers: int, dropout: float):
        super().__init__()
        self.register_buffer("scale", torch.ones(inputs))
        self.linear = nn.Linear(inputs, latent_dim)
        self.perceptron = Perceptron(inputs, latent_dim, hidden, layers, dropout).start_at_zero()

    def forward(self, evidence: Evidence) -> Float[Tensor, "image latent"]:
        """Latent vectors of particles."""
        scaled = evidence.gradient / self.scale
        return self.linear(scaled) + self.perceptron(scaled)

    @torch.no_grad()
    def start_at_components(self, inputs: Float[Tensor, "image input"], sample: int = 20_000) -> None:
        """Scale each input by its standard deviation over the data and start at the leading principal components."""
        chosen = inputs[:: max(1, len(inputs) // sample)]
        self.scale.copy_(chosen.std(0).clamp(min=1e-12))
        scaled = chosen / self.scale.cpu()
        mean, count = scaled.mean(0), self.linear.out_features
        _, singular, axes = torch.linalg.svd(scaled - mean, full_matrices=False)
        weight = torch.zeros(count, inputs.shape[1])
        found = min(count, len(singular))
        deviation = singular[:found] / len(chosen) ** 0.5
        weight[:found] = axes[:found] / deviation.clamp(min=1e-6)[:, None]
        self.linear.weight.copy_(weight)
        self.linear.bias.copy_(-weight @ mean)
