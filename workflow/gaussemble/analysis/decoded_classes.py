"""Classes as a few structures that share the particles out among them by likelihood, as in 3D classification.

k-means and mixtures divide latents, each of which has been drawn towards the prior by as much as its view is poor. Here
every particle is compared with the K structures themselves, and says by its probabilities how sure it is. What is made
greatest is `sum_i log sum_k share_k p(particle_i | structure_k)`, in three steps:

    chosen    of the model's landmarks, hundreds of structures with which some thousands of particles are compared
              cheaply, the 2K stay that are missed most. k-means divides what is frequent before it tells apart what is
              rare, and no later step mends that
    decoded   the structures are those of 2K latents, which move from there; the K stay that are missed most. Landmarks
              are as good as chance has placed them, and two of one state can explain more than a poor one of another
    freed     each class's Gaussians take places and amplitudes of their own, near the decoded ones: a decoder that has
              learnt all particles' structures at once has none of them quite

It costs about as much as K passes of scoring for each pass over the particles.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaussemble.fit.band import Band, Batch
from gaussemble.fit.losses import likelihood
from gaussemble.fit.population import landmark_subspace, shares
from gaussemble.model.heterogeneity import DeformableMixture
from gaussemble.progress import progress, say
from gaussemble.quantities import Mixture

Decode = Callable[[Tensor], Mixture]
CHOOSING = 10_000  # particles, evenly from all and no more, that choose among landmarks
RESTING = 400  # steps of expectation maximization after which few landmarks have a share, of which
COMPETING = 8  # times as many compete as there are classes
STARTS = 2  # latents that move, for each class
SHARING = 30  # steps that bring the shares of few structures to rest
RAREST = 1e-9  # share of a class that no particle is in
BATCH = 128  # particles a step
STEPS = 60  # at least; a pass over few particles has too few
BLOCK = 64  # particles compared at a time
# Rates of Adam: latents (in units of their prior) and shares' logarithms, places in Å, amplitudes in their mean
LATENT_RATE, PLACE_RATE, AMPLITUDE_RATE = 0.05, 0.1, 0.01
# How far from the decoded structures Gaussians are expected, as standard deviations in Å and in the mean amplitude
PLACE, AMPLITUDE = 2.0, 0.3


@dataclass(frozen=True)
class Classes:
    """The classes' structures (component, gaussian), and their shares of the particles."""

    structure: Mixture
    share: Float[Tensor, " component"]

    def __len__(self) -> int:
        return len(self.share)


def fit_classes(
    decode: Decode,
    band: Band,
    start: Float[Tensor, "component latent"],
    passes: int = 1,
    seed: int = 0,
    device: torch.device | str = "cpu",
    count: int | None = None,
) -> Classes:
    """Classes of the greatest likelihood, by stochastic steps.

    Args:
        decode: of a trained model: latents to mixtures.
        band: the particles, with the gain that the model was trained with.
        start: a latent for each class, or more.
        passes: over the particles with freed Gaussians, after one with decoded ones; 0: they stay decoded.
        seed: of the particles' order.
        device: where the model is.
        count: classes that stay when the latents have moved; None: all.
    """
    classes = decoded(decode, start.to(device), band, seed)
    if count is not None and count < len(classes):
        classes = of_most_need(classes, band, count)
    return freed(classes, band, passes, seed) if passes else classes


def chosen_landmarks(model: DeformableMixture, band: Band, count: int) -> Float[Tensor, "component latent"]:
    """The latents of the landmarks under whose structures the particles are likeliest, as many as asked for.

    Those with a share of at least one particle when shares have come to rest compete, and leave one by one. On the CPU.
    """
    chosen = choosing(band)
    subspace = landmark_subspace(model, band)
    blocks = progress(chosen.split(BLOCK), "comparing with landmarks")
    gains = torch.cat([subspace.gains(band.batch(rows)) for rows in blocks])
    share = shares(gains, RESTING)
    shared = max(count, int((share * len(chosen) >= 1).sum()))
    found = share.argsort(descending=True)[: min(COMPETING * count, shared)]
    kept = found[most_needed(-gains[:, found].double(), count)]
    return model.landmark[kept.to(model.landmark.device)]


