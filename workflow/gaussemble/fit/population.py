"""How latents are spread over all particles: landmarks, a few hundred points of latent space with shares.

At low signal a particle's posterior is wide, bent along the motion and often of several modes, and no normal
distribution. Under landmarks z_k with shares s_k it is a table of numbers,

    p(k | image) = s_k p(image | z_k) / sum_l s_l p(image | z_l),

exact but for their spacing and for what `fit.subspace`, which compares all particles with all landmarks' structures,
leaves out; and the shares that make the particles likeliest are the distribution of latents without any assumption of
its form (Laird 1978; in generative topographic mapping, Bishop, Svensen & Williams 1998, the places are a grid).

The landmarks come from the encoder's latents first; each time they are used again, they are drawn anew by their shares,
a little apart from where they were, so that many stand where many particles are. They are part of the model.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gaussemble.fit.band import Band
from gaussemble.fit.distributed import barrier, share
from gaussemble.fit.poses import compared_poses, refitted, rigid_gain
from gaussemble.fit.posterior import Posterior, Prior
from gaussemble.fit.scratch import Table, make_table
from gaussemble.fit.study import Study
from gaussemble.fit.subspace import BLOCK, Subspace, Tolerance, subspace_of
from gaussemble.model.heterogeneity import DeformableMixture
from gaussemble.progress import progress

BATCH = 64  # particles compared at a time
SEEN = 16  # particles, evenly from all, that tell what of the structures is seen
READ = 1024  # rows of the table read at a time
SHARING = 40  # steps of expectation maximisation for the shares; many more would leave but a few landmarks
SAMPLE = 20_000  # training particles, evenly from all, that decide on the shares
RAREST = 1e-9  # share of a landmark that no particle is near
NEIGHBOURS = 5  # that tell how far apart landmarks are
CLOSEST = 0.05  # of the noise on latents in training: landmarks are never taken to be closer
APART = 0.5  # of that distance: how far from its place a landmark is drawn again (standard deviation)


@torch.no_grad()
def populate(
    model: DeformableMixture, study: Study, start: Callable[[], Float[Tensor, "image latent"]], seed: int
) -> Table:
    """Place the model's landmarks, compare all particles with them, and give them their shares.

    Args:
        model: its landmarks are changed; without any (no shares) they are placed where the encoder's latents are.
        study: the particles; those kept from training have no say in the shares.
        start: finds the encoder's latents, on the CPU.
        seed: of the places.

    Returns:
        What `compared` finds.
    """
    generator = torch.Generator().manual_seed(seed)
    known = float(model.landmark_share.sum()) > 0
    place = drawn_again(model, generator) if known else drawn_from(model, start(), generator)
    model.landmark.copy_(place)
    gains = compared(model, study.band)
    training = torch.nonzero(~study.held_out).flatten()
    chosen = training[:: max(1, -(-len(training) // SAMPLE))]
    model.landmark_share.copy_(shares(gains.read(chosen)))
    return gains


def drawn_from(
    model: DeformableMixture, latent: Float[Tensor, "image latent"], generator: torch.Generator
) -> Float[Tensor, "landmark latent"]:
    """Places: the latents of some particles, with the noise that is learnt (or that it begins with)."""
    count = len(model.landmark)
    rows = torch.cat([torch.randperm(len(latent), generator=generator) for _ in range(-(-count // len(latent)))])
    noise = torch.randn(count, model.latent_dim, generator=generator)
    return latent[rows[:count]] + model.encoder.deviation.detach().cpu() * noise


def drawn_again(model: DeformableMixture, generator: torch.Generator) -> Float[Tensor, "landmark latent"]:
    """Places near those of landmarks that are drawn by their shares."""
    place, portion, width = model.landmark.cpu(), model.landmark_share.cpu(), spacing(model)
    kept = torch.multinomial(portion, len(place), replacement=True, generator=generator)
    noise = torch.randn(place.shape, generator=generator)
    return place[kept] + width[kept, None] * noise


def spacing(model: DeformableMixture) -> Float[Tensor, " landmark"]:
    """How far each landmark may be moved along an axis: a part of the way to its neighbours.

    Never less than a part of what training took latents to be uncertain by, so that landmarks which have all come to
    one place can part again.
    """
    place = model.landmark.cpu()
    exact = "donot_use_mm_for_euclid_dist"
    apart = torch.cdist(place, place, compute_mode=exact).fill_diagonal_(torch.inf)
    nearest = apart.topk(min(NEIGHBOURS, len(place) - 1), largest=False).values.mean(1)
    least = CLOSEST * float(model.encoder.deviation.detach().min())
    return (APART * nearest / place.shape[1] ** 0.5).clamp(min=least)


@torch.no_grad()
def compared(model: DeformableMixture, band: Band) -> Table:
    """(image, landmark): by how many nats each landmark's structure makes each particle likelier than the neutral one.

    On disk, since it grows with the particles; processes that work together share it. Computed on the CPU.
    """
    if model.poses is not None:
        return compared_poses(model, band)
    subspace = landmark_subspace(model, band)
    table = make_table(len(band), (len(model.landmark),), np.float32)
    own = share(len(band))
    total = -(-(own.stop - own.start) // BATCH)
    for rows, batch in progress(band.batches(BATCH), "comparing with landmarks", total=total):
        table.write(int(rows[0]), subspace.gains(batch))
    barrier()
    return table


@torch.no_grad()
def landmark_subspace(model: DeformableMixture, band: Band, tolerance: Tolerance | None = None) -> Subspace:
    """The landmarks' structures, as what is quick to compare with the band's particles; on the CPU."""
    model.eval()
    structures = (model.decode(place) for place in model.landmark.split(BLOCK))
    sample = band.batch(torch.linspace(0, len(band) - 1, min(SEEN, len(band))).long())
    return subspace_of(structures, model.neutral, sample, tolerance)


def shares(gains: Float[Tensor, "image landmark"], steps: int = SHARING) -> Float[Tensor, " landmark"]:
    """Shares under which some particles are likeliest, by steps of expectation maximisation from equal ones."""
    portion = torch.full((gains.shape[1],), 1 / gains.shape[1], dtype=torch.float64)
    for _ in range(steps):
        total = torch.zeros_like(portion)
        for block in gains.split(READ):
            total += torch.softmax(portion.log() + block, dim=1).sum(0)
        portion = (total / len(gains)).clamp(min=RAREST)
    return (portion / portion.sum()).float()


def drawn(model: DeformableMixture, gains: Table, times: int, seed: int) -> Int[Tensor, "image time"]:
    """Landmarks drawn from each particle's posterior, so many times."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.empty(len(gains), times, dtype=torch.int16)
    for rows in torch.arange(len(gains)).split(READ):
        reached = probability(model, gains.read(rows)).cumsum(1)
        chance = torch.rand(len(rows), times, generator=generator, dtype=torch.float64)
        found[rows] = torch.searchsorted(reached, chance).clamp(max=reached.shape[1] - 1).to(torch.int16)
    return found


