"""The config's sections in lists: several decoders, the domains of a rigid one, the rounds of training."""

from pathlib import Path

from pydantic import Field

from gaussemble.model.decoders import DecoderKind, Vectors
from gaussemble.model.heterogeneity import Transition
from gaussemble.options import StageOptions

NAME = "^[A-Za-z0-9][A-Za-z0-9_-]*$"


class DomainOptions(StageOptions):
    """A rigid domain: the Gaussians inside a mask, or those of chosen atoms."""

    mask: Path | None = Field(default=None, description="Mask of the domain.")
    selection: str | None = Field(
        default=None,
        min_length=1,
        description="Atoms of the seeds' model, in gemmi's syntax, such as A or A/1-120.",
    )


class DecoderOptions(StageOptions):
    """One of several decoders on one encoder; what is null here is as the key of that name beside `decoders`."""

    name: str = Field(pattern=NAME, description="A name of your own, by which rounds call it.")
    kind: DecoderKind = Field(
        default="dense",
        description="Outputs for each Gaussian; for anchors that drive them; for rigid domains; or by one network that "
        "reads a vector of each Gaussian.",
    )
    region: Path | None = Field(default=None, description="Mask of the Gaussians that this decoder changes.")
    selection: str | None = Field(
        default=None, min_length=1, description="Atoms of the seeds' model whose Gaussians this decoder changes."
    )
    domains: tuple[DomainOptions, ...] = Field(default=(), description="Domains of a rigid decoder.")
    position: bool | None = Field(default=None, description="Gaussians may move.")
    amplitude: bool | None = Field(default=None, description="Gaussians may appear and disappear (never if rigid).")
    width: bool | None = Field(default=None, description="Gaussians may sharpen and blur (never if rigid).")
    anchors: int | None = Field(default=None, ge=1, description="Anchors of a hierarchical decoder.")
    embedding: int | None = Field(default=None, ge=1, description="Length of a features decoder's vectors.")
    vectors: Vectors | None = Field(default=None, description="Learned for each Gaussian, or encoded from what it is.")
    hidden: int | None = Field(default=None, ge=1, description="Units of each hidden layer.")
    layers: int | None = Field(default=None, ge=1, description="Hidden layers.")
    dropout: float | None = Field(default=None, ge=0, lt=1, description="Dropout before the output layer.")
    resolution: float | None = Field(
        default=None,
        gt=0,
        description="Finest resolution, in Å, of rounds whose decoders all have one, by the finest of theirs; none: "
        "the finest compared.",
    )
    restraint: float | None = Field(
        default=None, ge=0, description="Nats for 1 Å² of each C-alpha distance and pseudo-angle (arc) in the region."
    )
    rigidity: float | None = Field(
        default=None, gt=0, description="Å by which distances of neighbours in the region change; 100 or more: freely."
    )


class RoundOptions(StageOptions):
    """One round of training, which takes up the weights of the round before."""

    decoders: tuple[str, ...] | None = Field(
        default=None, description="Names of the decoders that take part and are trained; null: all of them."
    )
    epochs: float = Field(gt=0, description="Passes over the particles.")
    resolution: float | None = Field(
        default=None, gt=0, description="Finest resolution compared, in Å; none: that of its decoders."
    )
    learning_rate: float | None = Field(
        default=None, gt=0, description="Highest rate of the round's schedule; none: the analysis's."
    )
    transition: Transition = Field(
        default="fixed", description="Whether the transition matrices of hierarchical decoders are trained."
    )
