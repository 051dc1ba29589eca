"""The epochs of a training's rounds, and how the learning rate goes through them.

Each round warms up to its rate; those of the population, or else the last one, and the last one before them come down
from it as a cosine.
"""

import math
from dataclasses import dataclass

from gaussemble.fit.rounds import Round


@dataclass(frozen=True)
class Epoch:
    """One pass over the particles, or the part of one that ends a round."""

    number: int  # from 1
    round: int  # from 1
    settings: Round
    first: int  # steps of the round before it
    steps: int
    round_steps: int
    falls: bool  # whether the learning rate falls in its round


def plan_epochs(rounds: list[Round], steps: int) -> list[Epoch]:
    """The epochs of all rounds; `steps` is how many a whole one has, and a round's last may be a part of one."""
    plan: list[Epoch] = []
    for number, settings in enumerate(rounds, start=1):
        whole = max(1, round(settings.epochs * steps))
        for first in range(0, whole, steps):
            falls = number == len(rounds) or rounds[number].population
            plan.append(Epoch(len(plan) + 1, number, settings, first, min(steps, whole - first), whole, falls))
    return plan


def rate_share(done: int, steps: int, falls: bool = True) -> float:
    """Share of the highest learning rate after `done` of `steps` steps: a tenth up, then level, or down as a cosine."""
    rising = max(1, steps // 10)
    if done < rising:
        return (done + 1) / rising
    if not falls:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (done - rising) / max(1, steps - rising)))


def rate_of(epoch: Epoch, step: int, highest: float) -> float:
    """The learning rate of a step of an epoch, `highest` where its round has none of its own."""
    share_of_it = rate_share(epoch.first + step, epoch.round_steps, epoch.falls)
    return (epoch.settings.learning_rate or highest) * share_of_it
