"""Classes as a few maps that share the particles out among them by likelihood, as in 3D classification.

k-means and mixtures divide latents, each of which has been drawn towards the prior by as much as its view is poor. Here
every particle is compared with the K maps themselves, and says by its probabilities how sure it is. A class's map is
the neutral mixture's and a sum of the components in which the model's landmarks differ, and what classes are expected
to be drawn from is how landmarks are spread (`class_maps`).

Steps of expectation maximisation lead to the greatest posterior near where they begin, so where they begin matters: at
landmarks that the particles would miss most, more of them than there are to be classes, of which those stay that are
missed most once they have moved. (k-means divides what is frequent before it tells apart what is rare, and no later
step mends that; and two landmarks of one state may keep another out.) Then classes are exchanged for others for as long
as that makes the particles likelier (`class_exchanges`).
"""

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from gaussemble.analysis.class_exchanges import improved
from gaussemble.analysis.class_maps import RAREST, Classes, Spread, climbed, objective, spread_of
from gaussemble.fit.band import Band
from gaussemble.fit.coordinates import Coordinates, coordinates_of
from gaussemble.fit.population import landmark_subspace
from gaussemble.fit.subspace import Tolerance
from gaussemble.model.heterogeneity import DeformableMixture
from gaussemble.progress import say

NEAR = Tolerance(nats=0.01, share=1e-3, power=1e-4, most=48)  # a particle's numbers grow with the square of the last
CHOOSING = 10_000  # particles, evenly from all and no more, that choose among landmarks,
SEARCHING = 50_000  # and that look for better classes
STARTS = (1, 2)  # times as many classes begin as there are to be, each tried, of
COMPETING = 4  # times as many landmarks
SHARING = 30  # steps that bring the shares of fixed maps to rest
CYCLES = 5  # of four steps each, at most, in which classes begin to move,
MORE_CYCLES = 60  # in which they come near rest
LAST_CYCLES = 500  # and to rest, with all particles: states that look alike take long


def class_probabilities(model: DeformableMixture, band: Band, count: int) -> Float64[np.ndarray, "particle class"]:
    """Probabilities of so many classes, found from a model's landmarks; computed on the CPU."""
    subspace = landmark_subspace(model.cpu().requires_grad_(False), band, NEAR)
    order = model.landmark_share.argsort(descending=True)
    landmark, share = subspace.weight[order].double(), model.landmark_share[order].double()
    seen, spread = coordinates_of(subspace, band), spread_of(landmark, share)
    few, many = (seen.of(torch.arange(len(seen))[:: -(-len(seen) // most)]) for most in (CHOOSING, SEARCHING))
    starts = [climbed([many], begun(few, landmark, spread, count, times), spread, MORE_CYCLES) for times in STARTS]
    best = max(starts, key=lambda classes: objective([many], classes, spread))
    classes = climbed(seen, improved(many, best, spread), spread, LAST_CYCLES)
    say("latent: shares of the classes " + ", ".join(f"{part:.1%}" for part in classes.logit.exp().tolist()))
    return torch.cat([torch.softmax(classes.logs(block), dim=1) for block in seen]).numpy()


def begun(
    seen: Coordinates, landmark: Float64[Tensor, "landmark component"], spread: Spread, count: int, times: int
) -> Classes:
    """Classes that stay of so many times as many, which begin at landmarks; the first of these have most particles."""
    competing = landmark[: COMPETING * times * count]
    gains = seen.gains(competing).double()
    start = competing[most_needed(gains, min(times * count, len(competing)))]
    equal = torch.full((len(start),), 1 / len(start), dtype=torch.float64).log()
    moved = climbed([seen], Classes(start, equal), spread, CYCLES)
    return moved[most_needed(seen.gains(moved.weight).double(), count)]


def most_needed(gains: Float64[Tensor, "particle start"], count: int) -> Int[Tensor, " class"]:
    """Which of some structures to keep so that the particles stay as likely as can be: the others leave one by one.

    Each time the one leaves without which `sum_i log sum_k share_k p(particle_i | k)` is greatest, its share given to
    the others in proportion to theirs; then the shares come to rest again.

    Args:
        gains: log-likelihoods, up to a constant for each particle.
        count: structures to keep.
    """
    kept = torch.arange(gains.shape[1])
    share = torch.full((len(kept),), 1 / len(kept), dtype=gains.dtype)
    while True:
        share = shares_at_rest(gains[:, kept], share)
        if len(kept) <= count:
            return kept
        stays = torch.arange(len(kept)) != int(left_without(gains[:, kept], share).argmax())
        kept, share = kept[stays], share[stays] / share[stays].sum()


def left_without(
    gains: Float64[Tensor, "particle class"], share: Float64[Tensor, " class"]
) -> Float64[Tensor, " class"]:
    """How the log-likelihood of all particles changes if one class leaves, for each of them.

    A particle of probability r for it becomes 1 - r times as likely. Where r is nearly 1, which only the most probable
    class's can be, 1 - r is summed from the others.
    """
    logs = share.log() + gains
    whole, first = logs.logsumexp(1, keepdim=True), logs.argmax(1, keepdim=True)
    others = logs.scatter(1, first, -torch.inf).logsumexp(1, keepdim=True)
    change = torch.log1p(-(logs - whole).exp()).scatter(1, first, others - whole)
    return change.sum(0) - len(gains) * torch.log1p(-share)


def shares_at_rest(
    gains: Float64[Tensor, "particle class"], share: Float64[Tensor, " class"]
) -> Float64[Tensor, " class"]:
    """Shares of the greatest likelihood of fixed structures, by expectation maximisation."""
    for _ in range(SHARING):
        share = torch.softmax(share.log() + gains, dim=1).mean(0).clamp(min=RAREST)
    return share / share.sum()
