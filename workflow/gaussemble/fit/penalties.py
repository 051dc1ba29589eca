"""What the training adds to the loss, in nats an image: geometry that is kept, and parts that do not wander.

    restraint   w Σ (Δ distance)² + w Σ (Δ arc)²           C-alpha (P, bead) neighbours of the model, w in 1/Å²
    rigidity    16/n · 1/2 Σ (Δ distance)² / s²            neighbouring Gaussians, s in Å; n particles are trained on
    wander      1/2 Σ lost⁴ · |displacement|² / s²         lost: the share of a Gaussian's amplitude that is gone

Changes are from the neutral mixture, which so has no penalty. Rigidity is a prior of the structures and not of each
particle: all particles together count as a few, so that it gives way the more of them there are. What has vanished from
an image is seen by no particle: its position would mean nothing, and drifts with the networks' other outputs unless
something holds it. The fourth power leaves alone what is weak but there. (An arm absent from half of the tiny
molecules, dense decoder: with s = 10 Å absent Gaussians are 2 Å from their places instead of 16, for 0.2 of 52 nats a
held-out particle.)
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree
from torch import Tensor, nn

from gaussemble.errors import InputError
from gaussemble.fit.regions import Ground
from gaussemble.fit.restraints import Restraints, bond_angles, distances, read_restraints
from gaussemble.fit.sections import DecoderOptions
from gaussemble.model.decoders import WITH_DOMAINS
from gaussemble.quantities import Mixture

STRUCTURES = 16  # that count in the rigidity of all particles
SAMPLED = 4  # of so many images of a batch it is reckoned for one
NEIGHBOUR = 2.0  # median distances to the nearest Gaussian, within which two are neighbours (GaussianEM)


class RestraintPenalty(nn.Module):
    """Distances and angles between Gaussians that stand for consecutive residues."""

    bonds: Tensor
    angles: Tensor
    distance: Tensor
    angle: Tensor

    def __init__(self, restraints: Restraints, weight: float):
        super().__init__()
        self.weight = weight
        for name in ("bonds", "angles", "distance", "angle"):
            self.register_buffer(name, getattr(restraints, name), persistent=False)

    def forward(self, mixture: Mixture, standing: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
        """Nats of each image."""
        stretched = distances(mixture.center, self.bonds) - self.distance
        arc = (bond_angles(mixture.center, self.angles) - self.angle) * self.distance.mean()
        return self.weight * (stretched.square().sum(-1) + arc.square().sum(-1))


class RigidityPenalty(nn.Module):
    """Distances between neighbouring Gaussians."""

    pairs: Tensor
    distance: Tensor

    def __init__(self, center: Float[Tensor, "gaussian 3"], pairs: Int[Tensor, "pair 2"], weight: float):
        super().__init__()
        self.weight = weight  # nats for 1 Å²
        self.register_buffer("pairs", pairs, persistent=False)
        self.register_buffer("distance", distances(center, pairs), persistent=False)

    def forward(self, mixture: Mixture, standing: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
        """Nats of the images that stand for others, as many times; zero for these."""
        rows = torch.nonzero(standing).flatten()
        stretched = distances(mixture.center[rows], self.pairs) - self.distance
        nats = self.weight * standing[rows] * stretched.square().sum(-1)
        return torch.zeros_like(mixture.center[:, 0, 0]).index_add(0, rows, nats)


class WanderPenalty(nn.Module):
    """Displacements of what has vanished; no gradient reaches the amplitudes, so nothing is drawn back into being."""

    center: Tensor
    amplitude: Tensor

    def __init__(self, neutral: Mixture, deviation: float):
        super().__init__()
        self.deviation = deviation
        self.register_buffer("center", neutral.center, persistent=False)
        self.register_buffer("amplitude", neutral.amplitude, persistent=False)

    def forward(self, mixture: Mixture, standing: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
        """Nats of each image."""
        lost = (1 - mixture.amplitude.detach().abs() / self.amplitude.abs().clamp(min=1e-12)).clamp(0, 1)
        squared = (mixture.center - self.center).square().sum(-1)
        return 0.5 * (lost**4 * squared).sum(-1) / self.deviation**2


class Penalties(nn.Module):
    """The sum of some penalties."""

    def __init__(self, terms: Sequence[nn.Module]):
        super().__init__()
        self.terms = nn.ModuleList(terms)

    def forward(self, mixture: Mixture, standing: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
        """Nats of each image; `standing` as `standing_for_all` has it, for the terms that need no more than some."""
        return torch.stack([term(mixture, standing) for term in self.terms]).sum(0)


def standing_for_all(count: int) -> Float[Tensor, " image"]:
    """For how many images of a batch each stands, where a prior needs no more than some: every fourth for all alike."""
    standing = torch.zeros(count)
    standing[::SAMPLED] = 1
    return standing * (count / standing.sum())


def inside(restraints: Restraints, region: Bool[Tensor, " gaussian"]) -> Restraints:
    """The restraints whose Gaussians are all in a region; they keep their numbers."""
    bonds, angles = (region[rows].all(-1) for rows in (restraints.bonds, restraints.angles))
    return Restraints(
        restraints.bonds[bonds], restraints.angles[angles], restraints.distance[bonds], restraints.angle[angles]
    )


def neighbours(center: Float[Tensor, "gaussian 3"], region: Bool[Tensor, " gaussian"]) -> Int[Tensor, "pair 2"]:
    """Pairs of Gaussians of a region nearer than twice the median distance to the nearest one."""
    rows = torch.nonzero(region).flatten()
    if len(rows) < 2:
        return rows.new_zeros(0, 2)
    tree = KDTree(center[rows].double().numpy())
    nearest = torch.as_tensor(tree.query(tree.data, k=2)[0])[:, 1]
    pairs = tree.query_pairs(NEIGHBOUR * float(nearest.median()), output_type="ndarray")
    return rows[torch.from_numpy(pairs).long()]


def make_penalties(
    decoders: Sequence[DecoderOptions],
    members: Sequence[Tensor],
    ground: Ground,
    wander: float | None,
    particles: int,
) -> Penalties | None:
    """What the decoders' sections ask for, each in its own region; None where nothing is asked for.

    Neighbours in the regions of two decoders count once, by the first one's rigidity.

    Args:
        decoders: their filled sections.
        members: of each, which Gaussians it changes (`regions.memberships`).
        ground: the neutral mixture, and what restraints are made of.
        wander: Å, of what has vanished.
        particles: how many are trained on.
    """
    neutral, terms, known = ground.neutral, [], torch.zeros(0, dtype=torch.long)
    for each, member in zip(decoders, members, strict=True):
        region = member if member.dtype == torch.bool else member >= 0
        if each.restraint:
            terms.append(RestraintPenalty(restraints_of(each, region, ground), each.restraint))
        if each.rigidity is not None and each.position and each.kind not in WITH_DOMAINS:
            pairs = neighbours(neutral.center, region)
            number = pairs[:, 0] * len(neutral) + pairs[:, 1]
            weight = 0.5 * STRUCTURES / (particles * each.rigidity**2)
            terms.append(RigidityPenalty(neutral.center, pairs[~torch.isin(number, known)], weight))
            known = torch.cat([known, number])
    if wander is not None:
        terms.append(WanderPenalty(neutral, wander))
    return Penalties(terms) if terms else None


def restraints_of(decoder: DecoderOptions, region: Bool[Tensor, " gaussian"], ground: Ground) -> Restraints:
    """Those inside a decoder's region, with the neutral mixture's geometry.

    Raises:
        InputError: no seeds, other Gaussians than theirs, or none in the region that follow each other.
    """
    if ground.seeds is None:
        raise InputError(f"decoder {decoder.name}: option restraint needs the seeds of a model (seeds.npz, --seeds)")
    if ground.seed is None:
        raise InputError(
            f"decoder {decoder.name}: option restraint: the neutral mixture's Gaussians are not those of "
            f"{ground.seeds}, as after growth or with symmetry; leave restraint out"
        )
    kept = inside(read_restraints(ground.seeds, ground.neutral.center), region)
    if not len(kept.bonds):
        raise InputError(
            f"decoder {decoder.name}: option restraint: {ground.seeds} holds no consecutive residues in its region; "
            "give seeds.model without seeds.count, or leave restraint out"
        )
    return kept
