"""Motion-corrected reconstruction: the particles of all states, their bodies' motions taken back, in one map.

The idea is DynaMight's (Schwab et al., Nature Methods 21, 1855 (2024)), who deform filtered back-projections in real
space by a smooth field. Here the decoded motion is taken apart into rigid bodies (`bodies`), and each body's map is an
ordinary Fourier inversion of all particles, in poses that its motion has corrected: a rigid motion of a body by
x -> Q x + t before the view R is the view R Q with the shift moved by (R t). What bodies do not explain (bending inside
of them) stays blurred, and is said. The maps are joined by weights that pass smoothly from body to body.

A body's map has the other bodies in wrong places; they are outside of its weight. Half-maps are as independent as what
moves their particles: by a network each, that has never seen the other half's particles, where these are given.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaussemble.analysis.bodies import about_mean, body_weights, find_bodies, moved, rigid_motion
from gaussemble.analysis.latent import latent_columns
from gaussemble.analysis.states import store_rows
from gaussemble.errors import InputError
from gaussemble.io.files import read_csv
from gaussemble.io.store import ImageStore
from gaussemble.model.heterogeneity import DeformableMixture, load_model
from gaussemble.physics.backprojection import divide
from gaussemble.physics.masks import masked_correlation, soften
from gaussemble.physics.rings import resolution, ring_frequencies
from gaussemble.prepare.slices import Source, sum_slices
from gaussemble.progress import progress, say
from gaussemble.quantities import Map, Mixture, Particles

SAMPLE = 300  # particles from which bodies are told apart
BLOCK = 512  # latents decoded at a time
BLUR = 8.0  # of the resolution: motion (root mean square) that is left to blur; a tenth of the amplitude there
SOFTNESS = 4.0  # Å over which one body's map passes into another's
REACH, EDGE = 8.0, 10.0  # Å that a body's mask extends beyond its Gaussians, and over which it falls
FAINT = 0.01  # of a Gaussian's amplitude: what it weighs at least, so that a vanished body has some motion


@dataclass(frozen=True)
class Network:
    """A trained model, and the particles that it moves."""

    model: DeformableMixture
    rows: Int[Tensor, " particle"]  # in the store
    latent: Float[Tensor, "particle latent"]

    def mixtures(self, chosen: Int[Tensor, " chosen"]) -> Mixture:
        """What it decodes of some of its particles."""
        with torch.no_grad():
            return self.model.decode(self.latent[chosen])


@dataclass(frozen=True)
class Moves:
    """How the bodies of a network's particles move about their mean places."""

    rows: Int[Tensor, " particle"]
    member: Int[Tensor, " gaussian"]
    center: Float[Tensor, "gaussian 3"]  # Å, at the bodies' mean places
    rotation: Float[Tensor, "body particle 3 3"]
    translation: Float[Tensor, "body particle 3"]  # Å
    left: float  # Å, root mean square, that the bodies do not explain
    travel: Float[Tensor, " body"]  # Å, root mean square over particles and Gaussians


@dataclass(frozen=True)
class Corrected:
    """What the particles add up to when their motion is taken back."""

    half1: Float[Tensor, "z y x"]
    half2: Float[Tensor, "z y x"]
    moves: list[Moves]  # of each network


def read_network(heterogeneity: Path, store: ImageStore) -> Network:
    """The network in a folder of the stage heterogeneity; its particles must be the store's."""
    path = heterogeneity / "latent.csv"
    table = read_csv(path, ["particle", "z1"])
    rows = torch.from_numpy(store_rows(path, table, store))
    latent = torch.tensor(table[latent_columns(table)].to_numpy(np.float32))
    return Network(load_model(heterogeneity / "model.pt"), rows, latent)


def moving_networks(store: ImageStore, analysis: Path, even: Path | None, odd: Path | None) -> list[Network]:
    """The analysis' network for all particles; or those of the halves, each for its own, where they are given."""
    folders = [folder for folder in (even, odd) if folder is not None]
    if len(folders) == 1:
        raise InputError(f"{folders[0]}: the network of one half alone; give even and odd, or neither")
    return [read_network(folder / "heterogeneity", store) for folder in folders or [analysis]]


def find_moves(network: Network, most: int, finest: float) -> Moves:
    """Bodies and their motions in every particle.

    Args:
        network: and its particles.
        most: bodies at most.
        finest: Å, resolution at which motion that is left must not matter.
    """
    count = len(network.rows)
    sample = network.mixtures(torch.linspace(0, count - 1, min(SAMPLE, count)).round().long())
    weight = sample.amplitude.mean(0).clamp(min=1e-9)
    start = _nearest_to_mean(sample, weight)
    member, left = find_bodies(start, sample.center, weight, most, finest / BLUR)
    bodies = range(int(member.max()) + 1)
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in bodies]
    for chosen in progress(torch.arange(count).split(BLOCK), "motions of bodies"):
        mixture = network.mixtures(chosen)
        weights = torch.maximum(mixture.amplitude, FAINT * weight)
        for body in bodies:
            found[body].append(rigid_motion(start, mixture.center, weights * (member == body)))
    center, rotations, translations, travel = start.clone(), [], [], []
    for body in bodies:
        own = member == body
        motion = (torch.cat([part[0] for part in found[body]]), torch.cat([part[1] for part in found[body]]))
        share = weight[own] / weight[own].sum()
        mean, (rotation, translation) = about_mean(motion, share @ start[own])
        center[own] = moved(mean, start[own])
        rotations.append(rotation)
        translations.append(translation)
        travel.append(_travel(center[own], share, rotation, translation))
    return Moves(
        network.rows, member, center, torch.stack(rotations), torch.stack(translations), left, torch.stack(travel)
    )


