"""Classes as a few maps that share the particles out among them by likelihood, as in 3D classification.

k-means and mixtures divide latents, each of which has been drawn towards the prior by as much as its view is poor. Here
every particle is compared with the K maps themselves, and says by its probabilities how sure it is. A class's map is
the neutral mixture's and a sum, of weights w_k, of the components in which the model's landmarks differ. With b_i and
G_i what a particle's image says of weights (`fit.coordinates`), and r_ik the probability of class k for particle i, a
step of expectation maximisation is exact, and takes no image:

    r_ik ~ share_k exp(w_k·b_i - 1/2 w_k·G_i w_k)
    w_k  = (sum_i r_ik G_i + C^-1)^-1 (sum_i r_ik b_i + C^-1 m)

N(m, C) is how landmarks' weights are spread, and what classes are expected to be drawn from. Such steps lead to the
greatest posterior near where they begin, so where they begin matters: at landmarks that the particles would miss most,
more of them than there are to be classes, of which those stay that are missed most once they have moved. (k-means
divides what is frequent before it tells apart what is rare, and no later step mends that; and two landmarks of one
state may keep another out.) Then landmarks that particles still want take the place of classes that are missed least,
while the posterior rises by it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from gaussemble.fit.band import Band
from gaussemble.fit.coordinates import Coordinates, coordinates_of
from gaussemble.fit.population import landmark_subspace
from gaussemble.fit.subspace import Tolerance
from gaussemble.model.heterogeneity import DeformableMixture
from gaussemble.progress import say

NEAR = Tolerance(nats=0.01, share=1e-3, power=1e-4, most=48)  # a particle's numbers grow with the square of the last
CHOOSING = 10_000  # particles, evenly from all and no more, that choose among landmarks,
SEARCHING = 50_000  # and that look for better classes
STARTS = 2  # times as many classes begin as there are to be, of
COMPETING = 4  # times as many landmarks
SHARING = 30  # steps that bring the shares of fixed maps to rest
CYCLES = 5  # of four steps each, at most, in which classes move; and when all particles have their say
LAST_CYCLES = 100
SETTLED = 1e-6  # nats a particle: a cycle that gains less is the last
ADDED = 0.1  # of a mean class's share: with so much a landmark begins
TRIALS = 8  # landmarks in a row that bring nothing: then no more are tried
BLOCK = 4096  # particles whose gains are worked on at a time
RAREST = 1e-9  # share of a class that no particle is in
NARROWEST = 1e-6  # of the components' whole variance, added to each: few landmarks may not span them


@dataclass(frozen=True)
class Classes:
    """Weights of the classes' maps in some components, and the logarithms of their shares of the particles."""

    weight: Float64[Tensor, "class component"]
    logit: Float64[Tensor, " class"]

    def __len__(self) -> int:
        return len(self.logit)

    def __getitem__(self, kept: Tensor) -> "Classes":
        """Some of them, whose shares sum to 1 again."""
        return Classes(self.weight[kept], torch.log_softmax(self.logit[kept], 0))

    def with_one(self, weight: Float64[Tensor, " component"]) -> "Classes":
        """One more, which takes a part of a mean share from the others."""
        share = torch.cat([self.logit.exp(), torch.full((1,), ADDED / len(self), dtype=torch.float64)])
        return Classes(torch.cat([self.weight, weight[None]]), (share / share.sum()).log())

    def logs(self, seen: Coordinates) -> Float64[Tensor, "particle class"]:
        """Of share times likelihood, over the reference's."""
        return seen.gains(self.weight).double() + self.logit


@dataclass(frozen=True)
class Spread:
    """The normal distribution that classes' weights are expected to be drawn from."""

    mean: Float64[Tensor, " component"]
    precision: Float64[Tensor, "component component"]

    def cost(self, weight: Float64[Tensor, "class component"]) -> float:
        """Minus the logarithm of its density in nats, summed, up to a constant."""
        offset = weight - self.mean
        return 0.5 * float((offset @ self.precision * offset).sum())


