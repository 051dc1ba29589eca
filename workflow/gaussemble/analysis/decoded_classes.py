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
state may keep another out.) Then classes that seem to hold more than one state are split, each time one that is missed
least leaves, and that stays so where the posterior has risen by it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int
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
STARTS = (1, 2)  # times as many classes begin as there are to be, each tried, of
COMPETING = 4  # times as many landmarks
SHARING = 30  # steps that bring the shares of fixed maps to rest
CYCLES = 5  # of four steps each, at most, in which classes begin to move,
TRIAL_CYCLES = 15  # in which others show whether they are better,
MORE_CYCLES = 60  # and in which classes come to rest
SETTLED = 1e-7  # nats a particle: a cycle that gains less is the last
BETTER = 1.0  # nats of all particles by which other classes must be better, or they are no others
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
    starts = [climbed([many], begun(few, landmark, spread, count, times), spread, MORE_CYCLES) for times in STARTS]
    best = max(starts, key=lambda classes: objective([many], classes, spread))
    classes = climbed(seen, improved(many, best, spread), spread, MORE_CYCLES)
    say("latent: shares of the classes " + ", ".join(f"{part:.1%}" for part in classes.logit.exp().tolist()))
    return torch.cat([torch.softmax(classes.logs(block), dim=1) for block in seen]).numpy()


def spread_of(weight: Float64[Tensor, "landmark component"], share: Float64[Tensor, " landmark"]) -> Spread:
    """Mean and covariance of landmarks by their shares."""
    mean = share @ weight
    offset = weight - mean
    covariance = (share[:, None] * offset).mT @ offset
    least = (NARROWEST * covariance.trace() + 1e-30) * torch.eye(len(mean), dtype=torch.float64)
    return Spread(mean, torch.linalg.inv(covariance + least))


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


def improved(seen: Coordinates, classes: Classes, spread: Spread) -> Classes:
    """As many classes, of a posterior that no exchange makes higher; those that are given are at rest."""
    reached, left = objective([seen], classes, spread), exchanges(seen, classes)
    while left:
        trial = climbed([seen], left.pop(0), spread, TRIAL_CYCLES)
        value = objective([seen], trial, spread)
        if value > reached + BETTER / len(seen):
            classes, reached, left = trial, value, exchanges(seen, trial)
    return classes


def exchanges(seen: Coordinates, classes: Classes) -> list[Classes]:
    """As many classes, one as two and without another: each is split in turn, the most promising one first.

    Of the others the one leaves that is missed least (split and merge: Ueda et al., Neural Comput. 12, 2109 (2000)).
    What a class's map leaves of a particle's pull, b - G w, has the covariance G if the particle is of that map, and
    G + G S G if the class's particles are spread by S about it. The class becomes two along the direction in which that
    excess is greatest against G, a standard deviation of S to each side.
    """
    share = torch.softmax(classes.logs(seen), dim=1)
    number = share.sum(0).clamp(min=1)
    expected = seen.totals(share)[1] / number[:, None, None]
    found = torch.zeros_like(expected)
    for rows in torch.arange(len(seen)).split(BLOCK):
        block = seen[rows]
        for one, weight in enumerate(classes.weight):
            rest = block.left(weight).double()
            found[one] += (share[rows, one, None] * rest).mT @ rest / number[one]
    least = (NARROWEST * expected.diagonal(dim1=1, dim2=2).mean(1) + 1e-30)[:, None, None]
    root = torch.linalg.cholesky(expected + least * torch.eye(expected.shape[1], dtype=torch.float64))
    half = torch.linalg.solve_triangular(root, found, upper=False)
    excess, axes = torch.linalg.eigh(torch.linalg.solve_triangular(root, half.mT, upper=False))
    most = (excess[:, -1] - 1).clamp(min=0)
    step = most.sqrt()[:, None] * torch.linalg.solve_triangular(root.mT, axes[:, :, -1:], upper=True)[..., 0]
    lost = left_without(seen.gains(classes.weight).double(), classes.logit.exp())
    order = (number * most.square()).argsort(descending=True)  # nats that the excess is worth, but for a factor
    return [exchange(classes, int(one), step[one], lost) for one in order if most[one] > 0]


def exchange(
    classes: Classes, split: int, step: Float64[Tensor, " component"], lost: Float64[Tensor, " class"]
) -> Classes:
    """One class as two, a step to each side with half of its share each, without the least missed of the others.

    Args:
        classes: two at least.
        split: which of them is split.
        step: how far.
        lost: what the log-likelihood changes by without each.
    """
    weight, logit = classes.weight.clone(), classes.logit.clone()
    weight[split] += step
    logit[split] -= np.log(2)
    more = Classes(torch.cat([weight, (weight[split] - 2 * step)[None]]), torch.cat([logit, logit[split, None]]))
    others = lost.index_fill(0, torch.tensor([split]), -torch.inf)
    return more[torch.arange(len(more)) != int(others.argmax())]


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
        own_pull, own_curvature = block.totals(share)
        pull, curvature = pull + own_pull, curvature + own_curvature
        number, value = number + share.sum(0), value + float(whole.sum())
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
