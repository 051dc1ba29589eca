"""Heterogeneity: networks that give every particle a latent vector and every latent vector a mixture.

An encoder reads each particle's gradient (fit.gradients), a decoder deforms the neutral mixture, and both learn to
explain the particles (e2gmm: Chen & Ludtke 2021). Afterwards each particle's latent is refined against the decoder
and gets its uncertainty (fit.posterior).
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.fit.band import Band, open_band, ring_gain
from gaussemble.fit.devices import DeviceName, choose_device
from gaussemble.fit.gradients import encoder_inputs, make_pooling
from gaussemble.fit.losses import LOSSES, Loss, LossName
from gaussemble.fit.neutral import consensus_resolution
from gaussemble.fit.posterior import refine
from gaussemble.io.files import read_csv, write_csv
from gaussemble.io.mixtures import read_mixture
from gaussemble.io.mrc import read_map
from gaussemble.io.store import ImageStore, open_store
from gaussemble.model.decoders import DecoderKind
from gaussemble.model.heterogeneity import DeformableMixture, Design, build_model, save_model
from gaussemble.options import StageOptions
from gaussemble.progress import progress, say
from gaussemble.quantities import Map, Mixture

EVALUATION_BATCH = 64  # what a processor core keeps in its cache
COARSE = 0.5  # of the highest frequency, in the first epochs


class Options(StageOptions):
    """Options of the heterogeneity analysis."""

    latent_dim: int = Field(default=4, ge=1, description="length of the latent vectors")
    resolution: float | None = Field(
        default=None,
        gt=0,
        description="finest resolution compared with particles, in Å; none: 1.5 x the consensus map's",
    )
    lowest_resolution: float | None = Field(
        default=None, gt=0, description="coarsest resolution compared, in Å; none: all"
    )
    loss: LossName = Field(default="likelihood", description="whitened likelihood, or Fourier ring correlation")
    decoder: DecoderKind = Field(
        default="dense", description="outputs for each Gaussian, or for anchors that drive them"
    )
    anchors: int = Field(default=64, ge=1, description="anchors of the hierarchical decoder")
    inputs: int = Field(
        default=64, ge=1, description="groups of Gaussians over which the encoder's gradients are pooled"
    )
    position: bool = Field(default=True, description="Gaussians may move")
    amplitude: bool = Field(default=True, description="Gaussians may appear and disappear")
    width: bool = Field(default=False, description="Gaussians may sharpen and blur")
    hidden: int = Field(default=256, ge=1, description="units of each hidden layer")
    layers: int = Field(default=3, ge=1, description="hidden layers of encoder and decoder")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the output layers")
    noise: float = Field(default=0.3, ge=0, description="standard deviation of the noise on the latents in training")
    prior: float = Field(default=1.0, ge=0, description="weight of the latents' prior, a unit normal distribution")
    epochs: int = Field(default=15, ge=1, description="passes over the particles")
    coarse_epochs: float = Field(
        default=0.4, ge=0, le=1, description="share of the epochs, from the first, that compare at half the resolution"
    )
    batch: int = Field(default=64, ge=1, description="particles a step")
    learning_rate: float = Field(default=2e-3, gt=0, description="highest rate of the schedule (warm-up, then cosine)")
    held_out: float = Field(default=0.1, ge=0, lt=1, description="share of particles kept from training, to watch it")
    refine_steps: int = Field(
        default=2, ge=0, description="Gauss-Newton steps on each particle's latent after training"
    )
    device: DeviceName = Field(default="auto", description="where to train: auto takes a GPU when there is one")
    seed: int = Field(default=0, description="of weights, shuffling and held-out particles")


@dataclass(frozen=True)
class Study:
    """What one training works on."""

    band: Band
    inputs: Float[Tensor, "image input"]
    held_out: Bool[Tensor, " image"]
    baseline: Float[Tensor, " image"]  # loss of each particle under the neutral mixture
    coarse_baseline: Float[Tensor, " image"]  # the same at half the resolution
    loss: Loss
    device: torch.device


def choose_held_out(count: int, share: float, seed: int) -> Bool[Tensor, " image"]:
    """A random share of the particles."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[order[: int(share * count)]] = True
    return chosen


def shuffled(rows: Int[Tensor, " image"], size: int, generator: torch.Generator) -> Iterator[Int[Tensor, " image"]]:
    """Batches of all rows in a new order; a last batch of a single row joins the one before."""
    order = rows[torch.randperm(len(rows), generator=generator)]
    batches = max(1, round(len(rows) / size))
    yield from torch.tensor_split(order, batches)


@torch.no_grad()
def losses_at(model: DeformableMixture, study: Study, latent: Float[Tensor, "image latent"]) -> Float[Tensor, " image"]:
    """Loss of every particle at its latent vector."""
    values = torch.empty(len(study.band))
    for rows, batch in study.band.batches(EVALUATION_BATCH, study.device):
        values[rows] = study.loss(batch, batch.predict(model.decode(latent[rows].to(study.device)))).cpu()
    return values


