"""The training loop: one, visible, for every kind of encoder and decoder, in one process or several.

All that is random in it (order, noise on the latents, dropout) is a function of the seed and the step's number, so a
checkpoint needs no state of random numbers, and a training that was killed and started again ends with the numbers of
one that was not. Several processes (fit.distributed) take their shares of the same batches.

Arithmetic is float32 throughout; on a GPU too, where rounder products have not been measured to be equal.
"""

import math
import signal
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from gaussemble.errors import InputError
from gaussemble.fit.checkpoints import fingerprint, leave, read_checkpoint, signals_noted, write_checkpoint
from gaussemble.fit.distributed import combine, is_first, parallel, processes, rank, share
from gaussemble.fit.penalties import standing_for_all
from gaussemble.fit.population import READ, drawn, evidence, populate
from gaussemble.fit.rounds import Round
from gaussemble.fit.schedule import Epoch, plan_epochs, rate_of
from gaussemble.fit.scratch import Table
from gaussemble.fit.study import (
    EVALUATION_BATCH,
    Portion,
    Study,
    batches,
    cut,
    shuffled,
    source,
)
from gaussemble.model.encoders import UNCERTAIN
from gaussemble.model.heterogeneity import DeformableMixture
from gaussemble.options import StageOptions
from gaussemble.progress import say
from gaussemble.quantities import Mixture

SURE = 2.0  # standard errors by which a round of the population must make unseen particles likelier, or it is the last


class TrainingOptions(StageOptions):
    """Options of the training loop."""

    epochs: int = Field(default=15, ge=1, description="Passes over the particles, before those of em_rounds.")
    coarse_epochs: float = Field(
        default=0.4, ge=0, le=1, description="Share of the epochs, from the first, that compare at half the resolution."
    )
    batch: int = Field(default=64, ge=1, description="Particles a step, of all processes together.")
    learning_rate: float = Field(
        default=2e-3,
        gt=0,
        description="Highest rate: each round warms up to it; the last one falls as a cosine, and each of em_rounds "
        "from half of it.",
    )
    gradient_limit: float = Field(
        default=100.0, gt=0, description="Norm to which a step's gradient is cut; stops a single bad batch."
    )
    noise: float | None = Field(
        default=None,
        ge=0,
        description="Standard deviation of the noise on the latents in training; none: learnt, for each latent axis.",
    )
    prior: float = Field(
        default=0.3,
        ge=0,
        description="Weight of the latents' prior, a unit normal distribution, and of their divergence from it where "
        "their noise is learnt (the beta of variational autoencoders).",
    )
    held_out: float = Field(default=0.1, ge=0, lt=1, description="Share of particles kept from training, to watch it.")
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Epochs without a better held-out loss after which a round ends; none: all its epochs.",
    )
    checkpoint_seconds: float = Field(
        default=300.0, ge=0, description="Time between checkpoints, from which a killed training goes on."
    )
    seed: int = Field(default=0, ge=0, description="Seed of weights, shuffling and held-out particles.")


@dataclass
class Course:
    """Where a training stands; with weights and optimiser, all that a restart needs."""

    epoch: int = 0  # finished ones
    step: int = 0  # done in the present one
    total: float = 0.0  # objective summed over the present epoch's particles so far
    seen: int = 0
    stale: int = 0  # epochs of this round since its best one
    round_best: float = math.inf
    best_loss: float = math.inf
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)  # weights
    drawn: Tensor | None = None  # (image, time) landmarks at which a round of the population trains
    evidence: Tensor | None = None  # of particles that are not trained on, when the last round of the population began
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


