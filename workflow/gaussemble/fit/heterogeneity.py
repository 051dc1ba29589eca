"""Heterogeneity: networks that give every particle a latent vector and every latent vector a mixture.

An encoder reads each particle's gradient (fit.gradients), a decoder deforms the neutral mixture, and both learn to
explain the particles (e2gmm: Chen & Ludtke 2021). Then the decoder learns on at latents drawn from what each particle's
image says of its own (fit.population), and each particle gets the mean and covariance of that (fit.embedding).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.fit.band import Band, Batch
from gaussemble.fit.checkpoints import remove_checkpoint
from gaussemble.fit.consistency import latent_length, problems, resolutions
from gaussemble.fit.devices import DeviceName
from gaussemble.fit.distributed import is_first, workers
from gaussemble.fit.embedding import Embedding, embed
from gaussemble.fit.gradients import COLUMNS, gradient_inputs, make_pooling
from gaussemble.fit.losses import LOSSES, LossName
from gaussemble.fit.moving import read_moving
from gaussemble.fit.neutral import consensus_resolution
from gaussemble.fit.particles import particles_in_band
from gaussemble.fit.penalties import make_penalties
from gaussemble.fit.pose_model import model_of_poses
from gaussemble.fit.pose_search import Wanted
from gaussemble.fit.posterior import Posterior, Prior, displacement_told, observability
from gaussemble.fit.regions import Ground, memberships
from gaussemble.fit.rounds import Round, default_rounds, given_rounds, population_rounds
from gaussemble.fit.sections import DecoderOptions, DomainOptions, RoundOptions
from gaussemble.fit.study import Study, choose_held_out, make_study
from gaussemble.fit.training import TrainingOptions, losses_at, train
from gaussemble.io.files import write_csv
from gaussemble.io.mixtures import read_mixture
from gaussemble.io.mrc import read_map
from gaussemble.io.posteriors import Posteriors, write_posteriors
from gaussemble.io.store import ImageStore, open_store
from gaussemble.model.decoders import WITH_DOMAINS, DecoderDesign, DecoderKind, Vectors
from gaussemble.model.encoders import EncoderDesign, EncoderKind, sampling_points
from gaussemble.model.heterogeneity import Compared, DeformableMixture, Design, build_model, save_model
from gaussemble.progress import say

INHERITED = ("position", "amplitude", "width", "anchors", "embedding", "vectors", "layers", "dropout", "restraint")
INHERITED += ("rigidity",)
SAMPLE = 20_000  # particles whose principal components the encoder starts at
SHARE_OF_FEATURES = 8  # a network that runs once for each Gaussian has an eighth of the others' units


class Options(TrainingOptions):
    """Options of the heterogeneity analysis."""

    latent_dim: int = Field(default=4, ge=1, description="Length of the latent vectors; 12 with the decoder pose.")
    resolution: float | None = Field(
        default=None,
        gt=0,
        description="Finest resolution compared with particles, in Å; none: 1.5 x the consensus map's.",
    )
    lowest_resolution: float | None = Field(
        default=None, gt=0, description="Coarsest resolution compared, in Å; none: all."
    )
    loss: LossName = Field(default="likelihood", description="Whitened likelihood, or Fourier ring correlation.")
    contrast: bool = Field(
        default=False,
        description="Estimate each particle's contrast against the neutral mixture, for ice and doses that vary.",
    )
    encoder: EncoderKind = Field(
        default="gradient",
        description="What the encoder reads: gradients at the neutral mixture, images brought into the molecule's "
        "frame, or both.",
    )
    decoder: DecoderKind = Field(
        default="dense",
        description="Outputs for each Gaussian; for anchors that drive them; for rigid domains; by one network that "
        "reads a vector of each Gaussian; or pose: no network, the latent vector is the pose of one rigid domain, and "
        "what is found is how poses are spread.",
    )
    selection: str | None = Field(
        default=None,
        min_length=1,
        description="Atoms of the seeds' model, in gemmi's syntax, whose Gaussians may vary; all if none (and no "
        "region).",
    )
    domains: tuple[DomainOptions, ...] = Field(
        default=(), description="Domains of a rigid decoder; one of a pose decoder."
    )
    find_shape: bool = Field(
        default=False,
        description="With the decoder pose: find the domain's shape too, from what the map shows of it on, smeared as "
        "that may be; a mask round the smear is the domain.",
    )
    anchors: int = Field(default=64, ge=1, description="Anchors of the hierarchical decoder.")
    embedding: int = Field(
        default=32, ge=1, description="Length of the vector that the features decoder has for each Gaussian."
    )
    vectors: Vectors = Field(
        default="learned",
        description="The features decoder's vectors: learned for each Gaussian, or encoded from its position, "
        "amplitude and width by a second encoder.",
    )
    inputs: int = Field(
        default=64, ge=1, description="Groups of Gaussians over which the encoder's gradients are pooled."
    )
    position: bool = Field(default=True, description="Gaussians may move.")
    amplitude: bool = Field(default=True, description="Gaussians may appear and disappear.")
    width: bool = Field(default=False, description="Gaussians may sharpen and blur.")
    hidden: int = Field(
        default=256,
        ge=1,
        description="Units of each hidden layer; an eighth of it in a features decoder, which runs for each Gaussian.",
    )
    layers: int = Field(default=3, ge=1, description="Hidden layers of encoder and decoder.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout before the output layers.")
    restraint: float = Field(
        default=0.0,
        ge=0,
        description="Nats for 1 Å² of each deviation from the neutral mixture's distances and pseudo-angles (as arcs) "
        "between consecutive residues of the model; 0: none.",
    )
    rigidity: float | None = Field(
        default=2.0,
        gt=0,
        description="Å by which distances of neighbouring Gaussians may change (standard deviation), as if all "
        "particles were of 16 structures; none: freely. Not of rigid decoders.",
    )
    wander: float | None = Field(
        default=10.0,
        gt=0,
        description="Å by which Gaussians that have vanished may be displaced (standard deviation); none: freely.",
    )
    decoders: tuple[DecoderOptions, ...] = Field(
        default=(), description="Several decoders on one encoder, summed; replaces the key decoder."
    )
    rounds: tuple[RoundOptions, ...] = Field(
        default=(), description="Rounds of training, one after another; replaces epochs and coarse_epochs."
    )
    landmarks: int = Field(
        default=512,
        ge=2,
        le=4096,
        description="Points of latent space that stand for the distribution of all particles, and of each one's "
        "posterior; with the decoder pose, at most so many poses.",
    )
    em_rounds: int = Field(
        default=4,
        ge=0,
        description="At most so many rounds of expectation maximisation after those of the encoder: landmarks and "
        "posteriors, then em_epochs of the decoders at latents drawn from them; fewer where held-out particles no "
        "longer gain, and none with the loss frc.",
    )
    em_epochs: int = Field(default=3, ge=1, description="Passes over the particles in each of them.")
    refine_steps: int = Field(
        default=2,
        ge=0,
        description="At most so many Gauss-Newton steps on the latent of each particle that is seen more sharply than "
        "landmarks are apart; 0: landmarks alone.",
    )
    device: DeviceName = Field(default="auto", description="Where to train: auto takes a GPU when there is one.")


def refuse_problems(options: Options, region: Path | None) -> None:
    """Raise InputError for what the options may not say together."""
    for key, problem in problems(options.model_dump() | {"region": region}):
        raise InputError(f"option {key}: {problem}")


def decoder_sections(options: Options, region: Path | None) -> tuple[list[DecoderOptions], list[str]]:
    """Every decoder with nothing left to inherit, and its prefix in the config's keys.

    Without a list of decoders there is one, `main`.
    """
    if options.decoders:
        sections, keys = options.decoders, [f"decoders.{number}." for number in range(len(options.decoders))]
    else:
        sections, keys = [DecoderOptions(name="main", kind=options.decoder, domains=options.domains)], [""]
    return [filled(each, options, region) for each in sections], keys


def filled(section: DecoderOptions, options: Options, region: Path | None) -> DecoderOptions:
    """A decoder's section with the analysis's own values where it has none."""
    given = {name: getattr(section, name) for name in INHERITED}
    values = {name: getattr(options, name) if value is None else value for name, value in given.items()}
    share = SHARE_OF_FEATURES if section.kind == "features" else 1
    values["hidden"] = section.hidden or max(1, options.hidden // share)
    if section.kind in WITH_DOMAINS:
        values |= {"position": True, "amplitude": False, "width": False}
    elif section.region is None and section.selection is None:
        values |= {"region": region, "selection": options.selection}
    return section.model_copy(update=values)


def decoder_design(section: DecoderOptions, member: Tensor, resolution: float) -> DecoderDesign:
    """The design of a decoder whose section is filled, for the Gaussians of its region."""
    shared = ("name", "kind", "position", "amplitude", "width", "hidden", "layers", "dropout")
    gaussians = int(member.sum() if member.dtype == torch.bool else (member >= 0).sum())
    return DecoderDesign(
        gaussians=gaussians,
        length=section.resolution or resolution,
        anchors=min(section.anchors or 0, gaussians) if section.kind == "hierarchical" else 0,
        domains=len(section.domains),
        embedding=(section.embedding or 0) if section.kind == "features" else 0,
        vectors=section.vectors or "learned",
        **{name: getattr(section, name) for name in shared},
    )


def make_rounds(options: Options, decoders: Sequence[DecoderOptions], finest: float) -> list[Round]:
    """The rounds of the config, or the usual two, and those of the population."""
    if options.rounds:
        rounds = given_rounds(options.rounds, decoders, finest)
    else:
        rounds = default_rounds(options.epochs, options.coarse_epochs, decoders, finest)
    if options.loss != "likelihood":  # posteriors are by the likelihood, and so must be what follows from them
        return rounds
    return rounds + population_rounds(rounds[-1], options.em_rounds, options.em_epochs, options.learning_rate)


def finest_resolution(options: Options, store: ImageStore, curve: Path) -> float:
    """Å up to which particles are compared: what is asked for, or from the consensus map's resolution.

    Raises:
        InputError: the store holds nothing so fine, or no ring of it is so coarse.
    """
    given = dict(resolutions(options.model_dump()))
    finest, coarsest = 2.0 * store.pixel_size, store.box * store.pixel_size / 2
    for key, value in given.items():
        if value < finest * (1 - 1e-3):
            raise InputError(
                f"option {key} is {value:g} Å, but pixels of {store.pixel_size:.4g} Å in {store.folder} hold nothing "
                f"finer than {finest:.4g} Å; set that or more, or enlarge particles.box"
            )
        if value > coarsest:
            raise InputError(
                f"option {key} is {value:g} Å; two rings of {store.folder} reach {coarsest:.4g} Å, set that or less"
            )
    wanted = options.resolution or min([1.5 * consensus_resolution(curve), *given.values()])
    if options.lowest_resolution is not None and options.lowest_resolution <= max(wanted, finest):
        raise InputError(
            f"option lowest_resolution is {options.lowest_resolution:g} Å, but the finest compared is "
            f"{max(wanted, finest):.4g} Å; the lowest must be a larger number"
        )
    return max(wanted, finest)


def compared_in(options: Options, resolution: float) -> Compared:
    """What is compared with particles, up to a resolution in Å."""
    return Compared(resolution, options.lowest_resolution, options.contrast)


def no_inputs(batch: Batch) -> Float[Tensor, "image input"]:
    """What an encoder that reads images alone sees of the gradients."""
    return batch.transfer.new_zeros(len(batch), 0)


def encoder_design(
    options: Options, center: Float[Tensor, "chosen 3"], inputs: int, resolution: float
) -> tuple[Float[Tensor, "point 3"], EncoderDesign]:
    """Places (Å) where the encoder samples images, round the Gaussians that vary, and what it is made of."""
    kind, points, spacing = options.encoder, center[:0], resolution
    if kind != "gradient":
        points, spacing = sampling_points(center, resolution)
    sizes = (options.hidden, options.layers, options.dropout)
    return points, EncoderDesign(kind, inputs if kind != "image" else 0, len(points), spacing, *sizes)


def prepare(
    band: Band,
    ground: Ground,
    decoders: tuple[Sequence[DecoderOptions], Sequence[Tensor]],
    resolution: float,
    device: torch.device,
    options: Options,
) -> tuple[DeformableMixture, Study, list[Round]]:
    """An untrained model, what its training works on, and the rounds of it.

    Args:
        band: the particles.
        ground: the neutral mixture, and what restraints are made of.
        decoders: their filled sections, and for each the Gaussians that it changes (`regions.memberships`).
        resolution: Å, the finest that is compared.
        device: where to train.
        options: see `Options`.
    """
    neutral, loss, (sections, members) = ground.neutral, LOSSES[options.loss], decoders
    varies = torch.stack([each if each.dtype == torch.bool else each >= 0 for each in members]).any(0)
    variables = [name for name in COLUMNS if any(getattr(each, name) for each in sections)]
    pooling = make_pooling(neutral, varies, options.inputs, variables, options.seed)
    on_device = neutral.to(device)
    gradients = partial(gradient_inputs, neutral=on_device, loss=loss, pooling=pooling, length=resolution)
    seen = gradients if options.encoder != "image" else no_inputs
    held_out = choose_held_out(band.particles.particle, options.held_out, options.seed)
    rounds = make_rounds(options, sections, band.resolution)
    study = make_study(band, loss, on_device, seen, {each.resolution for each in rounds}, held_out)
    points, encoder = encoder_design(options, neutral.center[varies], pooling.inputs, resolution)
    design = Design(
        gaussians=len(neutral),
        latent_dim=options.latent_dim,
        field=band.box * band.pixel_size,
        encoder=encoder,
        decoders=tuple(decoder_design(*each, resolution) for each in zip(sections, members, strict=True)),
        compared=compared_in(options, resolution),
        landmarks=options.landmarks,
    )
    model = build_model(design, neutral, members, options.seed, points)
    model.penalties = make_penalties(sections, members, ground, options.wander, int((~held_out).sum()))
    model = model.to(device)
    model.encoder.start_at_components(study.sampled_evidence(SAMPLE, encoder.reads_images))
    return model, study, rounds


def find(
    band: Band,
    ground: Ground,
    decoder: tuple[DecoderOptions, Tensor],
    resolution: float,
    options: Options,
    checkpoint: Path | None,
) -> tuple[DeformableMixture, Study, pd.DataFrame]:
    """A model of poses, what it was found with, and how that went; on the CPU.

    Args:
        band: the particles.
        ground: the neutral mixture.
        decoder: its filled section, and the number of each Gaussian's domain.
        resolution: Å, the finest that is compared.
        options: see `Options`.
        checkpoint: see `heterogeneity`.
    """
    held_out = choose_held_out(band.particles.particle, options.held_out, options.seed)
    study = make_study(band, LOSSES[options.loss], ground.neutral, no_inputs, {None}, held_out)
    design = (decoder_design(*decoder, resolution), decoder[1])
    compared = compared_in(options, resolution)
    wanted = Wanted(options.landmarks, options.find_shape, options.seed)
    model, history = model_of_poses(study, ground, design, compared, wanted, checkpoint)
    return model, study, history


def latent_table(study: Study, found: Embedding, loss: Float[Tensor, " image"]) -> pd.DataFrame:
    """Columns particle, z1.., sd1.., loss (relative to the neutral mixture's), held_out, observability, gain if any."""
    posterior, prior, gain = found
    columns = {"particle": study.band.particles.particle}
    for name, values in (("z", posterior.latent), ("sd", posterior.deviation)):
        columns |= {f"{name}{number}": column for number, column in enumerate(values.unbind(1), start=1)}
    columns |= {"loss": loss - study.baseline, "held_out": study.held_out.int()}
    told = observability if gain is None else displacement_told
    columns |= {"observability": told(posterior, prior)} | ({} if gain is None else {"gain": gain})
    return pd.DataFrame({name: values.numpy() for name, values in columns.items()})


def unless_all(moving: Bool[Tensor, " gaussian"]) -> Bool[Tensor, " gaussian"]:
    """Those that move; none where all do, since nothing is left to measure factors on."""
    return moving & ~moving.all()


def as_posteriors(band: Band, posterior: Posterior, prior: Prior) -> Posteriors:
    """What posterior.npz holds."""
    parts = (band.particles.particle, posterior.latent, posterior.covariance, prior.mean, prior.covariance)
    return Posteriors(*(part.cpu().numpy() for part in parts))


def heterogeneity(
    *,
    particles: Path,
    consensus: Path,
    neutral: Path,
    out: Path,
    region: Path | None = None,
    seeds: Path | None = None,
    model: Path | None = None,
    checkpoint: Path | None = None,
    options: Options,
) -> None:
    """Train and embed; writes model.pt, latent.csv, posterior.npz, history.csv.

    Args:
        particles: folder of the image store.
        consensus: folder of the stage `consensus`: noise.csv, fsc.csv, map.mrc.
        neutral: mixture.npz of the stage `neutral`.
        out: folder to write.
        region: a mask; only Gaussians inside it vary (all of them project), of decoders without a region of their own.
        seeds: seeds.npz of the stage `seeds`, for selections of atoms and for restraints.
        model: model.cif of the stage `seeds`, for selections of atoms.
        checkpoint: where the training is written down while it goes on, and taken up after a kill; removed when the
            stage ends well.
        options: see `Options`.
    """
    refuse_problems(options, region)
    sections, keys = decoder_sections(options, region)
    store, mixture = open_store(particles), read_mixture(neutral)
    length = latent_length(options.model_dump())
    if len(store) < length + 2:
        raise InputError(f"{particles}: {len(store)} particle(s); {length} latent dimensions want {length + 2}")
    moving = read_moving(neutral, len(mixture), "C1")
    ground = Ground(mixture, read_map(consensus / "map.mrc"), seeds, model)
    members = memberships(sections, keys, ground)
    if options.find_shape:  # as the stages that compare with the model later say
        moving = unless_all(members[0] >= 0)
    resolution = finest_resolution(options, store, consensus / "fsc.csv")
    with workers(options.device) as device:
        band = particles_in_band(store, consensus, mixture, compared_in(options, resolution), moving)
        pose = sections[0].kind == "pose"
        where = "the CPU" if pose else device
        say(f"heterogeneity: {len(store)} particles to {resolution:.1f} Å, {len(mixture)} Gaussians, on {where}")
        if pose:
            network, study, history = find(band, ground, (sections[0], members[0]), resolution, options, checkpoint)
        else:
            network, study, rounds = prepare(band, ground, (sections, members), resolution, device, options)
            history = train(network, study, options, rounds, checkpoint)
        found = embed(network, study, options.refine_steps, options.seed)
        loss = losses_at(network, study, found.posterior.latent)
        if is_first():
            network.moving.copy_(unless_all(network.varies) if options.find_shape else moving)
            save_model(out / "model.pt", network)
            write_csv(out / "latent.csv", latent_table(study, found, loss))
            write_posteriors(out / "posterior.npz", as_posteriors(band, found.posterior, found.prior))
            write_csv(out / "history.csv", history)
            remove_checkpoint(checkpoint)
        say(
            f"heterogeneity: mean loss {float((loss - study.baseline).mean()):.2f} a particle against the neutral "
            "mixture's"
        )