@torch.no_grad()
def encode_all(model: DeformableMixture, study: Study) -> Float[Tensor, "image latent"]:
    """The encoder's latent vectors of all particles, on the CPU."""
    model.eval()
    return torch.cat([model.encode(part.to(study.device)).cpu() for part in study.inputs.split(4096)])


def train(model: DeformableMixture, study: Study, options: Options) -> pd.DataFrame:
    """The training loop; returns its history. Losses are means a particle, relative to the neutral mixture's."""
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    rows = torch.nonzero(~study.held_out).flatten()
    steps = options.epochs * max(1, round(len(rows) / options.batch))
    optimizer = torch.optim.AdamW(model.parameters(), options.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate, total_steps=steps, pct_start=0.1)
    history, start = [], time.monotonic()
    for epoch in progress(range(1, options.epochs + 1), "heterogeneity: epoch"):
        model.train()
        total, coarse = 0.0, epoch <= options.coarse_epochs * options.epochs
        for chosen in shuffled(rows, options.batch, generator):
            objective = step(model, study, chosen, coarse, options)
            value = float(objective.detach())
            if not math.isfinite(value):
                raise FloatingPointError(f"the loss is {value} in epoch {epoch}; lower the learning_rate")
            optimizer.zero_grad()
            objective.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0 * len(chosen) ** 0.5)
            optimizer.step()
            schedule.step()
            total += value * len(chosen)
        history.append(
            {
                "epoch": epoch,
                "loss": total / len(rows),
                "held_out_loss": held_out_loss(model, study),
                "learning_rate": schedule.get_last_lr()[0],
                "seconds": time.monotonic() - start,
            }
        )
        say("heterogeneity: epoch {epoch}, loss {loss:.2f}, held out {held_out_loss:.2f}".format(**history[-1]))
    return pd.DataFrame(history)


def step(
    model: DeformableMixture, study: Study, rows: Int[Tensor, " image"], coarse: bool, options: Options
) -> Float[Tensor, ""]:
    """Mean objective of a batch: loss relative to the neutral mixture's, and the prior of the latents.

    Coarse, a motion longer than the finest detail still pulls the right way (method of Chen, Toader & Lederman 2023).
    """
    batch = study.band.batch(rows, study.device)
    batch, baseline = (batch.coarser(COARSE), study.coarse_baseline) if coarse else (batch, study.baseline)
    latent = model.encode(study.inputs[rows].to(study.device))
    noisy = latent + options.noise * torch.randn_like(latent)
    loss = study.loss(batch, batch.predict(model.decode(noisy))) - baseline[rows].to(study.device)
    return (loss + 0.5 * options.prior * latent.square().sum(-1)).mean()


@torch.no_grad()
def held_out_loss(model: DeformableMixture, study: Study) -> float:
    """Mean loss of the held-out particles at the encoder's latents, relative to the neutral mixture's; NaN if none."""
    model.eval()
    rows = torch.nonzero(study.held_out).flatten()
    total = 0.0
    for chosen in rows.split(EVALUATION_BATCH):
        batch = study.band.batch(chosen, study.device)
        latent = model.encode(study.inputs[chosen].to(study.device))
        total += float((study.loss(batch, batch.predict(model.decode(latent))).cpu() - study.baseline[chosen]).sum())
    return total / len(rows) if len(rows) else math.nan


