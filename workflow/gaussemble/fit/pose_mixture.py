"""How a rigid domain's poses are spread over the particles: a mixture of a few hundred poses, found without a network.

The distribution of poses that makes the particles likeliest, whatever its form, is one of finitely many poses with
shares (nonparametric maximum likelihood: Kiefer & Wolfowitz 1956, Laird 1978, Lindsay 1983). It is the one at which for
no pose the mean over the particles of

    p(image | pose) / sum_k share_k p(image | pose_k)

is above 1. So from the pose at rest on, poses are tried near those that are known, first far and then ever nearer, and
those of the greatest means above 1 join; shares come to rest by expectation maximisation; poses that few particles want
leave; and each pose goes where the particles that have it pull (Fisher scoring by the mean information: small motions
of all poses are told equally well, in the domain's own frame).

A motion that goes far is found in steps, each tested against the particles. A trained decoder finds only places near
those that it already has.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaussemble.fit.band import Band
from gaussemble.fit.checkpoints import read_checkpoint, write_checkpoint
from gaussemble.fit.distributed import barrier, combine, is_first
from gaussemble.fit.poses import FINER, Domain, Poses, ShownTable, at_rest, information, shown_table
from gaussemble.fit.study import source
from gaussemble.progress import say

MOST, DISK = 50_000, 8e9  # particles, evenly from all, that decide on the poses; bytes of what they show;
ASKED = 6000  # and on which ones are worth to be tried
TRIED, TAKEN = 600, 200  # poses in a round
TURNED = 100  # of those tried that are turned by half first: many domains look much like themselves so
ROUNDS = 16
STRIDES = 2  # rounds of one stride
FAR = 15.0  # Å of the first strides, of the centre and at a radius of gyration; the last are what one particle tells
NEAREST = 0.7  # of that
FEWEST = 5.0  # particles that a pose stands for, or it leaves
SHARING, SHARING_ON = 60, 10  # steps of expectation maximisation after poses have joined, and after they have moved
MOVES, LAST_MOVES = 3, 8  # in each round and after the last
ALONE = 10  # steps of one pose for all particles
FURTHEST = 2.0  # deviations by which a pose moves in one step, along an axis


@dataclass(frozen=True)
class PoseMixture:
    """Poses with shares of the particles."""

    poses: Poses
    share: Float[Tensor, " pose"]


@dataclass
class Course:
    """Where a search stands: all that a restart needs."""

    now: PoseMixture
    best: PoseMixture  # of the particles that only watch
    best_loss: float = 0.0  # theirs, over that of the pose at rest
    round: int = 0  # finished ones
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    def content(self) -> dict[str, Any]:
        """For a checkpoint."""
        mixtures = {name: getattr(self, name) for name in ("now", "best")}
        parts = {name: [one.poses.rotation, one.poses.shift, one.share] for name, one in mixtures.items()}
        return {**vars(self), **parts}

    @classmethod
    def of(cls, content: dict[str, Any]) -> "Course":
        """From a checkpoint."""
        (first, shift, share), (best, best_shift, best_share) = content["now"], content["best"]
        kept = {name: content[name] for name in ("best_loss", "round", "seconds", "history")}
        return cls(PoseMixture(Poses(first, shift), share), PoseMixture(Poses(best, best_shift), best_share), **kept)


@dataclass(frozen=True)
class Search:
    """What poses are looked for with."""

    domain: Domain
    seen: ShownTable  # of the particles that decide,
    unseen: ShownTable  # and of those that only watch
    deviation: Float[Tensor, "six six"]  # square root of the covariance of a small motion as one particle tells it
    half_turn: Float[Tensor, "3 3 3"]  # about the domain's principal axes
    most: int  # poses
    seed: int

    def gains(self, table: ShownTable, poses: Poses) -> Float[Tensor, "image pose"]:
        """Of this process's particles."""
        empty = torch.zeros(0, len(poses))
        return torch.cat([empty, *(self.domain.gains(shown, poses) for shown in table)])

    def stride(self, number: int) -> Float[Tensor, "six six"]:
        """Square root of the covariance of what is tried in a round: from far to near in even ratios, and once more."""
        done = min(1.0, STRIDES * (number // STRIDES) / max(1, ROUNDS - 2 * STRIDES))
        far = torch.tensor(3 * [FAR / self.domain.beads.radius] + 3 * [FAR])
        near = NEAREST * self.deviation.square().sum(1).sqrt()  # of each motion
        scale = (far / near).clamp(min=1) ** (1 - done)
        return NEAREST * scale[:, None] * self.deviation


def prepare_search(domain: Domain, band: Band, held_out: Tensor, poses: int, seed: int) -> Search:
    """Look at the domain in particles that decide on at most so many poses, and in those that only watch."""
    rows = [torch.nonzero(one).flatten() for one in (~held_out, held_out)]
    most = min(MOST, int(DISK / (4 * (FINER * domain.box) ** 2)))
    seen, unseen = (shown_table(domain, band, one[:: max(1, -(-len(one) // most))]) for one in rows)
    weakest = torch.tensor(3 * [1.0] + 3 * [FAR**-2], dtype=torch.float64)  # of motions that no particle shows
    values, axes = torch.linalg.eigh(information(domain, band) + weakest.diag())
    root = axes @ torch.diag(values.rsqrt()) @ axes.mT
    _, principal = torch.linalg.eigh(domain.beads.offset.mT @ domain.beads.offset)
    half_turn = 2 * principal.mT[:, :, None] * principal.mT[:, None, :] - torch.eye(3)
    return Search(domain, seen, unseen, root.float(), half_turn, poses, seed)


def find_poses(search: Search, checkpoint: Path | None, digest: str) -> tuple[PoseMixture, list[dict[str, Any]]]:
    """The mixture that unseen particles like best (the last without any), and how each round went.

    It begins with the pose at rest, or where a checkpoint of the same digest stands, and then ends the same.
    """
    rest = PoseMixture(at_rest(), torch.ones(1))
    known = read_checkpoint(checkpoint, digest) if checkpoint is not None else None
    course = Course.of(known) if known else Course(rest, rest)
    if known:
        say(f"heterogeneity: going on after round {course.round}")
    start = time.monotonic() - course.seconds
    seen, unseen = (evidence(search.gains(table, rest.poses), rest.share) for table in (search.seen, search.unseen))
    gains = search.gains(search.seen, course.now.poses)
    while course.round < ROUNDS:
        course.now, gains = one_round(search, course.now, gains, course.round)
        loss = seen - evidence(gains, course.now.share)
        held_out = unseen - evidence(search.gains(search.unseen, course.now.poses), course.now.share)
        if held_out < course.best_loss or not len(search.unseen):
            course.best, course.best_loss = course.now, held_out
        course.round, course.seconds = course.round + 1, time.monotonic() - start
        row = {"epoch": course.round, "loss": loss, "held_out_loss": held_out, "poses": len(course.now.poses)}
        course.history.append(row | {"seconds": course.seconds})
        say(
            f"heterogeneity: round {course.round} of {ROUNDS}, {len(course.now.poses)} poses, loss {loss:.3f}, "
            f"held out {held_out:.3f} a particle"
        )
        if checkpoint is not None and is_first():
            write_checkpoint(checkpoint, digest, course.content())
        barrier()
    return course.best, course.history


def one_pose(search: Search, poses: Poses) -> Poses:
    """The pose that suits all particles together best, from the best of some: what a rigid molecule is held against."""
    total = combine(search.gains(search.seen, poses).double().sum(0))
    found = PoseMixture(poses[total.argmax()[None]], torch.ones(1))
    for _ in range(ALONE):
        gains = search.gains(search.seen, found.poses)
        found = PoseMixture(pulled_on(search, found, gains), found.share)
    return found.poses


def one_round(
    search: Search, mixture: PoseMixture, gains: Float[Tensor, "image pose"], number: int
) -> tuple[PoseMixture, Float[Tensor, "image kept"]]:
    """Poses join, leave, and move; with the gains of this process's particles."""
    poses, share = mixture.poses, mixture.share
    new = worth_joining(search, mixture, gains, number)
    if len(new):
        poses, gains = poses.joined(new), torch.cat([gains, search.gains(search.seen, new)], dim=1)
        part = len(new) / len(poses)
        share = torch.cat([(1 - part) * share, torch.full((len(new),), part / len(new))])
    share = shared(gains, share, SHARING)
    kept = share.argsort(descending=True)[: search.most]
    kept = kept[(share[kept] * len(search.seen) >= FEWEST) | (share[kept] == share.max())]
    poses, share, gains = poses[kept], share[kept] / share[kept].sum(), gains[:, kept]
    for _ in range(LAST_MOVES if number == ROUNDS - 1 else MOVES):
        poses = pulled_on(search, PoseMixture(poses, share), gains)
        gains = search.gains(search.seen, poses)
        share = shared(gains, share, SHARING_ON)
    return PoseMixture(poses, share), gains


def worth_joining(search: Search, mixture: PoseMixture, gains: Float[Tensor, "image pose"], number: int) -> Poses:
    """Of poses that are tried near known ones, those that make the particles likelier, the best first."""
    generator, poses, share = source(search.seed, number), mixture.poses, mixture.share
    parent = torch.multinomial(share, TRIED, replacement=True, generator=generator)
    motion = torch.randn(TRIED, 6, generator=generator) @ search.stride(number).mT
    parents = poses[parent]
    about = torch.randint(3, (TURNED,), generator=generator)
    turned = torch.cat([parents.rotation[:TURNED] @ search.half_turn[about], parents.rotation[TURNED:]])
    tried = Poses(turned, parents.shift).moved(motion)
    step = max(1, len(search.seen) // ASKED)
    total, count, start = torch.zeros(TRIED, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), 0
    for shown in search.seen:
        known = (share.log() + gains[start : start + len(shown)][::step]).logsumexp(1, keepdim=True)
        start += len(shown)
        ratio = (search.domain.gains(shown[::step], tried) - known).double().exp()
        total, count = total + ratio.sum(0), count + len(ratio)
    mean = combine(total) / combine(count)
    best = mean.argsort(descending=True)[:TAKEN]
    return tried[best[mean[best] > 1]]


def shared(gains: Float[Tensor, "image pose"], share: Float[Tensor, " pose"], steps: int) -> Float[Tensor, " pose"]:
    """Shares after some steps of expectation maximisation; `gains` are of this process's particles."""
    likelihood = (gains - gains.amax(1, keepdim=True)).exp()
    count = float(combine(torch.tensor([float(len(gains))], dtype=torch.float64)))
    for _ in range(steps):
        total = share * (likelihood.mT @ (1 / (likelihood @ share)))
        share = (combine(total.double()) / count).float()
    return share / share.sum()


def pulled_on(search: Search, mixture: PoseMixture, gains: Float[Tensor, "image pose"]) -> Poses:
    """Each pose a step of Fisher scoring on, by the particles that have it."""
    poses, share = mixture.poses, mixture.share
    total, start = torch.zeros(len(poses), 7, dtype=torch.float64), 0
    for shown in search.seen:
        chance = torch.softmax(share.log() + gains[start : start + len(shown)], dim=1)
        start += len(shown)
        total += search.domain.pulled(shown, poses, chance)
    total = combine(total)
    slope = total[:, 1:] / total[:, :1].clamp(min=1e-6)
    length = slope.float() @ search.deviation  # in deviations: the step is root @ root.T @ slope
    return poses.moved(length.clamp(-FURTHEST, FURTHEST) @ search.deviation.mT)


def evidence(gains: Float[Tensor, "image pose"], share: Float[Tensor, " pose"]) -> float:
    """Mean over all particles of log p(image), poses not known, over that of images without the domain."""
    logs = (share.log() + gains).logsumexp(1).double()
    total = combine(torch.stack([logs.sum(), torch.tensor(float(len(logs)), dtype=torch.float64)]))
    return float(total[0] / total[1].clamp(min=1))