def choosing(band: Band) -> Int[Tensor, " row"]:
    """Some particles, evenly from all."""
    return torch.arange(len(band))[:: -(-len(band) // CHOOSING)]


def of_most_need(classes: Classes, band: Band, count: int) -> Classes:
    """So many of the classes, those that are missed most (`most_needed`)."""
    structure, losses = classes.structure, all_losses(band, classes.structure, choosing(band))
    kept = most_needed(losses, count)
    share = shares_at_rest(losses[:, kept], torch.full((count,), 1 / count, dtype=losses.dtype))
    rows = kept.to(classes.share.device)
    left = Mixture(structure.center[rows], structure.amplitude[rows], structure.width[rows])
    return Classes(left, share.to(classes.share))


def most_needed(losses: Float[Tensor, "particle start"], count: int) -> Int[Tensor, " component"]:
    """Which structures to keep so that the particles stay as likely as can be: the others leave one by one.

    Each time the one leaves without which `sum_i log sum_k share_k p(particle_i | k)` is greatest, its share given to
    the others in proportion to theirs; then the shares come to rest again.

    Args:
        losses: negative log-likelihoods.
        count: structures to keep.
    """
    kept = torch.arange(losses.shape[1])
    share = torch.full((len(kept),), 1 / len(kept), dtype=losses.dtype)
    while True:
        share = shares_at_rest(losses[:, kept], share)
        if len(kept) <= count:
            return kept
        stays = torch.arange(len(kept)) != int(left_without(losses[:, kept], share).argmax())
        kept, share = kept[stays], share[stays] / share[stays].sum()


def left_without(
    losses: Float[Tensor, "particle component"], share: Float[Tensor, " component"]
) -> Float[Tensor, " component"]:
    """How the log-likelihood of all particles changes if one component leaves, for each of them.

    A particle of probability r for it becomes 1 - r times as likely. Where r is nearly 1, which only the most probable
    component's can be, 1 - r is summed from the others.
    """
    logit = share.log() - losses
    whole, first = logit.logsumexp(1, keepdim=True), logit.argmax(1, keepdim=True)
    others = logit.scatter(1, first, -torch.inf).logsumexp(1, keepdim=True)
    change = torch.log1p(-(logit - whole).exp()).scatter(1, first, others - whole)
    return change.sum(0) - len(losses) * torch.log1p(-share)


def shares_at_rest(
    losses: Float[Tensor, "particle component"], share: Float[Tensor, " component"]
) -> Float[Tensor, " component"]:
    """Shares of the greatest likelihood of fixed structures, by expectation maximization."""
    for _ in range(SHARING):
        share = torch.softmax(share.log() - losses, dim=1).mean(0).clamp(min=RAREST)
    return share / share.sum()


def decoded(decode: Decode, start: Float[Tensor, "component latent"], band: Band, seed: int) -> Classes:
    """The structures of the latents of the greatest likelihood, found in one pass."""
    latent = start.detach().clone().float().requires_grad_()
    equal = torch.full((len(start),), 1 / len(start), device=start.device)
    share = _ascended([(latent, LATENT_RATE)], lambda: decode(latent), equal, band, 1, seed, "decoded classes")
    return Classes(_fixed(decode(latent)), share)


def freed(classes: Classes, band: Band, passes: int, seed: int) -> Classes:
    """Structures of the greatest posterior whose Gaussians are near those of `classes`, normally in each parameter."""
    near, unit = classes.structure, classes.structure.amplitude.abs().mean()
    moved = torch.zeros_like(near.center, requires_grad=True)
    changed = torch.zeros_like(near.amplitude, requires_grad=True)

    def structure() -> Mixture:
        return replace(near, center=near.center + moved, amplitude=near.amplitude + unit * changed)

    def prior() -> Tensor:
        return 0.5 * ((moved / PLACE).square().sum() + (changed / AMPLITUDE).square().sum())

    rates = [(moved, PLACE_RATE), (changed, AMPLITUDE_RATE)]
    share = _ascended(rates, structure, classes.share, band, passes, seed, "classes of their own", prior)
    return Classes(_fixed(structure()), share)


def _ascended(
    rates: list[tuple[Tensor, float]],
    structure: Callable[[], Mixture],
    share: Float[Tensor, " component"],
    band: Band,
    passes: int,
    seed: int,
    what: str,
    prior: Callable[[], Tensor] | None = None,
) -> Float[Tensor, " component"]:
    """Move the parameters, each at its rate, and the shares, which are returned; the rates fall to 0 by the end."""
    logit = share.log().clone().requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    steps = max(1, round(len(band) / BATCH))
    orders = [torch.randperm(len(band), generator=generator) for _ in range(max(passes, -(-STEPS // steps)))]
    batches = [rows for order in orders for rows in torch.tensor_split(order, steps)]
    groups = [{"params": [one], "lr": rate} for one, rate in [*rates, (logit, LATENT_RATE)]]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / len(batches))
    for rows in progress(batches, what):
        losses = class_losses(band.batch(rows, share.device), structure())
        objective = -(torch.log_softmax(logit, 0) - losses).logsumexp(1).mean()
        if prior is not None:
            objective = objective + prior() / len(band)
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        schedule.step()
    return torch.softmax(logit.detach(), 0)


def _fixed(structure: Mixture) -> Mixture:
    """Without gradients."""
    return Mixture(structure.center.detach(), structure.amplitude.detach(), structure.width.detach())


def class_probabilities(
    model: DeformableMixture,
    band: Band,
    count: int,
    passes: int = 1,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Float[np.ndarray, "particle component"]:
    """Probabilities of the classes that a model's structures form; see `fit_classes`."""
    model = model.to(device).requires_grad_(False)
    start = chosen_landmarks(model, band, min(STARTS * count, len(model.landmark)))
    classes = fit_classes(model.decode, band, start, passes, seed, device, count)
    say("latent: shares of the classes " + ", ".join(f"{share:.1%}" for share in classes.share.tolist()))
    return memberships(band, classes).numpy()


def class_losses(batch: Batch, structures: Mixture) -> Float[Tensor, "image component"]:
    """Negative log-likelihood of each particle under each structure, which all particles share."""
    each = zip(structures.center, structures.amplitude, structures.width, strict=True)
    return torch.stack([likelihood(batch, batch.predict(Mixture(*one))) for one in each], dim=1)


@torch.no_grad()
def all_losses(
    band: Band, structures: Mixture, chosen: Int[Tensor, " row"] | None = None
) -> Float[Tensor, "particle component"]:
    """Of every particle, or of some, on the CPU and in float64: only differences of a few nats in thousands tell."""
    device = structures.center.device
    blocks = progress((torch.arange(len(band)) if chosen is None else chosen).split(BLOCK), "comparing classes")
    return torch.cat([class_losses(band.batch(rows, device), structures).double().cpu() for rows in blocks])


def memberships(band: Band, classes: Classes) -> Float[Tensor, "particle component"]:
    """Probability of each class for each particle, on the CPU."""
    return torch.softmax(classes.share.log().double().cpu() - all_losses(band, classes.structure), dim=1)


def most_probable(probability: Float[Tensor, "particle component"]) -> Int[Tensor, " particle"]:
    """Class of each particle, from 0."""
    return probability.argmax(1)
