"""A mixture as what is fitted: changes of the seeds, free or given by a decoder at latent 0, copied by symmetry."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from gaussemble.model.decoders import DenseDecoder
from gaussemble.quantities import Mixture

Form = Literal["direct", "decoder"]
CHANNELS = 5  # x, y, z, amplitude, width
LATENT, HIDDEN = 4, 32  # of the decoder: at latent 0 it has one output, which any size can give
LEAST = 0.05  # a seed's amplitude over the mean, its width beyond the smallest over that: softplus cannot start at 0


class FreeChange(nn.Module):
    """Changes that are parameters themselves."""

    def __init__(self, gaussians: int):
        super().__init__()
        self.values = nn.Parameter(torch.zeros(gaussians, CHANNELS))

    def forward(self) -> Float[Tensor, "gaussian channel"]:
        """The changes as they stand, dimensionless."""
        return self.values

    @torch.no_grad()
    def start_at(self, values: Float[Tensor, "gaussian channel"]) -> None:
        """Make these the changes."""
        self.values.copy_(values)


class DecodedChange(nn.Module):
    """Changes that a small network gives at latent 0; they start at zero (method of Chen & Ludtke 2021).

    The steps of all weights of a Gaussian's output add up, so the output is divided by their number.
    """

    latent: Tensor

    def __init__(self, gaussians: int):
        super().__init__()
        self.decoder = DenseDecoder(LATENT, gaussians, CHANNELS, HIDDEN, layers=1, dropout=0.0)
        self.register_buffer("latent", torch.zeros(1, LATENT))

    def forward(self) -> Float[Tensor, "gaussian channel"]:
        """The decoder's output at latent 0, dimensionless."""
        return self.decoder(self.latent)[0] / self._gain()

    @torch.no_grad()
    def start_at(self, values: Float[Tensor, "gaussian channel"]) -> None:
        """Make these the changes, by the last layer's constants."""
        rest = self.decoder(self.latent)[0]
        self.decoder.network.head.bias += (self._gain() * values - rest).flatten()

    @torch.no_grad()
    def _gain(self) -> Float[Tensor, ""]:
        return 1 + self.decoder.network.body(self.latent).abs().sum()


CHANGES: dict[Form, type[FreeChange] | type[DecodedChange]] = {"direct": FreeChange, "decoder": DecodedChange}


class MixtureParameters(nn.Module):
    """A mixture near its seed: positions within reach of the seed's, amplitudes of its sign, widths positive.

    Args:
        seed: the Gaussians (of the asymmetric unit) where the fit starts; one of no amplitude is positive.
        max_move: Å, farthest from the seed along each axis.
        pixel_size: Å; a change of 1 moves or widens a Gaussian by this much.
        operators: rotations whose copies of the Gaussians make up the mixture, the identity first; None: no symmetry.
        form: `direct` or `decoder`.
        widest: Å, of Gaussians whose seeds are not wider; one of enormous width makes the projection of all slow.
    """

    seed_center: Tensor
    seed_amplitude: Tensor
    seed_width: Tensor
    sign: Tensor
    widest: Tensor
    unit: Tensor
    operators: Tensor

    def __init__(
        self,
        seed: Mixture,
        max_move: float,
        pixel_size: float,
        operators: Float[Tensor, "operator 3 3"] | None = None,
        form: Form = "direct",
        widest: float = math.inf,
    ):
        super().__init__()
        self.max_move, self.pixel_size = max_move, pixel_size
        # narrower ones look alike inside Nyquist and only cost
        self.smallest_width = 0.5 * pixel_size
        self.change = CHANGES[form](len(seed))
        mean = seed.amplitude.abs().mean().clamp(min=1e-12)
        beyond = (seed.width / self.smallest_width - 1).clamp(min=LEAST)
        self.register_buffer("unit", mean)
        self.register_buffer("sign", torch.where(seed.amplitude < 0, -1.0, 1.0))
        self.register_buffer("seed_center", seed.center.clone())
        self.register_buffer("seed_amplitude", _inverse_softplus((seed.amplitude.abs() / mean).clamp(min=LEAST)))
        self.register_buffer("seed_width", _inverse_softplus(self.smallest_width * beyond))
        self.register_buffer("widest", seed.width.clamp(min=widest))
        self.register_buffer("operators", torch.eye(3)[None] if operators is None else operators.to(seed.center))

    def forward(self) -> Mixture:
        """The whole mixture as it stands."""
        return copied(self.unique(), self.operators)

    def unique(self) -> Mixture:
        """The Gaussians of the asymmetric unit, in the seed's order."""
        move, amplitude, width = self.change().split([3, 1, 1], dim=-1)
        move = self.max_move * torch.tanh(self.pixel_size * move / self.max_move)
        amplitude = self.sign * self.unit * functional.softplus(self.seed_amplitude + 2 * amplitude[:, 0])
        width = self.smallest_width + functional.softplus(self.seed_width + self.pixel_size * width[:, 0])
        return Mixture(self.seed_center + move, amplitude, torch.minimum(width, self.widest))

    @torch.no_grad()
    def start_at(self, mixture: Mixture) -> None:
        """Stand at these Gaussians (of the asymmetric unit), as far from the seeds as they may."""
        ratio = ((mixture.center - self.seed_center) / self.max_move).clamp(-0.99, 0.99)
        move = self.max_move / self.pixel_size * torch.atanh(ratio)
        amplitude = (
            _inverse_softplus((self.sign * mixture.amplitude / self.unit).clamp(min=LEAST)) - self.seed_amplitude
        ) / 2
        beyond = (mixture.width - self.smallest_width).clamp(min=LEAST * self.smallest_width)
        width = (_inverse_softplus(beyond) - self.seed_width) / self.pixel_size
        self.change.start_at(torch.cat([move, amplitude[:, None], width[:, None]], dim=-1))


def copied(mixture: Mixture, operators: Float[Tensor, "operator 3 3"]) -> Mixture:
    """A mixture and its copies, operator by operator."""
    center = torch.einsum("oij,gj->ogi", operators, mixture.center).flatten(end_dim=1)
    return Mixture(center, mixture.amplitude.repeat(len(operators)), mixture.width.repeat(len(operators)))


def _inverse_softplus(values: Tensor) -> Tensor:
    return values + torch.log(-torch.expm1(-values))
