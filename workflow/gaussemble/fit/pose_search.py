"""What poses of a rigid domain are looked for with: the domain, what particles show of it, and how far to go."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaussemble.fit.band import Band
from gaussemble.fit.poses import FINER, Domain, Poses, ShownTable, domain_in, information, shown_table
from gaussemble.fit.shape import APART, reach_of
from gaussemble.physics.beads import FINE
from gaussemble.quantities import Mixture

MOST, DISK = 50_000, 8e9  # particles, evenly from all, that decide on the poses; bytes of what they show
STRIDES = 2  # rounds of one stride
FAR = 15.0  # Å of the first strides, of the centre and at a radius of gyration; the last are what one particle tells
NEAREST = 0.7  # of that
ROUGH = 4.5  # what FINE is of a shape that is still smeared, which has Gaussians everywhere

Shape = tuple[Mixture, Mixture]  # what stands still, and the domain at rest


@dataclass(frozen=True)
class Looked:
    """A domain as the particles show it."""

    domain: Domain
    seen: ShownTable  # of the particles that decide,
    unseen: ShownTable  # and of those that only watch
    deviation: Float[Tensor, "six six"]  # square root of the covariance of a small motion as one particle tells it
    half_turn: Float[Tensor, "3 3 3"]  # about the domain's principal axes

    def gains(self, table: ShownTable, poses: Poses) -> Float[Tensor, "image pose"]:
        """Of this process's particles."""
        empty = torch.zeros(0, len(poses))
        return torch.cat([empty, *(self.domain.gains(shown, poses) for shown in table)])


@dataclass(frozen=True)
class Wanted:
    """What is to be found."""

    poses: int  # at most
    shape: bool  # the domain's too
    seed: int


@dataclass(frozen=True)
class Search(Looked):
    """What poses are looked for with."""

    band: Band
    rows: tuple[Int[Tensor, " decide"], Int[Tensor, " watch"]]  # of the particles that decide, and of the others
    mapped: Shape  # as the map has it
    farthest: float  # Å from the domain's centre to the last of what a map shows of it
    wanted: Wanted

    @property
    def reach(self) -> float:
        """Å from the domain's centre, beyond which it has nothing."""
        return min(self.farthest, reach_of(self.domain.body, APART * self.band.resolution))

    def of(self, shape: Shape, fine: float = FINE) -> "Search":
        """The same for other matter, whose tables take the place of this one's; `fine`: see `beads_of`."""
        domain = domain_in(*shape, self.band, fine=fine)
        return replace(self, **vars(look(domain, self.band, self.rows, (self.seen, self.unseen))))

    def stride(self, number: int, rounds: int) -> Float[Tensor, "six six"]:
        """Square root of the covariance of what is tried in a round: from far to near in even ratios, and on so."""
        done = min(1.0, STRIDES * (number // STRIDES) / max(1, rounds - 2 * STRIDES))
        far = torch.tensor(3 * [FAR / self.domain.beads.radius] + 3 * [FAR])
        near = NEAREST * self.deviation.square().sum(1).sqrt()  # of each motion
        scale = (far / near).clamp(min=1) ** (1 - done)
        return NEAREST * scale[:, None] * self.deviation


def prepare_search(domain: Domain, band: Band, held_out: Tensor, wanted: Wanted) -> Search:
    """Look at the domain in particles that decide on poses, and in those that only watch."""
    most = min(MOST, int(DISK / (4 * (FINER * domain.box) ** 2)))
    decide, watch = (torch.nonzero(one).flatten() for one in (~held_out, held_out))
    rows = (decide[:: max(1, -(-len(decide) // most))], watch[:: max(1, -(-len(watch) // most))])
    farthest = float((domain.body.center - domain.beads.center).norm(dim=1).max())
    more = {"mapped": (domain.still, domain.body), "farthest": farthest, "wanted": wanted}
    return Search(**vars(look(domain, band, rows)), band=band, rows=rows, **more)


def look(
    domain: Domain,
    band: Band,
    rows: tuple[Tensor, Tensor],
    over: tuple[ShownTable | None, ShownTable | None] = (None, None),
) -> Looked:
    """A domain in particles that decide, and in those that only watch; `over`: tables of them to be written over."""
    seen, unseen = (shown_table(domain, band, *each) for each in zip(rows, over, strict=True))
    weakest = torch.tensor(3 * [1.0] + 3 * [FAR**-2], dtype=torch.float64)  # of motions that no particle shows
    values, axes = torch.linalg.eigh(information(domain, band) + weakest.diag())
    root = axes @ torch.diag(values.rsqrt()) @ axes.mT
    _, principal = torch.linalg.eigh(domain.beads.offset.mT @ domain.beads.offset)
    half_turn = 2 * principal.mT[:, :, None] * principal.mT[:, None, :] - torch.eye(3)
    return Looked(domain, seen, unseen, root.float(), half_turn)
