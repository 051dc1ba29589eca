"""Other classes, as many, that particles may like better: where expectation maximisation has come to rest and stays.

Two classes may hold one state between them, and one class two states, and no small step mends that. So the two that are
most alike are made one, and one class is made two, or one that the others suggest is added; steps of expectation
maximisation then show whether the posterior has risen (split and merge: Ueda et al., Neural Comput. 12, 2109 (2000)).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from gaussemble.analysis.class_maps import NARROWEST, Classes, Spread, climbed, objective
from gaussemble.fit.coordinates import Coordinates

TRIAL_CYCLES = 15  # of four steps each, at most, in which other classes show whether they are better
TRIALS = 4000  # exchanges that are tried, times the number of classes: what a trial costs grows with it
BETTER = 1.0  # nats of all particles by which they must be, or they are no others
BLOCK = 4096  # particles worked on at a time,
ABREAST = 64  # and structures
SQUARES = 2000  # maps made of three classes that are weighed, at most,
TRIED = 16  # and tried
LEAST_SHARE = 0.03  # of the particles, over the number of classes: what takes less is a few particles' noise
WEIGHING = 30  # steps that find the share of such a map
DIFFERENT = 0.5  # nats, twice what a particle of one of two structures says against the other in the mean
PAIRS = 4  # of neighbours for each class, that may become one
LARGEST = 50.0  # nats for a structure over all classes, for a single particle
TINY = 1e-300  # of likelihoods, so that they have logarithms


def improved(seen: Coordinates, classes: Classes, spread: Spread) -> Classes:
    """As many classes, of a posterior that no exchange makes higher, or that `TRIALS` of them did not."""
    classes = climbed([seen], classes, spread, TRIAL_CYCLES)
    reached, left = objective([seen], classes, spread), TRIALS // len(classes)
    others = exchanges(seen, classes)
    while left and (other := next(others, None)):
        trial = climbed([seen], other, spread, TRIAL_CYCLES)
        value, left = objective([seen], trial, spread), left - 1
        if value > reached + BETTER / len(seen):
            classes, reached, others = trial, value, exchanges(seen, trial)
    return classes


def exchanges(seen: Coordinates, classes: Classes) -> Iterator[Classes]:
    """All that are worth a trial, the most promising first: of one class none, of two no more than a split."""
    if len(classes) > 1:
        yield from split_ones(seen, classes)
    if len(classes) > 2:
        yield from squared_ones(seen, classes)


def split_ones(seen: Coordinates, classes: Classes) -> list[Classes]:
    """As many classes, one as two and two others as one: each is split in turn, the most promising one first.

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
    order = (number * most.square()).argsort(descending=True)  # nats that the excess is worth, but for a factor
    unions = Unions.of(seen, classes)
    return [unions.split(int(one), step[one]) for one in order if most[one] > 0]


def squared_ones(seen: Coordinates, classes: Classes) -> list[Classes]:
    """As many classes, two as one and one more that the others suggest; the most promising one first.

    Where parts come and go, what one state has and another has not is what a third one may have too: w_a + w_b - w_c
    completes the square. Such a map is worth what particles gain if it takes a share of theirs, the others as they are.
    """
    first, second, third = triples(len(classes))
    weight = classes.weight[first] + classes.weight[second] - classes.weight[third]
    before = classes.logs(seen).logsumexp(1, keepdim=True)
    found = [worth(seen.gains(block).double() - before) for block in weight.split(ABREAST)]
    gain, share = (torch.cat(each) for each in zip(*found, strict=True))
    order = torch.nonzero(share > LEAST_SHARE / len(classes)).flatten()
    order = order[gain[order].argsort(descending=True)]
    rest = Unions.of(seen, classes).without()
    return [joined(rest, weight[one], share[one]) for one in apart(seen, weight, order, classes.weight)]