def _nearest_to_mean(sample: Mixture, weight: Tensor) -> Float[Tensor, "gaussian 3"]:
    """The sampled structure nearest to the mean of all: one that the model really draws, as the mean may be none."""
    apart = (sample.center - sample.center.mean(0)).square().sum(-1) @ weight
    return sample.center[int(apart.argmin())]


def _travel(center: Tensor, share: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
    """Root mean square of how far a body's Gaussians are from their mean places, by its second moments alone."""
    turn, middle = rotation - torch.eye(3), share @ center
    shift = turn @ middle + translation
    moment = torch.einsum("g,gx,gy->xy", share, center - middle, center - middle)
    turned = torch.einsum("pxy,yz,pxz->p", turn, moment, turn)
    return (shift.square().sum(-1) + turned).mean().sqrt()


def corrected_particles(particles: Particles, moves: Moves, body: int) -> Particles:
    """The particles of a network in poses that see the body at rest.

    Args:
        particles: of the store.
        moves: of some of them; the others stay as they are.
        body: whose motion is taken back.
    """
    rotation, shift = particles.rotation.clone(), particles.shift.clone()
    view = particles.rotation[moves.rows]
    rotation[moves.rows] = view @ moves.rotation[body]
    shift[moves.rows] -= torch.einsum("pxy,py->px", view, moves.translation[body])[:, :2]
    return replace(particles, rotation=rotation, shift=shift)


def motion_corrected(
    source: Source, networks: Sequence[Network], frame: Map, most: int, finest: float, padding: int
) -> Corrected:
    """Half-maps of all particles, each in the mean places of its bodies.

    Args:
        source: images and poses.
        networks: one for all particles, or one for each half-map's.
        frame: the maps' grid.
        most: bodies at most.
        finest: Å, resolution of the consensus.
        padding: of the reconstructions.
    """
    found = [find_moves(network, most, finest) for network in networks]
    half_maps = torch.zeros(2, frame.box, frame.box, frame.box)
    for moves in found:
        bodies = [moves.center[moves.member == body] for body in range(len(moves.travel))]
        weights = body_weights(bodies, frame.box, frame.pixel_size, SOFTNESS)
        own = source.half[moves.rows]
        pairs = torch.stack([moves.rows, own], dim=-1)
        for body, weight in enumerate(weights):
            say(f"motion-corrected: body {body + 1} of {len(bodies)}, moves by {moves.travel[body]:.1f} Å")
            turned = replace(source, particles=corrected_particles(source.particles, moves, body))  # type: ignore[type-var]
            sums = sum_slices(turned, pairs, 2, padding)
            for half in torch.unique(own).tolist():
                half_maps[half] += weight * divide(sums, half)
    return Corrected(half_maps[0], half_maps[1], found)


def motion_facts(corrected: Corrected, plain1: Map, plain2: Float[Tensor, "z y x"], frame: Map) -> dict[str, Any]:
    """What report.json says of the motion-corrected map, beside the consensus half-maps `plain1` and `plain2`.

    networks (1, or 2: one for each half-map); unexplained (Å, root mean square that bodies leave, of each network);
    bodies of the first network: gaussians, motion (Å, root mean square), resolution and consensus_resolution (Å, of
    half-maps in the body's own mask, which adds the same to both: to be compared with each other).
    """
    first, bodies = corrected.moves[0], []
    for body, travel in enumerate(first.travel.tolist()):
        center = first.center[first.member == body]
        found = _limit(corrected.half1, corrected.half2, center, frame)
        before = _limit(plain1.voxels, plain2, center, plain1)
        facts = {"gaussians": len(center), "motion": travel, "resolution": found, "consensus_resolution": before}
        bodies.append(facts)
    return {
        "networks": len(corrected.moves),
        "unexplained": [moves.left for moves in corrected.moves],
        "bodies": bodies,
    }


def _limit(half1: Tensor, half2: Tensor, center: Float[Tensor, "gaussian 3"], frame: Map) -> float:
    """Å where the half-maps' FSC falls below 0.143 in a body's mask."""
    curve = masked_correlation(half1, half2, body_mask(center, frame))
    return resolution(curve, ring_frequencies(frame.box, frame.pixel_size), 0.143)


def body_mask(center: Float[Tensor, "gaussian 3"], frame: Map) -> Float[Tensor, "z y x"]:
    """Soft mask round a body's Gaussians."""
    body = np.zeros((frame.box,) * 3, bool)
    place = (center / frame.pixel_size).round().long() + frame.box // 2
    x, y, z = place.clamp(0, frame.box - 1).numpy().T
    body[z, y, x] = True
    return soften(body, REACH / frame.pixel_size, EDGE / frame.pixel_size)
