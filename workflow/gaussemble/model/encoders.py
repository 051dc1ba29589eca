"""The encoder: from the gradient of a particle's loss to its latent vector.

A linear part stands beside the perceptron. It starts as the principal components of the inputs, scaled to unit
variance, while the perceptron starts at zero: training begins from latents that carry what varies most, instead of
from a point where every particle looks the same and nothing can be learnt.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gaussemble.model.networks import Perceptron


class GradientEncoder(nn.Module):
    """latent = linear(inputs / scale) + perceptron(inputs / scale)."""

    scale: Tensor

    def __init__(self, inputs: int, latent_dim: int, hidden: int, layers: int, dropout: float):
        super().__init__()
        self.register_buffer("scale", torch.ones(inputs))
        self.linear = nn.Linear(inputs, latent_dim)
        self.perceptron = Perceptron(inputs, latent_dim, hidden, layers, dropout).start_at_zero()

    def forward(self, inputs: Float[Tensor, "image input"]) -> Float[Tensor, "image latent"]:
        """Latent vectors of particles."""
        scaled = inputs / self.scale
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
