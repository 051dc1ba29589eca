"""The training loop: one, visible, for every kind of decoder."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.fit.band import Band, Batch
from gaussemble.fit.losses import Loss
from gaussemble.model.encoders import Evidence, gradient_evidence
from gaussemble.model.heterogeneity import DeformableMixture
from gaussemble.options import StageOptions
from gaussemble.progress import say
from gaussemble.quantities import Mixture

EVALUATION_BATCH = 64  # what a processor core keeps in its cache
GRADIENT_LIMIT = 100.0  # several times what a mean loss of some tens of nats gives; it stops a single bad batch
COARSE = 0.5  # of the highest frequency, in the first epochs


class TrainingOptions(StageOptions):
    """Options of the training loop."""

    epochs: int = Field(default=15, ge=1, description="Passes over the particles.")
    coarse_epochs: float = Field(
        default=0.4, ge=0, le=1, description="Share of the epochs, from the first, that compare at half the resolution."
    )
    batch: int = Field(default=64, ge=1, description="Particles a step.")
    learning_rate: float = Field(default=2e-3, gt=0, description="Highest rate of the schedule (warm-up, then cosine).")
    noise: float = Field(default=0.3, ge=0, description="Standard deviation of the noise on the latents in training.")
    prior: float = Field(default=1.0, ge=0, description="Weight of the latents' prior, a unit normal distribution.")
    held_out: float = Field(default=0.1, ge=0, lt=1, description="Share of particles kept from training, to watch it.")
    seed: int = Field(default=0, ge=0, description="Seed of weights, shuffling and held-out particles.")


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

    def evidence(self, rows: Int[Tensor, " image"], batch: Batch | None = None) -> Evidence:
        """What the encoder sees of some particles; `batch`: theirs in the whole band, where it reads images."""
        gradient = self.inputs[rows].to(self.device)
        if batch is None:
            return gradient_evidence(gradient)
        return Evidence(gradient, batch.image, batch.transfer, batch.rotation)


def choose_held_out(particle: Int[Tensor, " image"], share: float, seed: int) -> Bool[Tensor, " image"]:
    """A random share of the particles, copies together; with a share at least one, but never all."""
    identity = torch.unique(particle, return_inverse=True)[1]
    count = int(identity.max()) + 1
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[order[: min(max(1, int(share * count)), count - 1) if share > 0 else 0]] = True
    return chosen[identity]


def shuffled(rows: Int[Tensor, " image"], size: int, generator: torch.Generator) -> Iterator[Int[Tensor, " image"]]:
    """Batches of all rows in a new order; a last batch of a single row joins the one before."""
    order = rows[torch.randperm(len(rows), generator=generator)]
    batches = max(1, round(len(rows) / size))
    yield from torch.tensor_split(order, batches)


@torch.no_grad()
def baselines(band: Band, neutral: Mixture, loss: Loss, device: torch.device) -> tuple[Tensor, Tensor]:
    """Loss of every particle under the neutral mixture, in the whole band and at half the resolution."""
    values = torch.empty(2, len(band))
    for rows, batch in band.batches(EVALUATION_BATCH, device):
        for row, part in enumerate((batch, batch.coarser(COARSE))):
            values[row, rows] = loss(part, part.predict(neutral)).cpu()
    return values[0], values[1]


def rate_share(done: int, steps: int) -> float:
    """Share of the highest learning rate after `done` of `steps` steps: a tenth up, then down as a cosine."""
    rising = max(1, steps // 10)
    if done < rising:
        return (done + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (done - rising) / max(1, steps - rising)))


def train(model: DeformableMixture, study: Study, options: TrainingOptions) -> pd.DataFrame:
    """The training loop; returns its history. Losses are means a particle, relative to the neutral mixture's."""
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    rows = torch.nonzero(~study.held_out).flatten()
    steps = options.epochs * max(1, round(len(rows) / options.batch))
    optimizer = torch.optim.AdamW(model.parameters(), options.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: rate_share(done, steps))
    history, start = [], time.monotonic()
    for epoch in range(1, options.epochs + 1):
        model.train()
        total, coarse = 0.0, epoch <= options.coarse_epochs * options.epochs
        for chosen in shuffled(rows, options.batch, generator):
            objective = step(model, study, chosen, coarse, options)
            value = float(objective.detach())
            if not math.isfinite(value):
                raise InputError(f"the loss is {value} in epoch {epoch}; lower the option learning_rate")
            optimizer.zero_grad()
            objective.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_LIMIT)
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
        left = (options.epochs - epoch) * history[-1]["seconds"] / epoch
        line = "heterogeneity: epoch {epoch}, loss {loss:.2f}, held out {held_out_loss:.2f}".format(**history[-1])
        say(f"{line}, about {left:.0f} s left")
    return pd.DataFrame(history)


def step(
    model: DeformableMixture, study: Study, rows: Int[Tensor, " image"], coarse: bool, options: TrainingOptions
) -> Float[Tensor, ""]:
    """Mean objective of a batch: loss relative to the neutral mixture's, and the prior of the latents.

    Coarse, a motion longer than the finest detail still pulls the right way (method of Chen, Toader & Lederman 2023).
    """
    batch = study.band.batch(rows, study.device)
    batch, baseline = (batch.coarser(COARSE), study.coarse_baseline) if coarse else (batch, study.baseline)
    latent = model.encode(study.evidence(rows))
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
        latent = model.encode(study.evidence(chosen))
        total += float((study.loss(batch, batch.predict(model.decode(latent))).cpu() - study.baseline[chosen]).sum())
    return total / len(rows) if len(rows) else math.nan


@torch.no_grad()
def encode_all(model: DeformableMixture, study: Study) -> Float[Tensor, "image latent"]:
    """The encoder's latent vectors of all particles, on the CPU."""
    model.eval()
    return torch.cat([model.encode(study.evidence(rows)).cpu() for rows in torch.arange(len(study.band)).split(4096)])


@torch.no_grad()
def losses_at(model: DeformableMixture, study: Study, latent: Float[Tensor, "image latent"]) -> Float[Tensor, " image"]:
    """Loss of every particle at its latent vector."""
    values = torch.empty(len(study.band))
    for rows, batch in study.band.batches(EVALUATION_BATCH, study.device):
        values[rows] = study.loss(batch, batch.predict(model.decode(latent[rows].to(study.device)))).cpu()
    return values