def refine_all(
    model: DeformableMixture, study: Study, latent: Float[Tensor, "image latent"], options: Options
) -> tuple[Tensor, Tensor]:
    """Refined latents and posterior standard deviations of all particles."""
    refined, deviation = torch.empty_like(latent), torch.empty_like(latent)
    batches = study.band.batches(EVALUATION_BATCH, study.device)
    for rows, batch in progress(batches, "latents", total=-(-len(latent) // EVALUATION_BATCH)):
        start = latent[rows].to(study.device)
        ends = refine(model, batch, start, max(options.prior, 1e-6), options.refine_steps)
        refined[rows], deviation[rows] = (end.cpu() for end in ends)
    return refined, deviation


def region_of(region: Path | None, neutral: Mixture, frame: Map) -> Bool[Tensor, " gaussian"]:
    """The Gaussians whose centres lie where the mask is at least 0.5; all of them without a mask."""
    if region is None:
        return torch.ones(len(neutral), dtype=torch.bool)
    mask = read_map(region)
    if mask.box != frame.box or abs(mask.pixel_size / frame.pixel_size - 1) > 0.01:
        raise InputError(
            f"{region}: box {mask.box} of {mask.pixel_size:.3f} Å, but the consensus map has box {frame.box} of "
            f"{frame.pixel_size:.3f} Å; resample the mask"
        )
    voxel = (neutral.center / mask.pixel_size).round().long() + mask.box // 2
    x, y, z = voxel.clamp(0, mask.box - 1).unbind(-1)
    inside = mask.voxels[z, y, x] >= 0.5
    if not inside.any():
        raise InputError(f"{region}: no Gaussian of the neutral mixture lies inside; does the mask belong to the map?")
    say(f"heterogeneity: {int(inside.sum())} of {len(neutral)} Gaussians lie in the region and vary")
    return inside


def read_noise(path: Path) -> Float[Tensor, "group ring"]:
    """Noise power of each optics group and ring."""
    table = read_csv(path, ["optics_group", "ring", "power"])
    power = table.pivot(index="optics_group", columns="ring", values="power").sort_index().to_numpy(float)
    return torch.from_numpy(power.copy())


def prepare(
    store: ImageStore, consensus: Path, neutral: Mixture, varies: Tensor, resolution: float, options: Options
) -> tuple[DeformableMixture, Study]:
    """The data in their band, the encoder's inputs, and an untrained model."""
    device = choose_device(options.device)
    band = open_band(store, read_noise(consensus / "noise.csv"), resolution, options.lowest_resolution)
    band = band.with_gain(ring_gain(band, neutral))
    pooling = make_pooling(neutral, varies, options.inputs, options.seed)
    loss, on_device = LOSSES[options.loss], neutral.to(device)
    inputs = encoder_inputs(band, on_device, loss, pooling, resolution, device)
    if not torch.isfinite(inputs).all():
        worst = int(store.particles.particle[~torch.isfinite(inputs).all(-1)][0])
        raise InputError(
            f"{store.folder}: particle {worst}: its loss has no finite gradient; look at its image and CTF"
        )
    baseline, coarse_baseline = baselines(band, on_device, loss, device)
    held_out = choose_held_out(len(store), options.held_out, options.seed)
    design = Design(
        gaussians=len(neutral),
        inputs=pooling.inputs,
        length=resolution,
        field=store.box * store.pixel_size,
        **options.model_dump(
            include={
                "latent_dim",
                "decoder",
                "anchors",
                "hidden",
                "layers",
                "dropout",
                "position",
                "amplitude",
                "width",
            }
        ),
    )
    model = build_model(design, neutral, varies, options.seed).to(device)
    model.encoder.start_at_components(inputs)
    return model, Study(band, inputs, held_out, baseline, coarse_baseline, loss, device)


@torch.no_grad()
def baselines(band: Band, neutral: Mixture, loss: Loss, device: torch.device) -> tuple[Tensor, Tensor]:
    """Loss of every particle under the neutral mixture, in the whole band and at half the resolution."""
    values = torch.empty(2, len(band))
    for rows, batch in band.batches(EVALUATION_BATCH, device):
        for row, part in enumerate((batch, batch.coarser(COARSE))):
            values[row, rows] = loss(part, part.predict(neutral)).cpu()
    return values[0], values[1]


def latent_table(store: ImageStore, study: Study, latent: Tensor, deviation: Tensor, loss: Tensor) -> pd.DataFrame:
    """Columns particle, z1.., sd1.., loss (relative to the neutral mixture's), held_out."""
    numbers = range(1, latent.shape[1] + 1)
    columns = {"particle": store.particles.particle}
    columns |= {f"z{number}": latent[:, number - 1] for number in numbers}
    columns |= {f"sd{number}": deviation[:, number - 1] for number in numbers}
    columns |= {"loss": loss - study.baseline, "held_out": study.held_out.int()}
    return pd.DataFrame({name: values.numpy() for name, values in columns.items()})


def heterogeneity(
    *, particles: Path, consensus: Path, neutral: Path, out: Path, region: Path | None = None, options: Options
) -> None:
    """Train and embed; writes model.pt, latent.csv, history.csv.

    Args:
        particles: folder of the image store.
        consensus: folder of the stage `consensus`: noise.csv, fsc.csv, map.mrc.
        neutral: mixture.npz of the stage `neutral`.
        out: folder to write.
        region: a mask; only Gaussians inside it vary (all of them project).
        options: see `Options`.
    """
    if not (options.position or options.amplitude or options.width):
        raise InputError("heterogeneity: position, amplitude and width are all off, so nothing may vary; switch one on")
    store, mixture = open_store(particles), read_mixture(neutral)
    varies = region_of(region, mixture, read_map(consensus / "map.mrc"))
    finest = options.resolution or 1.5 * consensus_resolution(consensus / "fsc.csv")
    resolution = max(finest, 2.0 * store.pixel_size)
    model, study = prepare(store, consensus, mixture, varies, resolution, options)
    say(f"heterogeneity: {len(store)} particles to {resolution:.1f} Å, {len(mixture)} Gaussians, on {study.device}")
    history = train(model, study, options)
    latent, deviation = refine_all(model, study, encode_all(model, study), options)
    loss = losses_at(model, study, latent)
    save_model(out / "model.pt", model)
    write_csv(out / "latent.csv", latent_table(store, study, latent, deviation, loss))
    write_csv(out / "history.csv", history)
    say(
        f"heterogeneity: mean loss {float((loss - study.baseline).mean()):.2f} a particle against the neutral mixture's"
    )
