"""Gaussians of negative amplitude beside positive ones: solvent below zero, and the ripples of a sharpened map.

Positive Gaussians cannot draw these, however many there are. New Gaussians of both signs come where map and mixture
differ most; each keeps its sign, so that what is molecule and what is not can be told apart in the mixture.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from gaussemble.fit.asymmetric import folded, joined
from gaussemble.fit.growth import BESIDE, OUTSIDE, Round, as_mixture, cells_of, room
from gaussemble.fit.parameters import copied
from gaussemble.fit.projections import Target
from gaussemble.physics.masks import low_pass
from gaussemble.quantities import Mixture


def out_of_reach(rounds: list[Round], target: Target, wanted: float, most: int, least: float) -> bool:
    """Whether positive Gaussians would stay below the FSC that is wanted, at the resolution of the last round.

    So it is where there is no room for `least` times as many. Else it is judged by the last two numbers at this
    resolution: a line over the logarithm of the number, up to as many as there is room for. Gains become smaller, so
    that the line flatters.
    """
    now, same = rounds[-1], [one for one in rounds[:-1] if one.resolution == rounds[-1].resolution]
    if least * now.gaussians > room(target, most):
        return True
    if not same or same[-1].gaussians == now.gaussians:
        return False
    slope = (now.lowest_fsc - same[-1].lowest_fsc) / math.log(now.gaussians / same[-1].gaussians)
    return now.lowest_fsc + slope * math.log(room(target, most) / now.gaussians) < wanted


def refined(
    unit: Mixture, operators: Float[Tensor, "operator 3 3"], target: Target, resolution: float, most: int, seed: int
) -> Mixture:
    """The Gaussians of the asymmetric unit as they are, in their order, and half as many new ones of both signs.

    New ones are k-means cells of what the map has more than the mixture, and of what it has less, as many of each as
    these differences (low-passed as a point at `resolution` Å) weigh.
    """
    whole = copied(unit, operators)
    rest = low_pass(target.density * target.mask - target.drawn(whole), target.pixel_size, resolution)
    rest = torch.where(target.mask > OUTSIDE, rest * target.mask, 0.0)
    more = (min(round(BESIDE * len(whole)), room(target, most)) - len(whole)) // len(operators)
    positive = round(more * float(rest.clamp(min=0).sum() / rest.abs().sum().clamp(min=1e-30)))
    for sign, count in ((1, positive), (-1, more - positive)):
        if count > 0:
            cells = cells_of((sign * rest).clamp(min=0), target, count * len(operators), seed)
            new = as_mixture(cells, target, resolution)
            new = new if len(operators) == 1 else folded(new, operators, seed)
            unit = joined(unit, Mixture(new.center, sign * new.amplitude, new.width))
    return unit