def triples(count: int) -> tuple[Int[Tensor, " triple"], Int[Tensor, " triple"], Int[Tensor, " triple"]]:
    """Three classes each, the first two in either order once: all, or `SQUARES` of them, the same each time."""
    pair, third = count * (count - 1) // 2, count - 2
    chosen = torch.arange(pair * third)
    if len(chosen) > SQUARES:
        chosen = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))[:SQUARES]
    first, second = torch.triu_indices(count, count, offset=1)[:, chosen // third]
    other = chosen % third  # among those that are neither: the first and second come before some of them
    other = other + (other >= first)
    return first, second, other + (other >= second)


def worth(
    log_ratio: Float64[Tensor, "particle structure"],
) -> tuple[Float64[Tensor, " structure"], Float64[Tensor, " structure"]]:
    """Nats that each structure by itself adds to the particles' likelihood, and the share with which it does.

    `log_ratio` is of its likelihood over that of all classes.
    """
    ratio = log_ratio.clamp(max=LARGEST).exp()
    share = torch.full((ratio.shape[1],), 1 / 100, dtype=ratio.dtype)
    for _ in range(WEIGHING):
        share = (share * ratio / (1 + share * (ratio - 1))).mean(0)
    return torch.log1p(share * (ratio - 1)).sum(0), share


@dataclass(frozen=True)
class Unions:
    """Which two of some classes are missed least once one map stands for both."""

    classes: Classes
    first: Int[Tensor, " pair"]
    second: Int[Tensor, " pair"]
    change: Float64[Tensor, " pair"]  # of the log-likelihood, the others as they are

    @classmethod
    def of(cls, seen: Coordinates, classes: Classes) -> "Unions":
        """Pairs of neighbours, each with a map in the middle, by shares."""
        first, second = neighbours(seen, classes)
        united, logs = united_ones(classes, first, second), classes.logs(seen)
        whole = logs.logsumexp(1, keepdim=True)
        share, change = (logs - whole).exp(), []
        for block in torch.arange(len(first)).split(ABREAST):
            own = (Classes(united.weight[block], united.logit[block]).logs(seen) - whole).clamp(max=LARGEST).exp()
            others = (1 - share[:, first[block]] - share[:, second[block]]).clamp(min=0)
            change.append((others + own).clamp(min=TINY).log().sum(0))
        return cls(classes, first, second, torch.cat(change))

    def without(self, kept: int = -1) -> Classes:
        """The classes but for `kept`, two of them as one; of two classes the other leaves."""
        proper = (self.first != kept) & (self.second != kept)
        if not proper.any():
            return Classes(self.classes.weight[:0], self.classes.logit[:0])
        pair = int(self.change.masked_fill(~proper, -torch.inf).argmax())
        first, second = self.first[pair, None], self.second[pair, None]
        one, number = united_ones(self.classes, first, second), torch.arange(len(self.classes))
        rest = (number != kept) & (number != first) & (number != second)
        weight, logit = self.classes.weight[rest], self.classes.logit[rest]
        return Classes(torch.cat([weight, one.weight]), torch.cat([logit, one.logit]))

    def split(self, one: int, step: Float64[Tensor, " component"]) -> Classes:
        """One class as two, a step to each side with half of its share each, and two others as one."""
        weight, logit = self.classes.weight[one], self.classes.logit[one] - math.log(2)
        rest, both = self.without(one), torch.stack([weight + step, weight - step])
        logit = torch.log_softmax(torch.cat([rest.logit, logit.expand(2)]), 0)
        return Classes(torch.cat([rest.weight, both]), logit)


def neighbours(seen: Coordinates, classes: Classes) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """The pairs whose union ought to cost the particles least, `PAIRS` for each class.

    With shares p and q, and maps that particles see to differ by half of d² nats, p q / (p + q) d² (Ward 1963): what
    holds few particles costs little wherever it goes.
    """
    first, second = torch.triu_indices(len(classes), len(classes), offset=1)
    offset, share = classes.weight[first] - classes.weight[second], classes.logit.exp()
    apart = ((offset @ mean_curvature(seen)) * offset).sum(1)
    cost = share[first] * share[second] / (share[first] + share[second]) * apart
    order = cost.argsort()[: PAIRS * len(classes)]
    return first[order], second[order]


def mean_curvature(seen: Coordinates) -> Float64[Tensor, "component component"]:
    """G of particles in the mean: what they see of differences."""
    return seen.totals(torch.ones(len(seen), 1))[1][0] / len(seen)


def united_ones(classes: Classes, first: Int[Tensor, " pair"], second: Int[Tensor, " pair"]) -> Classes:
    """One class for each pair, of their mean map by shares, and with both shares."""
    logit = torch.logaddexp(classes.logit[first], classes.logit[second])
    part = (classes.logit[first] - logit).exp()[:, None]
    return Classes(part * classes.weight[first] + (1 - part) * classes.weight[second], logit)


def joined(classes: Classes, weight: Float64[Tensor, " component"], share: Float64[Tensor, ""]) -> Classes:
    """One class more, with its share."""
    logit = torch.cat([classes.logit + torch.log1p(-share), share.log()[None]])
    return Classes(torch.cat([classes.weight, weight[None]]), logit)


def apart(
    seen: Coordinates,
    weight: Float64[Tensor, "structure component"],
    order: Int[Tensor, " chosen"],
    present: Float64[Tensor, "class component"],
) -> list[int]:
    """The first of some structures that differ by as much as a particle may see from each other and from those present.

    `TRIED` at most.
    """
    whole, known, kept = mean_curvature(seen), present, list[int]()
    for one in order.tolist():
        offset = weight[one] - known
        if float(((offset @ whole) * offset).sum(1).min()) > DIFFERENT:
            known = torch.cat([known, weight[one, None]])
            kept.append(one)
        if len(kept) == TRIED:
            break
    return kept