class Objective(nn.Module):
    """What training lowers, as the forward of a module, so that DistributedDataParallel can average its gradients."""

    def __init__(self, model: DeformableMixture, study: Study, options: TrainingOptions):
        super().__init__()
        self.model, self.study, self.options = model, study, options

    def forward(
        self,
        portion: Portion,
        given: Float[Tensor, "image latent"],
        standing: Float[Tensor, " image"],
        settings: Round,
    ) -> Float[Tensor, " image"]:
        """Of each particle: loss relative to the neutral mixture's, prior of the latent, penalties of the mixture.

        Coarse, a motion longer than the finest detail still pulls the right way (method of Chen, Toader & Lederman
        2023). The encoder sees the same thing in every round.

        Args:
            portion: the particles.
            given: the noise on their latents; in rounds of the population the latents themselves.
            standing: for how many particles of the batch each stands in penalties that are reckoned for some.
            settings: of the round.
        """
        model, study, rows = self.model, self.study, portion.rows
        whole = study.band.batch(rows, study.device, portion.image)
        batch = whole if settings.resolution is None else whole.coarser(study.band.resolution / settings.resolution)
        latent, prior = given.to(study.device), 0.0
        if not settings.population:
            center = model.encode(study.evidence(rows, whole if model.encoder.reads_images else None, portion.gradient))
            deviation = self.deviation(settings)
            latent, prior = center + deviation * latent, self.divergence(center, deviation)
        mixture = model.decode(latent, settings.decoders)
        loss = study.loss(batch, batch.predict(mixture))
        baseline = study.baselines[settings.resolution][rows].to(study.device)
        return loss - baseline + prior + model.penalty(mixture, standing.to(study.device))

    def divergence(
        self, center: Float[Tensor, "image latent"], deviation: Float[Tensor, " latent"]
    ) -> Float[Tensor, " image"]:
        """What the latents' prior costs: of N(center, deviation²) from a unit normal one, where the noise is learnt."""
        prior = 0.5 * center.square().sum(-1)
        if self.options.noise is None:
            prior = prior + (0.5 * deviation.square() - deviation.log()).sum()
        return self.options.prior * prior

    def deviation(self, settings: Round) -> Float[Tensor, " latent"]:
        """Of the noise on the latents: as asked for, or as learnt; in coarse rounds not less than at the start.

        Much noise early on keeps neighbours in latent space alike, before the encoder has sorted them.
        """
        learnt = self.model.encoder.deviation
        if self.options.noise is not None:
            return torch.full_like(learnt, self.options.noise)
        return learnt if settings.resolution is None else learnt.clamp(min=UNCERTAIN)


