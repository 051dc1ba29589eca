"""Which Gaussians a mask or a selection of atoms means.

A Gaussian stands for the atom that its seed was nearest to, within 4 Å: it is counted from where the stage `seeds` put
it, as the neutral fit moves Gaussians by some Å. Gaussians on density that the model leaves are farther from all atoms
and belong to no selection.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from scipy.spatial import KDTree
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.fit.sections import DecoderOptions, DomainOptions
from gaussemble.io.atoms import Atoms, read_atoms
from gaussemble.io.mixtures import read_mixture
from gaussemble.io.mrc import read_map
from gaussemble.io.selections import selected_atoms
from gaussemble.model.decoders import WITH_DOMAINS
from gaussemble.progress import say
from gaussemble.quantities import Map, Mixture

NEAR = 4.0  # Å from a Gaussian's seed to the nearest of its atoms
MOVED = 15.0  # Å; the neutral fit moves nearly all Gaussians by less, so farther apart they are other Gaussians


@dataclass(frozen=True)
class Ground:
    """What regions are found on: the neutral mixture, its frame, and where there is one, the model behind the seeds."""

    neutral: Mixture
    frame: Map
    seeds: Path | None = None  # seeds.npz
    model: Path | None = None  # model.cif of the stage seeds

    @functools.cached_property
    def seed(self) -> Mixture | None:
        """The seeds, where the neutral mixture's Gaussians are theirs, row by row."""
        if self.seeds is None:
            return None
        seed = read_mixture(self.seeds)
        if len(seed) != len(self.neutral):
            return None
        moved = (seed.center - self.neutral.center).norm(dim=-1)
        return seed if float(moved.quantile(0.95)) < MOVED else None

    @functools.cached_property
    def atoms(self) -> Atoms:
        """The model; raises InputError where there is none."""
        if self.model is None:
            raise InputError("a selection of atoms needs the model of the stage seeds; give it as --model")
        return read_atoms(self.model)

    @functools.cached_property
    def atom(self) -> Int[np.ndarray, " gaussian"]:
        """The atom for which each Gaussian stands; -1 where there is none."""
        if self.seed is None:
            say("heterogeneity: the neutral mixture's Gaussians are not the seeds'; the nearest atoms count")
        center = (self.seed or self.neutral).center.double().numpy() + self.frame.center
        _, nearest = KDTree(self.atoms.position).query(center, distance_upper_bound=NEAR)
        return np.where(nearest < len(self.atoms), nearest, -1)


def region_of(key: str, mask: Path | None, selection: str | None, ground: Ground) -> Bool[Tensor, " gaussian"]:
    """The Gaussians inside a mask, or of selected atoms; all of them without either. `key` is the config's."""
    if mask is not None:
        return inside_mask(mask, ground.neutral, ground.frame)
    if selection is not None:
        return of_selection(f"{key}selection", selection, ground)
    return torch.ones(len(ground.neutral), dtype=torch.bool)


def inside_mask(path: Path, neutral: Mixture, frame: Map) -> Bool[Tensor, " gaussian"]:
    """The Gaussians whose centres lie where the mask is at least 0.5."""
    mask = read_map(path)
    field, expected = mask.box * mask.pixel_size, frame.box * frame.pixel_size
    if abs(field / expected - 1) > 0.01:
        raise InputError(
            f"{path}: box {mask.box} of {mask.pixel_size:.3f} Å spans {field:.1f} Å, but the consensus map, box "
            f"{frame.box} of {frame.pixel_size:.3f} Å, spans {expected:.1f} Å; resample the mask"
        )
    position = neutral.center + torch.from_numpy(frame.center - np.asarray(mask.origin)).float()
    voxel = (position / mask.pixel_size).round().long()
    x, y, z = voxel.clamp(0, mask.box - 1).unbind(-1)
    inside = (mask.voxels[z, y, x] >= 0.5) & ((voxel >= 0) & (voxel < mask.box)).all(-1)
    if not inside.any():
        raise InputError(f"{path}: no Gaussian of the neutral mixture lies inside; does the mask belong to the map?")
    return inside


def of_selection(key: str, text: str, ground: Ground) -> Bool[Tensor, " gaussian"]:
    """The Gaussians that stand for the atoms of a selection in gemmi's syntax."""
    chosen = selected_atoms(key, text, ground.atoms)
    found = torch.from_numpy((ground.atom >= 0) & chosen[ground.atom])
    if not found.any():
        raise InputError(
            f"option {key}, {text}: {int(chosen.sum())} atoms, but no Gaussian within {NEAR:g} Å of them; select a "
            "larger part, or place more Gaussians (seeds.atoms, seeds.count)"
        )
    return found


def domains_of(key: str, domains: Sequence[DomainOptions], ground: Ground) -> Int[Tensor, " gaussian"]:
    """The number of each Gaussian's rigid domain, -1 outside all; raises InputError where two of them overlap."""
    number = torch.full((len(ground.neutral),), -1)
    for own, each in enumerate(domains):
        inside = region_of(f"{key}domains.{own}.", each.mask, each.selection, ground)
        shared = inside & (number >= 0)
        if shared.any():
            other = int(number[shared][0])
            raise InputError(
                f"option {key}domains.{own}: {int(shared.sum())} of its {int(inside.sum())} Gaussians are in "
                f"domains.{other} too; rigid domains may not overlap"
            )
        number[inside] = own
    return number


def memberships(decoders: Sequence[DecoderOptions], keys: Sequence[str], ground: Ground) -> list[Tensor]:
    """For each decoder (gaussian,): whether it changes a Gaussian; of a rigid one the domain's number, or -1."""
    found = []
    for key, each in zip(keys, decoders, strict=True):
        rigid = each.kind in WITH_DOMAINS
        number = domains_of(key, each.domains, ground) if rigid else None
        region = region_of(key, each.region, each.selection, ground) if number is None else number >= 0
        domains = f", rigid domains: {len(each.domains)}" if rigid else ""
        if len(decoders) > 1 or not region.all():
            say(f"heterogeneity: {each.name}: {int(region.sum())} of {len(region)} Gaussians vary{domains}")
        found.append(region if number is None else number)
    refuse_shared_domains(decoders, found)
    return found


def refuse_shared_domains(decoders: Sequence[DecoderOptions], found: Sequence[Tensor]) -> None:
    """Raise InputError where a Gaussian is in rigid domains of two decoders: the sum of turns is not rigid."""
    rigid = [
        (each.name, number >= 0) for each, number in zip(decoders, found, strict=True) if each.kind in WITH_DOMAINS
    ]
    for place, (name, inside) in enumerate(rigid):
        for other, before in rigid[:place]:
            if (inside & before).any():
                raise InputError(
                    f"option decoders: rigid domains of {other} and {name} share {int((inside & before).sum())} "
                    "Gaussians; rigid domains may not overlap"
                )
