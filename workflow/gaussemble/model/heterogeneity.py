"""The mixture that a latent vector deforms, with the encoder that finds a particle's latent vector.

A file of it holds tensors and plain numbers only and is read without unpickling code.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from gaussemble.errors import InputError
from gaussemble.io.tensors import write_tensors
from gaussemble.model.decoders import (
    DecoderKind,
    DenseDecoder,
    HierarchicalDecoder,
    anchor_positions,
    transition_matrix,
)
from gaussemble.model.encoders import Evidence, GradientEncoder
from gaussemble.quantities import Mixture

FORMAT = 1
SOFTPLUS_ONE = 0.541324854612918  # softplus of it is 1: an output of zero leaves an amplitude as it is


@dataclass(frozen=True)
class Design:
    """What a model is made of; enough, with its weights, to build it again."""

    gaussians: int
    latent_dim: int
    inputs: int  # length of the encoder's input
    decoder: DecoderKind
    anchors: int
    hidden: int
    layers: int
    dropout: float
    position: bool  # which of the Gaussians' parameters vary
    amplitude: bool
    width: bool
    length: float  # Å of movement for a decoder output of 1
    field: float  # Å, edge of the field of view

    @property
    def channels(self) -> int:
        """Decoder outputs a Gaussian."""
        return 3 * self.position + self.amplitude + self.width


class DeformableMixture(nn.Module):
    """Encoder and decoder round a neutral mixture; `decode` of the zero vector starts as the neutral mixture."""

    center: Tensor
    neutral_amplitude: Tensor
    neutral_width: Tensor
    varies: Tensor

    def __init__(self, design: Design, neutral: Mixture, varies: Bool[Tensor, " gaussian"], transition: Tensor | None):
        """`varies`: the Gaussians that may change; `transition` (gaussian, anchor): of a hierarchical decoder."""
        super().__init__()
        self.design = design
        self.register_buffer("center", neutral.center.clone())
        self.register_buffer("neutral_amplitude", neutral.amplitude.clone())
        self.register_buffer("neutral_width", neutral.width.clone())
        self.register_buffer("varies", varies.clone())
        sizes = (design.hidden, design.layers, design.dropout)
        self.encoder = GradientEncoder(design.inputs, design.latent_dim, *sizes)
        self.decoder = (
            DenseDecoder(design.latent_dim, design.gaussians, design.channels, *sizes)
            if transition is None
            else HierarchicalDecoder(design.latent_dim, transition, design.channels, *sizes)
        )

    @property
    def neutral(self) -> Mixture:
        """The mixture before any deformation."""
        return Mixture(self.center, self.neutral_amplitude, self.neutral_width)

    @property
    def latent_dim(self) -> int:
        """Length of a latent vector."""
        return self.design.latent_dim

    def encode(self, evidence: Evidence) -> Float[Tensor, "image latent"]:
        """Latent vectors of particles from what is seen of them."""
        return self.encoder(evidence)

    def decode(self, latent: Float[Tensor, "image latent"]) -> Mixture:
        """A mixture for each latent vector.

        Positions move by `length` Å per unit of output; amplitudes are multiplied by softplus(output + c), which is 1
        at 0, never negative, and reaches 0 for what is absent; widths are multiplied by exp(output).
        """
        change = self.decoder(latent) * self.varies[:, None]
        design, neutral = self.design, self.neutral.expand(len(latent))
        center, amplitude, width = neutral.center, neutral.amplitude, neutral.width
        if design.position:
            center = center + design.length * change[..., :3]
        if design.amplitude:
            amplitude = amplitude * functional.softplus(change[..., 3 * design.position] + SOFTPLUS_ONE)
        if design.width:
            width = width * torch.exp(change[..., -1])
        return Mixture(center, amplitude, width)


def build_model(design: Design, neutral: Mixture, varies: Bool[Tensor, " gaussian"], seed: int) -> DeformableMixture:
    """A model before training, its weights drawn from the seed; anchors by k-means over the Gaussians."""
    torch.manual_seed(seed)
    transition = None
    if design.decoder == "hierarchical":
        anchor = anchor_positions(neutral.center, neutral.amplitude, design.anchors, seed)
        transition = transition_matrix(neutral.center, anchor, design.field)
    return DeformableMixture(design, neutral, varies, transition)


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
            raise InputError(f"{path}: format {content['format']}, this version reads {FORMAT}")
        state = content["state"]
        neutral = Mixture(state["center"], state["neutral_amplitude"], state["neutral_width"])
        model = DeformableMixture(
            Design(**content["design"]), neutral, state["varies"], state.get("decoder.transition")
        )
        model.load_state_dict(state)
    except InputError:
        raise
    except Exception as error:  # torch names no common class for what is wrong with a file, and its words mislead
        raise InputError(
            f"{path}: not a heterogeneity model, or damaged ({type(error).__name__}); run the stage heterogeneity again"
        ) from error
    return model.eval()