def probability(model: DeformableMixture, gains: Float[Tensor, "image landmark"]) -> Float[Tensor, "image landmark"]:
    """Of each landmark for each particle."""
    return torch.softmax(model.landmark_share.cpu().double().log() + gains, dim=1)


def evidence(model: DeformableMixture, gains: Float[Tensor, "image landmark"]) -> Float[Tensor, " image"]:
    """Nats by which particles whose landmarks are not known are likelier than if all were the neutral mixture."""
    return torch.logsumexp(model.landmark_share.cpu().double().log() + gains, dim=1)


def spread_gain(
    model: DeformableMixture, gains: Table, band: Band, judges: Bool[Tensor, " image"] | None = None
) -> Float[Tensor, " image"]:
    """Nats by which particles whose landmarks are not known are likelier than if the molecule were rigid.

    Of two rigid molecules (`DeformableMixture.rigid`) the one that the judges (all particles, if None) like better.
    """
    blocks = torch.arange(len(gains)).split(READ)
    spread, best = torch.cat([evidence(model, gains.read(rows)) for rows in blocks]), most_likely(gains)
    rigid = torch.zeros(len(gains)) if best is None else torch.cat([gains.read(rows)[:, best] for rows in blocks])
    if model.poses is not None:
        place = torch.zeros(model.latent_dim) if best is None else model.landmark[best].cpu()
        rigid = rigid + refitted(model, band, place)
    if model.rigid is not None:
        other = rigid_gain(model, band)
        better = other - rigid if judges is None or not judges.any() else (other - rigid)[judges]
        rigid = other if float(better.double().sum()) > 0 else rigid
    return spread - rigid


def most_likely(gains: Table) -> int | None:
    """The landmark whose structure suits all particles together best; None where the neutral mixture does."""
    total = torch.zeros(gains.shape[0], dtype=torch.float64)
    for rows in torch.arange(len(gains)).split(READ):
        total += gains.read(rows).double().sum(0)
    best = int(total.argmax())
    return best if float(total[best]) > 0 else None


def population(model: DeformableMixture) -> Prior:
    """The normal distribution with the landmarks' mean and covariance, each as wide as their spacing."""
    place, portion = model.landmark.cpu().double(), model.landmark_share.cpu().double()
    mean = portion @ place
    offset = place - mean
    width = (portion @ spacing(model).double().square()) * torch.eye(place.shape[1], dtype=torch.float64)
    return Prior(mean.float(), ((portion[:, None] * offset).T @ offset + width).float())


def moments(
    model: DeformableMixture, gains: Float[Tensor, "image landmark"]
) -> tuple[Posterior, Float[Tensor, "image latent"], Float[Tensor, " image"]]:
    """Mean and covariance of posteriors over landmarks, the most probable one, and how many are probable.

    Each landmark is as wide as it may be moved (`spacing`). Their number is one over the sum of squared probabilities.
    """
    place, chance = model.landmark.cpu().double(), probability(model, gains)
    mean = chance @ place
    outer = (place[:, :, None] * place[:, None, :]).flatten(start_dim=1)
    covariance = (chance @ outer).unflatten(1, (place.shape[1],) * 2) - mean[:, :, None] * mean[:, None, :]
    own = (chance @ spacing(model).double().square())[:, None, None]
    covariance = covariance + own * torch.eye(place.shape[1], dtype=torch.float64)
    most = place[chance.argmax(1)].float()
    return Posterior(mean.float(), covariance.float()), most, 1 / chance.square().sum(1).float()
