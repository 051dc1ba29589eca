"""Encoders: from what is seen of a particle to its latent vector.

`gradient` reads the pooled gradient of the particle's loss at the neutral mixture (fit.gradients; e2gmm: Chen & Ludtke
2021). `image` reads the image, after it was brought into the molecule's frame (`ImageSampler`): the pixels of one
conformation in two views have nothing in common, so that a network which reads pixels must learn every view anew.
`both` reads both. Either way each number that enters belongs to a place in the molecule, whatever the view.

A linear part stands beside the perceptron. It starts as the principal components of what is read, scaled to unit
variance, while the perceptron starts at zero: training begins from latents that carry what varies most, instead of
from a point where every particle looks the same and nothing can be learnt. Samples of images start as well as
gradients do, since both are linear in small changes of the molecule.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional

from gaussemble.model.networks import Perceptron
from gaussemble.physics.fourier import axis_frequencies, pad_transform, to_real
from gaussemble.physics.projection import project
from gaussemble.physics.rings import ring_multiplicity
from gaussemble.quantities import Mixture

EncoderKind = Literal["gradient", "image", "both"]
MOST_POINTS = 1000  # of an image encoder; more cost time in every step
UNCERTAIN, QUICK = 0.3, 5.0  # the deviation at the start, and how much quicker than weights its logarithm is learnt
VIEW = 7  # numbers that say from where, and how strongly, a particle was seen


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


@dataclass(frozen=True)
class EncoderDesign:
    """What an encoder is made of."""

    kind: EncoderKind | Literal["none"]  # none: of a model whose latents are found without, as poses are
    inputs: int  # columns of the pooled gradient; 0 for `image`
    points: int  # places where images are sampled; 0 for `gradient`
    spacing: float  # Å between them
    hidden: int
    layers: int
    dropout: float

    @property
    def reads_images(self) -> bool:
        """Whether evidence must hold images."""
        return self.kind in ("image", "both")


NO_ENCODER = EncoderDesign("none", inputs=1, points=0, spacing=1.0, hidden=1, layers=1, dropout=0.0)


def sampling_points(
    center: Float[Tensor, "gaussian 3"], resolution: float, most: int = MOST_POINTS
) -> tuple[Float[Tensor, "point 3"], float]:
    """A cubic grid on and round the Gaussians that may vary, and its spacing in Å.

    The spacing is the data's finest detail, or as much wider as keeps the points at most `most`; the grid goes one
    spacing beyond the centres, for what moves outwards.
    """
    spacing = resolution
    while len(points := _grid_round(center, spacing)) > most:
        spacing *= 1.1
    return points, spacing


def _grid_round(center: Float[Tensor, "gaussian 3"], spacing: float) -> Float[Tensor, "point 3"]:
    """The points of a cubic grid, centred on the Gaussians, that lie within one spacing of one of them."""
    middle = center.mean(0)
    reach = math.ceil(float((center - middle).abs().max()) / spacing) + 1
    steps = spacing * torch.arange(-reach, reach + 1, dtype=center.dtype)
    grid = middle + torch.cartesian_prod(steps, steps, steps)
    near = torch.cat([torch.cdist(part, center).amin(1) <= spacing for part in grid.split(4096)])
    return grid[near]


def back_projected(
    residual: Complex[Tensor, "image y half_x"],
    transfer: Float[Tensor, "image y half_x"],
    place: Float[Tensor, "image point 2"],
    width: float,
    field: float,
) -> Float[Tensor, "image point"]:
    """How much the log-likelihood rises for amplitude at each place (x, y) in Å, over its standard deviation by noise.

    For a Gaussian g of standard deviation `width` at u, with T the transfer and r the whitened residual,

        d log p / da = Re sum_k T(k) g(k) exp(2 pi i k.u) r(k),    variance by noise sum_k T(k)² g(k)²:

    the residual with its phases flipped, weighted by what the microscope let through, and smoothed. It is sampled from
    a transform on pixels half as large, by cubic interpolation.
    """
    box = residual.shape[-2]
    frequency_y, frequency_x = axis_frequencies(box, field / box, transfer.dtype, transfer.device)
    weight = transfer * torch.exp(-2 * (math.pi * width) ** 2 * (frequency_y[:, None].square() + frequency_x.square()))
    image = (
        to_real(pad_transform(weight * residual / ring_multiplicity(box).to(weight), 2 * box), 2 * box) * (2 * box) ** 2
    )
    pixel = box + place * (2 * box / field)
    grid = 2 * pixel / (2 * box - 1) - 1  # grid_sample counts from -1 at the first pixel's centre to 1 at the last's
    sampled = functional.grid_sample(image[:, None], grid[:, None], mode="bicubic", align_corners=True)[:, 0, 0]
    return sampled / weight.square().sum((-2, -1)).clamp(min=1e-12).sqrt()[:, None]


class ImageSampler(nn.Module):
    """Images as numbers at places in the molecule: what the neutral mixture leaves, back-projected to a grid of points.

    A point p is seen at (R p)_xy in the view R, so each number belongs to the same place of the molecule in all views;
    those that lie on one ray of a view share its value, as they should: the view cannot tell them apart. Turning the
    molecule and its poses together changes nothing. The neutral mixture's projection is subtracted since it is what
    differs between views without any motion.
    """

    points: Tensor

    def __init__(self, points: int, spacing: float, neutral: Mixture, field: float):
        """`points`: how many; 0 until they are set or read with the weights. `field`: Å, edge of the field of view."""
        super().__init__()
        self.width, self.field = spacing / 2, field
        self.register_buffer("points", torch.zeros(points, 3))
        for name, part in (("center", neutral.center), ("amplitude", neutral.amplitude), ("spread", neutral.width)):
            self.register_buffer(name, part.clone(), persistent=False)

    def forward(self, evidence: Evidence) -> Float[Tensor, "image point"]:
        """Samples of each image, of unit variance under noise alone."""
        box = evidence.image.shape[-2]
        neutral = Mixture(self.center, self.amplitude, self.spread)  # type: ignore[arg-type]
        predicted = project(neutral, evidence.rotation, box, self.field / box)
        place = self.points @ evidence.rotation[:, :2].mT
        return back_projected(
            evidence.image - evidence.transfer * predicted, evidence.transfer, place, self.width, self.field
        )


def view(evidence: Evidence) -> Float[Tensor, "image view"]:
    """From where a particle was seen, and how strongly.

    The products of the viewing direction's components, since a view and the opposite one are mirror images and say the
    same, and the logarithm of the transfer's power (signal over noise), about its mean in a batch's usual range.
    """
    direction = evidence.rotation[:, 2]
    products = (direction[:, :, None] * direction[:, None, :])[:, *torch.triu_indices(3, 3)]
    strength = evidence.transfer.square().sum((-2, -1)).clamp(min=1e-12).log()
    return torch.cat([products, strength[:, None]], dim=-1)


class Encoder(nn.Module):
    """latent = linear(read) + perceptron(read, view); `read` are gradients, samples of images, or both, scaled."""

    scale: Tensor
    view_mean: Tensor
    view_scale: Tensor

    def __init__(self, design: EncoderDesign, latent_dim: int, neutral: Mixture, field: float):
        """`neutral`: the mixture at rest; `field`: Å, edge of the field of view."""
        super().__init__()
        self.design = design
        self.sampler = ImageSampler(design.points, design.spacing, neutral, field) if design.reads_images else None
        read, seen = design.inputs + design.points, VIEW * design.reads_images
        self.register_buffer("scale", torch.ones(read))
        self.register_buffer("view_mean", torch.zeros(seen))
        self.register_buffer("view_scale", torch.ones(seen))
        self.linear = nn.Linear(read, latent_dim)
        self.perceptron = Perceptron(
            read + seen, latent_dim, design.hidden, design.layers, design.dropout
        ).start_at_zero()
        self.uncertainty = nn.Parameter(torch.full((latent_dim,), math.log(UNCERTAIN) / QUICK))

    @property
    def deviation(self) -> Float[Tensor, " latent"]:
        """What a particle's latent is uncertain by along each axis, the same for all: learnt with the rest."""
        return torch.exp(QUICK * self.uncertainty)

    @property
    def reads_images(self) -> bool:
        """Whether evidence must hold images."""
        return self.design.reads_images

    def read(self, evidence: Evidence) -> Float[Tensor, "image read"]:
        """What enters the linear part, before scaling."""
        samples = [] if self.sampler is None else [self.sampler(evidence)]
        return torch.cat([evidence.gradient, *samples], dim=-1)

    def forward(self, evidence: Evidence) -> Float[Tensor, "image latent"]:
        """Latent vectors of particles."""
        scaled = self.read(evidence) / self.scale
        seen = [(view(evidence) - self.view_mean) / self.view_scale] if self.reads_images else []
        return self.linear(scaled) + self.perceptron(torch.cat([scaled, *seen], dim=-1))

    @torch.no_grad()
    def start_at_components(self, blocks: Iterable[Evidence]) -> None:
        """Scale what is read by its deviation over some particles and start at its leading principal components."""
        read, seen = Moments(), Moments()
        for evidence in blocks:
            read.add(self.read(evidence))
            if self.reads_images:
                seen.add(view(evidence))
        deviation = read.deviation
        self.scale.copy_(deviation)
        if self.reads_images:
            self.view_mean.copy_(seen.mean)
            self.view_scale.copy_(seen.deviation)
        weight = principal_axes(read.covariance / deviation / deviation[:, None], self.linear.out_features)
        self.linear.weight.copy_(weight)
        self.linear.bias.copy_(-weight @ (read.mean / deviation))