def class_probabilities(model: DeformableMixture, band: Band, count: int) -> Float64[np.ndarray, "particle class"]:
    """Probabilities of so many classes, found from a model's landmarks; computed on the CPU."""
    subspace = landmark_subspace(model.cpu().requires_grad_(False), band, NEAR)
    order = model.landmark_share.argsort(descending=True)
    landmark, share = subspace.weight[order].double(), model.landmark_share[order].double()
    seen, spread = coordinates_of(subspace, band), spread_of(landmark, share)
    few, many = (seen.of(torch.arange(len(seen))[:: -(-len(seen) // most)]) for most in (CHOOSING, SEARCHING))
    classes = exchanged(many, begun(few, landmark, spread, count), landmark, spread)
    classes = climbed(seen, classes, spread, LAST_CYCLES)
    say("latent: shares of the classes " + ", ".join(f"{part:.1%}" for part in classes.logit.exp().tolist()))
    return torch.cat([torch.softmax(classes.logs(block), dim=1) for block in seen]).numpy()


def spread_of(weight: Float64[Tensor, "landmark component"], share: Float64[Tensor, " landmark"]) -> Spread:
    """Mean and covariance of landmarks by their shares."""
    mean = share @ weight
    offset = weight - mean
    covariance = (share[:, None] * offset).mT @ offset
    least = (NARROWEST * covariance.trace() + 1e-30) * torch.eye(len(mean), dtype=torch.float64)
    return Spread(mean, torch.linalg.inv(covariance + least))


def begun(seen: Coordinates, landmark: Float64[Tensor, "landmark component"], spread: Spread, count: int) -> Classes:
    """Classes that begin at landmarks, of which the first ones have most particles."""
    competing = landmark[: COMPETING * STARTS * count]
    gains = seen.gains(competing).double()
    start = competing[most_needed(gains, min(STARTS * count, len(competing)))]
    equal = torch.full((len(start),), 1 / len(start), dtype=torch.float64).log()
    moved = climbed([seen], Classes(start, equal), spread, CYCLES)
    return moved[most_needed(seen.gains(moved.weight).double(), count)]


def exchanged(
    seen: Coordinates, classes: Classes, landmark: Float64[Tensor, "landmark component"], spread: Spread
) -> Classes:
    """The same number of classes of a higher posterior, as far as some landmark instead of some class leads there.

    The landmark is tried first that would make the particles likeliest if it took a tenth of a mean class's share. (Of
    all mixtures the likeliest is that to which no structure can be added with gain: Lindsay, Ann. Stat. 11, 86, 1983.)
    """
    classes = climbed([seen], classes, spread, CYCLES)
    reached, gains = objective([seen], classes, spread), seen.gains(landmark)
    tried = torch.zeros(len(landmark), dtype=torch.bool)
    while tried.sum() < min(TRIALS, len(landmark)):
        wanted = rise(gains, classes.logs(seen).logsumexp(1), ADDED / len(classes)).masked_fill(tried, -torch.inf)
        best = int(wanted.argmax())
        if wanted[best] <= 0:
            break
        more = climbed([seen], classes.with_one(landmark[best]), spread, CYCLES)
        lost = left_without(seen.gains(more.weight).double(), more.logit.exp())
        trial = climbed([seen], more[torch.arange(len(more)) != int(lost.argmax())], spread, CYCLES)
        value = objective([seen], trial, spread)
        tried[best] = True
        if value > reached + SETTLED:
            classes, reached = trial, value
            tried[:] = False
    return classes


def rise(
    gains: Float[Tensor, "particle structure"], mixture: Float64[Tensor, " particle"], share: float
) -> Float64[Tensor, " structure"]:
    """By how many nats a particle of unknown class becomes likelier, in the mean, if a structure takes so much."""
    total = torch.zeros(gains.shape[1], dtype=torch.float64)
    for block, own in zip(gains.split(BLOCK), mixture.split(BLOCK), strict=True):
        ahead = block.double() - own[:, None] + np.log(share)
        total += torch.logaddexp(ahead, torch.full_like(ahead, np.log1p(-share))).sum(0)
    return total / len(gains)


def climbed(seen: Iterable[Coordinates], classes: Classes, spread: Spread, cycles: int) -> Classes:
    """Classes of a greater posterior by steps of expectation maximisation, two of which tell where many would lead.

    Noisy particles make steps short. With r the first step, v what the second differs from it by and a = |r|/|v|, the
    place 2 a r + a² v ahead is tried (SQUAREM: Varadhan & Roland, Scand. J. Stat. 35, 335 (2008)), and taken where it
    is no worse than that of two plain steps.
    """
    before = -torch.inf
    for _ in range(cycles):
        first, value = stepped(seen, classes, spread)
        if value - before < SETTLED:
            break
        before = value
        second, _ = stepped(seen, first, spread)
        third, plain = stepped(seen, second, spread)
        ahead = extrapolated(classes, first, second)
        after, reached = stepped(seen, ahead, spread)
        classes = after if reached >= plain else third
    return classes


def extrapolated(start: Classes, first: Classes, second: Classes) -> Classes:
    """Where two steps point to."""
    at = [torch.cat([each.weight, each.logit[:, None]], dim=1) for each in (start, first, second)]
    step, change = at[1] - at[0], at[2] - 2 * at[1] + at[0]
    far = max(1.0, float(step.norm() / change.norm().clamp(min=1e-30)))
    place = at[0] + 2 * far * step + far**2 * change
    return Classes(place[:, :-1], torch.log_softmax(place[:, -1].clamp(min=float(np.log(RAREST))), 0))


def stepped(seen: Iterable[Coordinates], classes: Classes, spread: Spread) -> tuple[Classes, float]:
    """One step of expectation maximisation, and the objective where it begins."""
    count, components = classes.weight.shape
    pull = torch.zeros(count, components, dtype=torch.float64)
    curvature = torch.zeros(count, components, components, dtype=torch.float64)
    number, value = torch.zeros(count, dtype=torch.float64), 0.0
    for block in seen:
        logs = classes.logs(block)
        whole = logs.logsumexp(1, keepdim=True)
        share = (logs - whole).exp()
        one, other = block.totals(share)
        pull, curvature, number, value = (
            pull + one,
            curvature + other,
            number + share.sum(0),
            value + float(whole.sum()),
        )
    weight = torch.linalg.solve(curvature + spread.precision, pull + spread.precision @ spread.mean)
    total = float(number.sum())
    logit = (number / total).clamp(min=RAREST).log()
    return Classes(weight, torch.log_softmax(logit, 0)), (value - spread.cost(classes.weight)) / total


def objective(seen: Iterable[Coordinates], classes: Classes, spread: Spread) -> float:
    """Nats a particle: log-likelihood over the reference's, and the logarithm of the classes' prior."""
    logs = torch.cat([classes.logs(block).logsumexp(1) for block in seen])
    return float(logs.sum() - spread.cost(classes.weight)) / len(logs)


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
