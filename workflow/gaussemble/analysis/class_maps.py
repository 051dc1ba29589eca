"""Maps of a few classes, and expectation maximisation for them by numbers that say what every particle saw.

A class's map is a reference's and a sum, of weights w_k, of some components (`fit.coordinates`). With b_i and G_i what
a particle's image says of weights, and r_ik the probability of class k for particle i, a step is exact, and takes no
image:

    r_ik ~ share_k exp(w_k·b_i - 1/2 w_k·G_i w_k)
    w_k  = (sum_i r_ik G_i + C^-1)^-1 (sum_i r_ik b_i + C^-1 m)

where N(m, C) is what the weights are expected to be drawn from.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from gaussemble.fit.coordinates import Coordinates

SETTLED = 1e-7  # nats a particle: a cycle that gains less is the last
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


def spread_of(weight: Float64[Tensor, "landmark component"], share: Float64[Tensor, " landmark"]) -> Spread:
    """Mean and covariance of landmarks by their shares."""
    mean = share @ weight
    offset = weight - mean
    covariance = (share[:, None] * offset).mT @ offset
    least = (NARROWEST * covariance.trace() + 1e-30) * torch.eye(len(mean), dtype=torch.float64)
    return Spread(mean, torch.linalg.inv(covariance + least))


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