def train(
    model: DeformableMixture,
    study: Study,
    options: TrainingOptions,
    rounds: list[Round],
    checkpoint: Path | None = None,
) -> pd.DataFrame:
    """The training loop; returns its history and leaves the best weights in the model.

    Losses are means a particle, relative to the neutral mixture's. The best weights are those of the epoch in which the
    held-out particles' loss in the whole band was lowest; without held-out particles, the last ones. Each round of the
    population begins with the best weights before it and compares losses at the latents that it has drawn: where they
    fall, the likelihood of the held-out particles rises (as in expectation maximisation).

    Args:
        model: on the study's device.
        study: with a baseline for each round's resolution.
        options: see there.
        rounds: in their order; each warms up to its own learning rate, those of the population, or else the last one,
            and the last one before them come down from it.
        checkpoint: where the training is written down every so often and when SIGTERM or SIGINT ends it, and taken up
            where such a file is there; whoever calls removes it when its results are safe.

    Raises:
        InputError: a loss or a gradient that is not finite, with the particle where it is one.
    """
    rows = torch.nonzero(~study.held_out).flatten()
    plan = plan_epochs(rounds, steps_an_epoch(study, rows, options.batch))
    digest = fingerprint_of(model, study, options, rounds) if checkpoint else ""
    optimizer = torch.optim.AdamW(model.parameters(), options.learning_rate, weight_decay=1e-4, fused=True)
    course = resume(checkpoint, digest, model, optimizer) or Course()
    objective, begun, saved = None, time.monotonic() - course.seconds, time.monotonic()

    def save() -> None:
        course.seconds = time.monotonic() - begun
        if checkpoint is not None and is_first():
            content = {"course": vars(course), "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            write_checkpoint(checkpoint, digest, content)

    with signals_noted(checkpoint is not None) as arrived:
        while course.epoch < len(plan):
            epoch = plan[course.epoch]
            settings = epoch.settings
            begins = course.step == 0 == epoch.first
            if settings.population and begins:
                save()  # comparing all particles takes its time, and a signal may not wait for it
            if settings.population and begins and not begin_of_population(course, model, study, epoch, options.seed):
                course.epoch = len(plan)
                break
            if objective is None or begins:
                model.set_round(settings.decoders, settings.transition, encoder=not settings.population)
                objective = parallel(Objective(model, study, options))
            model.train()
            order = shuffled(study, rows, source(options.seed, epoch.number))
            left = batches(study, order, options.batch, course.step)
            for count, own, portion in islice(left, epoch.steps - course.step):
                set_rate(optimizer, rate_of(epoch, course.step, options.learning_rate))
                given = random_noise(model, options.seed, epoch.number, course.step, count)[own]
                if course.drawn is not None:
                    given = latents_drawn(model, course.drawn, portion.rows, epoch)
                standing = standing_for_all(count)[own]
                values = objective(portion, given, standing, settings)
                optimizer.zero_grad()
                (values.sum() * (processes() / count)).backward()
                norm = nn.utils.clip_grad_norm_(model.parameters(), options.gradient_limit)
                total, bad, ending = agreed(values, norm, arrived)
                if bad:
                    name_the_worst(Objective(model, study, options), portion, given, standing, epoch, course.step)
                optimizer.step()
                course.step, course.total, course.seen = course.step + 1, course.total + total, course.seen + count
                if ending or time.monotonic() - saved >= options.checkpoint_seconds:
                    save()
                    saved = time.monotonic()
                if ending:
                    leave(ending)
            held_out, ending = held_out_loss(model, study, settings, arrived, course.drawn)
            if ending:
                save()
                leave(ending)
            rate = rate_of(epoch, epoch.steps - 1, options.learning_rate)
            finish_epoch(course, model, epoch, held_out, rate, time.monotonic() - begun)
            report(course, plan)
            if options.patience is not None and course.stale >= options.patience:
                say(f"heterogeneity: no better held-out loss in {course.stale} epochs; round {epoch.round} ends")
                course.epoch = sum(each.round <= epoch.round for each in plan)
            if course.epoch < len(plan) and plan[course.epoch].first == 0:
                course.stale, course.round_best = 0, math.inf
        save()
    if course.best:
        model.load_state_dict(course.best)
        say(f"heterogeneity: kept the weights of epoch {course.best_epoch}, held out {course.best_loss:.2f}")
    return pd.DataFrame(course.history)


def steps_an_epoch(study: Study, rows: Int[Tensor, " image"], size: int) -> int:
    """Batches of a pass over the rows.

    Raises:
        InputError: fewer particles in a batch than processes.
    """
    least = min(size, len(rows))
    if least < processes():
        raise InputError(f"batches of {least} particles cannot be shared by {processes()} processes; start fewer")
    return sum(len(cut(portion, size)) for portion in shuffled(study, rows, source(0)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give the optimiser a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def random_noise(model: DeformableMixture, seed: int, epoch: int, step: int, count: int) -> Tensor:
    """(image, latent) unit normal, for all processes the same; seeds what dropout draws, which differs by process."""
    torch.manual_seed(source(seed, epoch, step, 1 + rank()).initial_seed())
    return torch.randn(count, model.latent_dim, generator=source(seed, epoch, step, 0))


def agreed(values: Tensor, norm: Tensor, arrived: list[int]) -> tuple[float, bool, int]:
    """What all processes see the same: sum of the objective, whether something is not finite, a signal to end by."""
    parts = torch.stack([values.detach().sum(), norm.detach()]).double().cpu()
    parts = combine(torch.cat([parts, torch.tensor([float(len(arrived))], dtype=torch.float64)]))
    return float(parts[0]), not bool(parts[:2].isfinite().all()), signal_of(parts[2], arrived)


def signal_of(noted: Tensor, arrived: list[int]) -> int:
    """The signal to end by, as soon as any process has one; else 0."""
    return (arrived or [signal.SIGTERM])[0] if noted > 0 else 0


def begin_of_population(course: Course, model: DeformableMixture, study: Study, epoch: Epoch, seed: int) -> bool:
    """From the best weights so far: landmarks, draws from all posteriors, and the loss there that is to be improved.

    False where the round before has not made particles that are kept from training likelier: then there is no more.
    """
    if course.best:
        model.load_state_dict(course.best)
    gains = populate(model, study, lambda: encode_all(model, study), seed + epoch.number)
    before, course.evidence = course.evidence, unseen_evidence(model, study, gains)
    say(f"heterogeneity: round {epoch.round}, {float(course.evidence.mean()):.3f} nats a particle of unknown latent")
    if before is not None and not rises(before, course.evidence):
        return False
    course.drawn = drawn(model, gains, math.ceil(epoch.settings.epochs), seed + epoch.number)
    loss, _ = held_out_loss(model, study, epoch.settings, [], course.drawn)
    if not math.isnan(loss):
        course.best_loss, course.best = loss, weights(model)
    return True


def unseen_evidence(model: DeformableMixture, study: Study, gains: Table) -> Float[Tensor, " unseen"]:
    """Nats over the neutral mixture of each particle that is kept from training, or of all if none is.

    Copies of a particle share its noise and are one.
    """
    chosen = torch.nonzero(study.held_out).flatten()
    chosen = chosen if len(chosen) else torch.arange(len(study))
    found = torch.cat([evidence(model, gains.read(rows)) for rows in chosen.split(READ)])
    numbers, own = torch.unique(study.band.particles.particle[chosen], return_inverse=True)
    total = torch.zeros(len(numbers), dtype=found.dtype).index_add(0, own, found)
    return total / torch.bincount(own)


def rises(before: Float[Tensor, " unseen"], after: Float[Tensor, " unseen"]) -> bool:
    """Whether numbers are higher on average, beyond chance."""
    rise = after - before
    return len(rise) > 1 and float(rise.mean()) > SURE * float(rise.std()) / len(rise) ** 0.5


def weights(model: DeformableMixture) -> dict[str, Tensor]:
    """A copy of all of them."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def latents_drawn(
    model: DeformableMixture, places: Int[Tensor, "all_images time"], rows: Int[Tensor, " image"], epoch: Epoch
) -> Float[Tensor, "image latent"]:
    """Of some particles, for an epoch of a round of the population."""
    return model.landmark[places[rows, epoch.first // epoch.steps].long().to(model.landmark.device)]


def name_the_worst(
    objective: Objective, portion: Portion, given: Tensor, standing: Tensor, epoch: Epoch, step: int
) -> None:
    """Raise an InputError for a step whose loss or gradient is not finite; names the particle where it is one's own."""
    parameters = [each for each in objective.parameters() if each.requires_grad]
    wrong: list[tuple[int, float]] = []
    for place in range(len(portion.rows)):
        one = slice(place, place + 1)
        value = objective(portion[one], given[one], standing[one], epoch.settings).sum()
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        if not (value.isfinite() and all(each.isfinite().all() for each in found if each is not None)):
            wrong.append((place, float(value.detach())))
    where = f"in epoch {epoch.number}, step {step + 1} of {epoch.steps}"
    if 0 < len(wrong) <= len(portion.rows) // 2:
        place, value = wrong[0]
        number = int(objective.study.band.particles.particle[portion.rows[place]])
        what = f"its loss is {value:.4g}" if not math.isfinite(value) else "its loss has no finite gradient"
        raise InputError(f"particle {number}: {what} {where}; look at its image, pose and CTF")
    raise InputError(f"the loss or its gradient is not finite {where}; lower the option learning_rate")


def finish_epoch(
    course: Course, model: DeformableMixture, epoch: Epoch, held_out: float, rate: float, seconds: float
) -> None:
    """Write down an epoch's figures, keep its weights if they are the best, and go on to the next."""
    row = {"epoch": epoch.number, "loss": course.total / max(1, course.seen), "held_out_loss": held_out}
    course.history.append(row | {"learning_rate": rate, "seconds": seconds, "round": epoch.round})
    course.stale = course.stale + 1 if held_out >= course.round_best else 0
    course.round_best = min(held_out, course.round_best)
    if held_out < course.best_loss:
        course.best_loss, course.best_epoch = held_out, epoch.number
        course.best = weights(model)
    course.epoch, course.step, course.total, course.seen = course.epoch + 1, 0, 0.0, 0


def report(course: Course, plan: list[Epoch]) -> None:
    """A line about the epoch that has ended."""
    row, done = course.history[-1], sum(each.steps for each in plan[: course.epoch])
    left = row["seconds"] / done * (sum(each.steps for each in plan) - done)
    losses = "epoch {epoch}, loss {loss:.2f}, held out {held_out_loss:.2f}".format(**row)
    say(f"heterogeneity: {losses}, about {left:.0f} s left")


def fingerprint_of(model: DeformableMixture, study: Study, options: TrainingOptions, rounds: list[Round]) -> str:
    """A digest of all that decides a training's numbers, apart from the machine."""
    settings = options.model_dump(exclude={"device", "checkpoint_seconds"})
    varies = [each for each in model.buffers() if not each.is_floating_point()]  # which Gaussians
    return fingerprint(settings, rounds, model.design, *data_of(model.neutral, study), *varies)


def data_of(neutral: Mixture, study: Study) -> list[Any]:
    """What decides a training's numbers beside the settings: the neutral mixture, and the particles in their band."""
    band, known = study.band, study.band.particles
    shape = (band.checksum, band.pixel_size, band.transforms.shape, study.gradients.shape, study.loss.__name__)
    tensors = [neutral.center, neutral.amplitude, neutral.width, band.weight, band.scale, study.held_out]
    tensors += [known.particle, known.rotation, known.shift, known.optics_group, *vars(known.ctf).values()]
    return [shape, *tensors]


def resume(path: Path | None, digest: str, model: DeformableMixture, optimizer: torch.optim.Optimizer) -> Course | None:
    """Take up weights and optimiser where a checkpoint left them; None where there is no checkpoint to take up."""
    content = read_checkpoint(path, digest) if path is not None else None
    if content is None:
        return None
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    course = Course(**content["course"])
    say(f"heterogeneity: going on after epoch {course.epoch}, step {course.step}, from {path}")
    return course


def seen_by(model: DeformableMixture, study: Study, rows: Tensor, batch: Any = None) -> Float[Tensor, "image latent"]:
    """The encoder's latent vectors of some particles."""
    if batch is None and model.encoder.reads_images:
        batch = study.band.batch(rows, study.device)
    return model.encode(study.evidence(rows, batch if model.encoder.reads_images else None))


@torch.no_grad()
def held_out_loss(
    model: DeformableMixture, study: Study, settings: Round, arrived: list[int], places: Tensor | None
) -> tuple[float, int]:
    """Mean loss of the held-out particles, relative to the neutral mixture's; NaN if there are none.

    At the encoder's latents, or at the first of the landmarks that were drawn, `places` (image, time). With it the
    number of the signal that cut it short, or 0.
    """
    model.eval()
    rows = torch.nonzero(study.held_out).flatten()
    total = torch.zeros(2, dtype=torch.float64)
    for chosen in rows[share(len(rows))].split(EVALUATION_BATCH):
        if arrived:
            break
        batch = study.band.batch(chosen, study.device)
        if places is None:
            latent = seen_by(model, study, chosen, batch)
        else:
            latent = model.landmark[places[chosen, 0].long().to(study.device)]
        loss = study.loss(batch, batch.predict(model.decode(latent, settings.decoders))).cpu()
        total[0] += (loss - study.baseline[chosen]).double().sum()
    total[1] = len(arrived)
    total = combine(total)
    return (float(total[0]) / len(rows) if len(rows) else math.nan), signal_of(total[1], arrived)


@torch.no_grad()
def encode_all(model: DeformableMixture, study: Study) -> Float[Tensor, "image latent"]:
    """The encoder's latent vectors of all particles, on the CPU."""
    model.eval()
    latent = torch.zeros(len(study), model.latent_dim)
    for rows in torch.arange(len(study))[share(len(study))].split(
        EVALUATION_BATCH if model.encoder.reads_images else 4096
    ):
        latent[rows] = seen_by(model, study, rows).cpu()
    return combine(latent)


@torch.no_grad()
def losses_at(model: DeformableMixture, study: Study, latent: Float[Tensor, "image latent"]) -> Float[Tensor, " image"]:
    """Loss of every particle at its latent vector."""
    values = torch.zeros(len(study))
    for rows, batch in study.passed("losses"):
        values[rows] = study.loss(batch, batch.predict(model.decode(latent[rows].to(study.device)))).cpu()
    return combine(values)
