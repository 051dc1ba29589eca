"""The mixture that a latent vector deforms, with the encoder that finds a particle's latent vector.

A file of it holds tensors and plain numbers only and is read without unpickling code.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from gaussemble.errors import InputError
from gaussemble.io.tensors import write_tensors
from gaussemble.model.decoders import Decoder, DecoderDesign, DecoderKind
from gaussemble.model.encoders import Encoder, EncoderDesign, Evidence
from gaussemble.model.pose import PoseDecoder
from gaussemble.quantities import Mixture

FORMAT = 5
SOFTPLUS_ONE = 0.541324854612918  # softplus of it is 1: an output of zero leaves an amplitude as it is

Transition = Literal["fixed", "trainable"]


@dataclass(frozen=True)
class Compared:
    """What of the particles a training compared; whoever asks for likelihoods under its model compares the same."""

    resolution: float  # Å, the finest
    lowest_resolution: float | None = None  # Å, the coarsest; None: all
    contrast: bool = False  # whether each particle's contrast was estimated and divided out


@dataclass(frozen=True)
class Design:
    """What a model is made of; enough, with its weights, to build it again."""

    gaussians: int
    latent_dim: int
    field: float  # Å, edge of the field of view
    encoder: EncoderDesign
    decoders: tuple[DecoderDesign, ...]
    compared: Compared | None = None  # in its training; None: not written down
    landmarks: int = 512  # of the population

    @classmethod
    def of(cls, content: dict[str, Any]) -> "Design":
        """From `dataclasses.asdict` of a design."""
        decoders: Any = tuple(DecoderDesign(**each) for each in content["decoders"])
        compared = content.get("compared") and Compared(**content["compared"])
        parts = {"encoder": EncoderDesign(**content["encoder"]), "decoders": decoders, "compared": compared}
        return cls(**content | parts)


def single_design(
    *,
    gaussians: int,
    latent_dim: int,
    inputs: int,
    hidden: int,
    layers: int,
    dropout: float,
    field: float,
    length: float,
    decoder: DecoderKind = "dense",
    region: int | None = None,
    **changes: Any,
) -> Design:
    """A gradient encoder of `inputs` and one decoder, `main`, of all Gaussians or `region` of them.

    `changes` are more of its `DecoderDesign`.
    """
    own = {"position": True, "amplitude": True, "width": False, "gaussians": region or gaussians} | changes
    main = DecoderDesign(name="main", kind=decoder, length=length, hidden=hidden, layers=layers, dropout=dropout, **own)
    encoder = EncoderDesign("gradient", inputs, 0, 1.0, hidden, layers, dropout)
    return Design(gaussians, latent_dim, field, encoder, (main,))


class DeformableMixture(nn.Module):
    """Encoder and decoders round a neutral mixture; `decode` of any vector starts as the neutral mixture.

    The distribution of latents over all particles is part of it: landmarks, and their shares, which are zero until
    `fit.population` finds them.
    """

    landmark: Tensor
    landmark_share: Tensor
    center: Tensor
    neutral_amplitude: Tensor
    neutral_width: Tensor
    moving: Tensor  # (gaussian,): those that most particles do not have where they are at rest
    rigid_center: Tensor
    rigid_amplitude: Tensor
    rigid_width: Tensor

    def __init__(self, design: Design, neutral: Mixture):
        super().__init__()
        self.design = design
        self.register_buffer("center", neutral.center.clone())
        self.register_buffer("neutral_amplitude", neutral.amplitude.clone())
        self.register_buffer("neutral_width", neutral.width.clone())
        self.register_buffer("moving", torch.zeros(len(neutral.center), dtype=torch.bool))
        for name, none in {"center": torch.zeros(0, 3), "amplitude": torch.zeros(0), "width": torch.zeros(0)}.items():
            self.register_buffer(f"rigid_{name}", none)
        self.encoder = Encoder(design.encoder, design.latent_dim, neutral, design.field)
        self.decoders = nn.ModuleList(Decoder(each, design.latent_dim) for each in design.decoders)
        self.register_buffer("landmark", torch.zeros(design.landmarks, design.latent_dim))
        self.register_buffer("landmark_share", torch.zeros(design.landmarks))
        self.penalties: nn.Module | None = None  # of training; no part of a file

    @property
    def neutral(self) -> Mixture:
        """The mixture before any deformation."""
        return Mixture(self.center, self.neutral_amplitude, self.neutral_width)

    @property
    def rigid(self) -> Mixture | None:
        """The molecule as it looks best if nothing moves; None where that is the neutral mixture."""
        mixture = Mixture(self.rigid_center, self.rigid_amplitude, self.rigid_width)
        return mixture if len(mixture) else None

    def set_rigid(self, mixture: Mixture) -> None:
        """Keep the molecule as it looks best if nothing moves."""
        self.rigid_center, self.rigid_amplitude, self.rigid_width = mixture.center, mixture.amplitude, mixture.width

    @property
    def latent_dim(self) -> int:
        """Length of a latent vector."""
        return self.design.latent_dim

    @property
    def names(self) -> list[str]:
        """The decoders' names."""
        return [each.name for each in self.design.decoders]

    @property
    def poses(self) -> PoseDecoder | None:
        """The decoder whose latent vectors are poses, which is alone; None where a network decodes."""
        return next((each.network for each in self.chosen(None) if isinstance(each.network, PoseDecoder)), None)

    @property
    def varies(self) -> Bool[Tensor, " gaussian"]:
        """The Gaussians that some decoder changes."""
        varies = torch.zeros(len(self.center), dtype=torch.bool, device=self.center.device)
        for decoder in self.chosen(None):
            varies[decoder.rows] = True
        return varies

    def chosen(self, active: Collection[str] | None) -> list[Decoder]:
        """The decoders of these names; all of them if None."""
        return [each for each in self.decoders if active is None or each.design.name in active]  # type: ignore[misc]

    def encode(self, evidence: Evidence) -> Float[Tensor, "image latent"]:
        """Latent vectors of particles from what is seen of them."""
        return self.encoder(evidence)

    def decode(self, latent: Float[Tensor, "image latent"], active: Collection[str] | None = None) -> Mixture:
        """A mixture for each latent vector, by the sum of the active decoders' outputs (all of them if None).

        Positions move by `length` Å per unit of output; amplitudes are multiplied by softplus(output + c), which is 1
        at 0, never negative, and reaches 0 for what is absent; widths are multiplied by exp(output).
        """
        neutral = self.neutral.expand(len(latent))
        center, amplitude, width = neutral.center, neutral.amplitude, neutral.width
        changes = [(decoder.rows, decoder(latent)) for decoder in self.chosen(active)]
        if (move := self._summed(changes, "position")) is not None:
            center = center + move
        if (output := self._summed(changes, "amplitude")) is not None:
            amplitude = amplitude * functional.softplus(output + SOFTPLUS_ONE)
        if (output := self._summed(changes, "width")) is not None:
            width = width * torch.exp(output)
        return Mixture(center, amplitude, width)

    def _summed(self, changes: list[tuple[Tensor, dict[str, Tensor]]], name: str) -> Tensor | None:
        """(image, gaussian, ...): the sum of the decoders' changes of one parameter; None where none changes it."""
        total = None
        for rows, parts in changes:
            if (part := parts.get(name)) is None:
                continue
            if len(rows) < len(self.center):
                whole = part.new_zeros(part.shape[0], len(self.center), *part.shape[2:])
                part = whole.index_add(1, rows, part)
            total = part if total is None else total + part
        return total

    def set_round(self, active: Collection[str] | None, transition: Transition, encoder: bool = True) -> None:
        """Let the active decoders' weights be trained and no others'; the transition matrices and encoder if asked."""
        trained = {id(each) for each in self.chosen(active)}
        self.encoder.requires_grad_(encoder)
        for decoder in self.chosen(None):
            decoder.requires_grad_(id(decoder) in trained)
            for matrix in decoder.transitions():
                matrix.requires_grad_(id(decoder) in trained and transition == "trainable")

    def penalty(self, mixture: Mixture, standing: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
        """What the training adds to the loss of each image for its decoded mixture, in nats.

        Args:
            mixture: decoded.
            standing: for how many images each stands in what is reckoned for some of them.
        """
        return torch.zeros_like(standing) if self.penalties is None else self.penalties(mixture, standing)


def build_model(
    design: Design,
    neutral: Mixture,
    regions: Sequence[Tensor],
    seed: int,
    points: Float[Tensor, "point 3"] | None = None,
) -> DeformableMixture:
    """A model before training, its weights drawn from the seed.

    Args:
        design: see `Design`.
        neutral: the mixture at rest.
        regions: for each decoder (gaussian,): whether it changes a Gaussian, or, of a rigid one, the number of the
            Gaussian's domain and -1 outside all.
        seed: of weights, anchors and learned vectors.
        points: Å, where an encoder of images samples them.
    """
    torch.manual_seed(seed)
    model = DeformableMixture(design, neutral)
    for decoder, region in zip(model.chosen(None), regions, strict=True):
        domain = region.long() - 1 if region.dtype == torch.bool else region
        decoder.start_at(neutral, domain, design.field, seed)
    if model.encoder.sampler is not None and points is not None:
        model.encoder.sampler.points.copy_(points)
    return model


def save_model(path: Path, model: DeformableMixture) -> None:
    """Write design and weights."""
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    write_tensors(path, {"format": FORMAT, "design": asdict(model.design), "state": state})


def load_model(path: Path) -> DeformableMixture:
    """Read a model for use (evaluation mode, CPU); raises InputError where the file is not one of ours."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the stage heterogeneity first")
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        if content["format"] != FORMAT:
            raise InputError(
                f"{path}: format {content['format']}, this version reads {FORMAT}; run the stage heterogeneity again"
            )
        state = content["state"]
        neutral = Mixture(state["center"], state["neutral_amplitude"], state["neutral_width"])
        model = DeformableMixture(Design.of(content["design"]), neutral)
        model.set_rigid(Mixture(state["rigid_center"], state["rigid_amplitude"], state["rigid_width"]))
        model.load_state_dict(state)
    except InputError:
        raise
    except Exception as error:  # torch names no common class for what is wrong with a file, and its words mislead
        raise InputError(
            f"{path}: not a heterogeneity model, or damaged ({type(error).__name__}); run the stage heterogeneity again"
        ) from error
    return model.eval()
