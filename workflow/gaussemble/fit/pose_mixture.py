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

Where the domain's shape is not known it is found again after each round (`fit.shape`), from what a map shows of it on.
"""

import time
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaussemble.fit.asymmetric import joined
from gaussemble.fit.checkpoints import read_checkpoint, write_checkpoint
from gaussemble.fit.distributed import barrier, combine, is_first
from gaussemble.fit.pose_search import ROUGH, Search, Shape
from gaussemble.fit.poses import Poses, ShownTable, at_rest, domain_in, log_likelihood, own_blocks
from gaussemble.fit.shape import Drawn, body_again, draw, still_again
from gaussemble.fit.study import source
from gaussemble.physics.beads import FINE, center_of_mass
from gaussemble.progress import say
from gaussemble.quantities import Mixture

ASKED = 6000  # particles that decide on which poses are worth to join
TRIED, TAKEN = 600, 200  # poses in a round
TURNED = 100  # of those tried that are turned by half first: many domains look much like themselves so
ROUNDS = 16
FEWEST = 5.0  # particles that a pose stands for, or it leaves
SHARING, SHARING_ON = 60, 10  # steps of expectation maximisation after poses have joined, and after they have moved
MOVES, LAST_MOVES = 3, 8  # in each round and after the last
ALONE = 10  # steps of one pose for all particles
FURTHEST = 2.0  # deviations by which a pose moves in one step, along an axis
SMEARED = 1  # rounds before the shape is found for the first time
NEAR = 4  # rounds that near strides have more of where it is found, for it becomes sharp by them
ALTERNATIONS = 2  # of the domain and the rest, where it has one pose


@dataclass(frozen=True)
class PoseMixture:
    """Poses with shares of the particles."""

    poses: Poses
    share: Float[Tensor, " pose"]


@dataclass
class Course:
    """Where a search stands: all that a restart needs."""

    now: PoseMixture
    shape: Shape
    best: PoseMixture  # of the particles that only watch
    best_shape: Shape
    best_loss: float = 0.0  # theirs, over that of the pose at rest
    round: int = 0  # finished ones
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    def content(self) -> dict[str, Any]:
        """For a checkpoint."""
        mixtures = {name: getattr(self, name) for name in ("now", "best")}
        parts = {name: [one.poses.rotation, one.poses.shift, one.share] for name, one in mixtures.items()}
        shapes = {name: [list(vars(one).values()) for one in getattr(self, name)] for name in ("shape", "best_shape")}
        return {**vars(self), **parts, **shapes}

    @classmethod
    def of(cls, content: dict[str, Any]) -> "Course":
        """From a checkpoint."""
        given = {each.name: content[each.name] for each in fields(cls)}
        for name in ("now", "best"):
            rotation, shift, share = content[name]
            given[name] = PoseMixture(Poses(rotation, shift), share)
        for name in ("shape", "best_shape"):
            still, body = content[name]
            given[name] = (Mixture(*still), Mixture(*body))
        return cls(**given)


def find_poses(search: Search, checkpoint: Path | None, digest: str) -> tuple[PoseMixture, Shape, list[dict[str, Any]]]:
    """The mixture that unseen particles like best (the last without any), its matter, and how each round went.

    It begins with the pose at rest, or where a checkpoint of the same digest stands, and then ends the same.
    """
    rest, shape = PoseMixture(at_rest(), torch.ones(1)), (search.domain.still, search.domain.body)
    known = read_checkpoint(checkpoint, digest) if checkpoint is not None else None
    course = Course.of(known) if known else Course(rest, shape, rest, shape)
    start = time.monotonic() - course.seconds
    seen, unseen = (
        evidence(table, search.gains(table, rest.poses), rest.share) for table in (search.seen, search.unseen)
    )
    if known:
        say(f"heterogeneity: going on after round {course.round}")
        if search.wanted.shape and course.round > SMEARED:
            search = search.of(course.shape, fineness(course.round - 1))
    gains = search.gains(search.seen, course.now.poses)
    while course.round < ROUNDS:
        course.now, gains = one_round(search, course.now, gains, course.round)
        if search.wanted.shape and course.round >= SMEARED:
            search, course.now, gains = reshaped(search, course.now, gains, course.round)
            course.shape = (search.domain.still, search.domain.body)
        loss = seen - evidence(search.seen, gains, course.now.share)
        held_out = unseen - evidence(search.unseen, search.gains(search.unseen, course.now.poses), course.now.share)
        if held_out < course.best_loss or not len(search.unseen):
            course.best, course.best_shape, course.best_loss = course.now, course.shape, held_out
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
    return course.best, course.best_shape, course.history


def reshaped(
    search: Search, mixture: PoseMixture, gains: Float[Tensor, "image pose"], number: int
) -> tuple[Search, PoseMixture, Float[Tensor, "image pose"]]:
    """The rest and the domain found again from the poses, and the poses of the new domain that are the same motions."""
    poses, share, domain, (rows, _) = mixture.poses, mixture.share, search.domain, search.rows
    lengths = [len(each) for each in own_blocks(len(rows))]
    chance = (torch.softmax(share.log() + part, dim=1) for part in gains.split(lengths))
    drawn = draw(rows, poses, chance, source(search.wanted.seed, number, 1))
    still = still_again(domain, search.band, drawn, search.mapped)
    body = body_again(replace(domain, still=still), search.band, drawn, search.reach)
    search = search.of((still, body), fineness(number))
    moved = search.domain.beads.center - domain.beads.center
    poses = Poses(poses.rotation, poses.shift + poses.rotation @ moved - moved)
    gains = search.gains(search.seen, poses)
    return search, PoseMixture(poses, shared(gains, share, SHARING_ON)), gains


def fineness(number: int) -> float:
    """Of the beads of a shape that a round has found."""
    return ROUGH if number < ROUNDS // 2 else FINE


def rigid_molecule(search: Search) -> Mixture:
    """The molecule in the one pose at rest: as the map has it, or found as a search finds shapes.

    The one that the particles which only watch like best, since the latter is fitted to the others.
    """
    domain, (rows, watch) = search.domain, search.rows
    drawn = Drawn(rows, at_rest(), torch.zeros(len(rows), 1, dtype=torch.long))
    tried = [joined(*search.mapped)]
    for _ in range(ALTERNATIONS):
        domain = domain_in(domain.still, body_again(domain, search.band, drawn, search.reach), search.band)
        domain = replace(domain, still=still_again(domain, search.band, drawn, search.mapped))
        tried.append(joined(domain.still, domain.body))
    judges = watch if len(watch) else rows
    return max(tried, key=lambda mixture: float(log_likelihood(mixture, search.band, judges).sum()))


def one_pose(search: Search, poses: Poses) -> Poses:
    """The pose that suits all particles together best, from the best of some: what a rigid molecule is held against."""
    total = combine(search.gains(search.seen, poses).double().sum(0))
    found = PoseMixture(poses[total.argmax()[None]], torch.ones(1))
    for _ in range(ALONE):
        gains = search.gains(search.seen, found.poses)
        found = PoseMixture(pulled_on(search, found, gains), found.share)
    return found.poses


def from_mean(mixture: PoseMixture, body: Mixture) -> tuple[PoseMixture, Mixture]:
    """The same distribution, counted from its mean pose, and the body at rest there.

    Where the shape was found the body is at rest as it happened to be; so that of another half is at the same place.
    """
    poses, share, center = mixture.poses, mixture.share, center_of_mass(body)
    left, _, right = torch.linalg.svd(torch.einsum("k,kij->ij", share, poses.rotation))
    proper = torch.diag(torch.tensor([1.0, 1.0, float(torch.linalg.det(left @ right))]))
    mean, shift = left @ proper @ right, share @ poses.shift
    resting = Mixture((body.center - center) @ mean.mT + center + shift, body.amplitude, body.width)
    return PoseMixture(Poses(poses.rotation @ mean.mT, poses.shift - shift), share), resting


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
    kept = share.argsort(descending=True)[: search.wanted.poses]
    kept = kept[(share[kept] * len(search.seen) >= FEWEST) | (share[kept] == share.max())]
    poses, share, gains = poses[kept], share[kept] / share[kept].sum(), gains[:, kept]
    for _ in range(LAST_MOVES if number == ROUNDS - 1 else MOVES):
        poses = pulled_on(search, PoseMixture(poses, share), gains)
        gains = search.gains(search.seen, poses)
        share = shared(gains, share, SHARING_ON)
    return PoseMixture(poses, share), gains


def worth_joining(search: Search, mixture: PoseMixture, gains: Float[Tensor, "image pose"], number: int) -> Poses:
    """Of poses that are tried near known ones, those that make the particles likelier, the best first."""
    generator, poses, share = source(search.wanted.seed, number), mixture.poses, mixture.share
    parent = torch.multinomial(share, TRIED, replacement=True, generator=generator)
    stride = search.stride(number, ROUNDS - NEAR * search.wanted.shape)
    motion = torch.randn(TRIED, 6, generator=generator) @ stride.mT
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


def evidence(table: ShownTable, gains: Float[Tensor, "image pose"], share: Float[Tensor, " pose"]) -> float:
    """Mean over all particles of log p(image), poses not known; but for a constant."""
    alone = torch.cat([torch.zeros(0), *(table.alone[rows] for rows in own_blocks(len(table)))])
    logs = (share.log() + gains).logsumexp(1).double() + alone.double()
    total = combine(torch.stack([logs.sum(), torch.tensor(float(len(logs)), dtype=torch.float64)]))
    return float(total[0] / total[1].clamp(min=1))