class Moments:
    """Mean and covariance of rows that come in blocks, in float64; blocks are not kept."""

    def __init__(self):
        self.count, self.origin, self.sum, self.square = 0, torch.zeros(()), torch.zeros(()), torch.zeros(())

    def add(self, rows: Float[Tensor, "row column"]) -> None:
        """Count a block; sums are taken from the first block's mean, so that a large mean costs no digits."""
        rows = rows.cpu().double()
        if self.count == 0:
            self.origin = rows.mean(0)
        rows = rows - self.origin
        self.count, self.sum, self.square = self.count + len(rows), self.sum + rows.sum(0), self.square + rows.T @ rows

    @property
    def mean(self) -> Float[Tensor, " column"]:
        """Of all rows."""
        return self.origin + self.sum / self.count

    @property
    def covariance(self) -> Float[Tensor, "column column"]:
        """Of all rows."""
        offset = self.sum / self.count
        return self.square / self.count - offset[:, None] * offset

    @property
    def deviation(self) -> Float[Tensor, " column"]:
        """Standard deviation of each column; of one that never changes, a trifle of its mean."""
        return self.covariance.diagonal().clamp(min=0).sqrt().maximum(1e-6 * self.mean.abs()).clamp(min=1e-12)


def principal_axes(correlation: Float[Tensor, "read read"], count: int) -> Float[Tensor, "latent read"]:
    """Weights that give the leading components unit variance; rows of zeros where there are fewer."""
    variance, axes = torch.linalg.eigh(correlation)
    weight = correlation.new_zeros(count, len(correlation))
    found = min(count, len(variance))
    weight[:found] = (axes[:, -found:] / variance[-found:].clamp(min=1e-6).sqrt()).T.flip(0)
    return weight


