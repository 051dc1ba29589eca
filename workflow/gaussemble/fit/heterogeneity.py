"""Heterogeneity: networks that give every particle a latent vector and every latent vector a mixture.

An encoder reads each particle's gradient (fit.gradients), a decoder deforms the neutral mixture, and both learn to
explain the particles (e2gmm: Chen & Ludtke 2021). Afterwards each particle's latent is refined against the decoder
and gets its uncertainty (fit.posterior).
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.fit.band import open_band, particle_scales, ring_gain
from gaussemble.fit.devices import DeviceName, choose_device
from gaussemble.fit.gradients import COLUMNS, encoder_inputs, make_pooling
from gaussemble.fit.losses import LOSSES, LossName
from gaussemble.fit.neutral import consensus_resolution, refuse_beyond_nyquist
from gaussemble.fit.posterior import refine
from gaussemble.fit.training import (
    EVALUATION_BATCH,
    Study,
    TrainingOptions,
    baselines,
    choose_held_out,
    encode_all,
    losses_at,
    train,
)
from gaussemble.io.files import read_csv, write_csv
from gaussemble.io.mixtures import read_mixture
from gaussemble.io.mrc import read_map
from gaussemble.io.store import ImageStore, open_store
from gaussemble.model.decoders import DecoderKind
from gaussemble.model.heterogeneity import DeformableMixture, build_model, save_model, single_design
from gaussemble.progress import progress, say
from gaussemble.quantities import Map, Mixture


class Options(TrainingOptions):
    """Options of the heterogeneity analysis."""

    latent_dim: int = Field(default=4, ge=1, description="Length of the latent vectors.")
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
    decoder: DecoderKind = Field(
        default="dense", description="Outputs for each Gaussian, or for anchors that drive them."
    )
    anchors: int = Field(default=64, ge=1, description="Anchors of the hierarchical decoder.")
    inputs: int = Field(
        default=64, ge=1, description="Groups of Gaussians over which the encoder's gradients are pooled."
    )
    position: bool = Field(default=True, description="Gaussians may move.")
    amplitude: bool = Field(default=True, description="Gaussians may appear and disappear.")
    width: bool = Field(default=False, description="Gaussians may sharpen and blur.")
    hidden: int = Field(default=256, ge=1, description="Units of each hidden layer.")
    layers: int = Field(default=3, ge=1, description="Hidden layers of encoder and decoder.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout before the output layers.")
    refine_steps: int = Field(
        default=1, ge=0, description="Gauss-Newton steps on each particle's latent after training."
    )
    device: DeviceName = Field(default="auto", description="Where to train: auto takes a GPU when there is one.")


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
    field, expected = mask.box * mask.pixel_size, frame.box * frame.pixel_size
    if abs(field / expected - 1) > 0.01:
        raise InputError(
            f"{region}: box {mask.box} of {mask.pixel_size:.3f} Å spans {field:.1f} Å, but the consensus map, box "
            f"{frame.box} of {frame.pixel_size:.3f} Å, spans {expected:.1f} Å; resample the mask"
        )
    position = neutral.center + torch.from_numpy(frame.center - np.asarray(mask.origin)).float()
    voxel = (position / mask.pixel_size).round().long()
    x, y, z = voxel.clamp(0, mask.box - 1).unbind(-1)
    inside = (mask.voxels[z, y, x] >= 0.5) & ((voxel >= 0) & (voxel < mask.box)).all(-1)
    if not inside.any():
        raise InputError(f"{region}: no Gaussian of the neutral mixture lies inside; does the mask belong to the map?")
    say(f"heterogeneity: {int(inside.sum())} of {len(neutral)} Gaussians lie in the region and vary")
    return inside


def read_noise(path: Path, store: ImageStore) -> Float[Tensor, "group ring"]:
    """Noise power of each optics group and ring; raises InputError where it is not that of the store's particles."""
    table = read_csv(path, ["optics_group", "ring", "power"])
    rings, groups = store.box // 2 + 1, int(store.particles.optics_group.max()) + 1
    power = table.pivot_table(index="optics_group", columns="ring", values="power")
    power = power.reindex(index=range(max(groups, len(power))), columns=range(rings)).to_numpy(float)
    if not (power[:, 1:] > 0).all() or len(table) % rings:
        raise InputError(
            f"{path}: {len(table)} rows; expected a positive power for each of {rings} rings and {groups} "
            f"optics groups of {store.folder}; run the stage consensus again"
        )
    return torch.from_numpy(power.copy())


def prepare(
    store: ImageStore, consensus: Path, neutral: Mixture, varies: Tensor, resolution: float, options: Options
) -> tuple[DeformableMixture, Study]:
    """The data in their band, the encoder's inputs, and an untrained model."""
    device = choose_device(options.device)
    band = open_band(store, read_noise(consensus / "noise.csv", store), resolution, options.lowest_resolution)
    band = band.with_gain(ring_gain(band, neutral))
    if options.contrast:
        scale, deviation = particle_scales(band, neutral)
        band = band.with_scale(scale)
        say(
            f"heterogeneity: the particles' contrast varies by {deviation:.1%} (standard deviation), and is divided out"
        )
    variables = [name for name in COLUMNS if getattr(options, name)]
    pooling = make_pooling(neutral, varies, options.inputs, variables, options.seed)
    loss, on_device = LOSSES[options.loss], neutral.to(device)
    inputs = encoder_inputs(band, on_device, loss, pooling, resolution, device)
    if not torch.isfinite(inputs).all():
        worst = int(store.particles.particle[~torch.isfinite(inputs).all(-1)][0])
        raise InputError(
            f"{store.folder}: particle {worst}: its loss has no finite gradient; look at its image and CTF"
        )
    baseline, coarse_baseline = baselines(band, on_device, loss, device)
    held_out = choose_held_out(store.particles.particle, options.held_out, options.seed)
    design = single_design(
        gaussians=len(neutral),
        region=int(varies.sum()),
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
    model = build_model(design, neutral, [varies], options.seed).to(device)
    model.encoder.start_at_components(inputs)
    return model, Study(band, inputs, held_out, baseline, coarse_baseline, loss, device)


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
        raise InputError("options position, amplitude and width are all off, so nothing may vary; switch one on")
    store, mixture = open_store(particles), read_mixture(neutral)
    fewest = options.latent_dim + 2
    if len(store) < fewest:
        raise InputError(f"{particles}: {len(store)} particle(s); {options.latent_dim} latent dimensions want {fewest}")
    varies = region_of(region, mixture, read_map(consensus / "map.mrc"))
    refuse_beyond_nyquist(options.resolution, store.pixel_size, particles)
    finest = options.resolution or 1.5 * consensus_resolution(consensus / "fsc.csv")
    resolution = max(finest, 2.0 * store.pixel_size)
    if options.lowest_resolution is not None and options.lowest_resolution <= resolution:
        raise InputError(
            f"option lowest_resolution is {options.lowest_resolution:g} Å, but the finest compared is {resolution:.4g} "
            "Å; the lowest must be a larger number"
        )
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