class GaussianEncoder(nn.Module):
    """A vector for each Gaussian from what it is: the second encoder of GaussianEM, beside the one of images.

    A perceptron of the position (in radii of the region), the logarithms of amplitude (its sign left out) and width
    (in deviations), with a normalised output: neighbours begin alike and stay alike, since they share the perceptron;
    vectors that are learnt for each Gaussian by itself (the feature decoder's own) are freer. It sees no image.
    """

    described: Tensor

    def __init__(self, gaussians: int, embedding: int, hidden: int = 128, layers: int = 3):
        super().__init__()
        self.register_buffer("described", torch.zeros(gaussians, 5))
        self.perceptron = Perceptron(5, embedding, hidden, layers)
        self.normalise = nn.LayerNorm(embedding)

    @torch.no_grad()
    def start_at(self, region: Mixture) -> None:
        """Take the Gaussians that are described."""
        offset = region.center - region.center.mean(0)
        position = offset / offset.square().sum(-1).mean().sqrt().clamp(min=1e-6)
        logarithms = torch.stack([region.amplitude.abs().clamp(min=1e-12).log(), region.width.log()], dim=-1)
        spread = logarithms.std(0, correction=0).clamp(min=1e-6)
        self.described.copy_(torch.cat([position, (logarithms - logarithms.mean(0)) / spread], dim=-1))

    def forward(self) -> Float[Tensor, "gaussian embedding"]:
        """The Gaussians' vectors."""
        return self.normalise(self.perceptron(self.described))
