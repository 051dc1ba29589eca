"""The classes of one half against those of the other: which is which, how alike they are, and how large.

All classes of a molecule look alike, because most of the molecule is the same in all of them; what matters is how a
class *differs*. So every class map also yields its difference map, class minus the mean of all particles of the half's
other classes, and the one-to-one matching rests on the correlation of difference maps, each shell weighed by how
reliable the classes' maps are there (by their half-maps). Two copies with independent noise correlate by S / (S + N):
0.5 means as much signal as noise.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaussemble.analysis.metrics import band_limited, correlation_matrix, independent_values, match
from gaussemble.errors import InputError
from gaussemble.io.files import read_csv, read_json
from gaussemble.io.mrc import read_map
from gaussemble.physics.fourier import to_fourier_3d, to_real_3d
from gaussemble.physics.rings import shell_index
from gaussemble.prepare.fsc import curve_resolution
from gaussemble.quantities import Map

UNRELATED = 3.0  # standard errors of a correlation of unrelated maps
PASSES = 3  # of what is taken out of a difference map in turn


@dataclass(frozen=True)
class Classes:
    """The classes of one half that have maps."""

    maps: Float[Tensor, "cluster z y x"]
    number: Int[np.ndarray, " cluster"]  # of the cluster, from 1
    size: Int[np.ndarray, " cluster"]  # particles
    particles: int  # of the half, with those of skipped clusters and of none
    images: int  # of the half: fewer than particles where these are symmetry-expanded
    fsc: Float[np.ndarray, "cluster ring"]  # of the half-maps in the mask
    half_map_resolution: Float[np.ndarray, " cluster"]  # Å, FSC 0.5
    pixel_size: float  # Å
    skipped: dict[int, str] = field(default_factory=dict)  # clusters without a map, and why
    given: bool = False  # by a user's labels

    def __len__(self) -> int:
        return len(self.maps)

    @property
    def fraction(self) -> Float[np.ndarray, " cluster"]:
        """Share of the half's particles."""
        return self.size / self.particles

    @property
    def fraction_error(self) -> Float[np.ndarray, " cluster"]:
        """Binomial standard error of the share; copies share their noise and may fall alike: an image counts once."""
        return np.sqrt(self.fraction * (1 - self.fraction) / self.images)


@dataclass(frozen=True)
class Comparison:
    """Every class of one half against every class of the other."""

    resolution: float  # Å, to which they were compared
    correlation: Float[np.ndarray, "even odd"]  # of maps
    difference_correlation: Float[np.ndarray, "even odd"]  # of difference maps; 0 where there is one class only
    chance: float  # a correlation that unrelated difference maps hardly ever exceed
    even: Int[np.ndarray, " match"]  # rows, from 0, matched one to one
    odd: Int[np.ndarray, " match"]
    shared: Float[np.ndarray, " match"]  # contrast of what both difference maps have, as a share of the map's
    structure: Float[np.ndarray, " match"]  # the share of it that is neither contrast nor round

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Matched rows of even and odd."""
        return list(zip(self.even.tolist(), self.odd.tolist(), strict=True))


def difference_maps(
    maps: Float[Tensor, "cluster z y x"], size: Int[np.ndarray, " cluster"]
) -> Float[Tensor, "cluster z y x"]:
    """Each class minus the mean of all other classes' particles; 0 where there is one class only.

    Every particle counts the same, so that a small class of something else sets no other class apart.
    """
    if len(maps) == 1:
        return torch.zeros_like(maps)
    share = torch.from_numpy(size / size.sum()).to(maps.dtype)[:, None, None, None]
    return (maps - weighed_mean(maps, size)) / (1 - share)


def compare(even: Classes, odd: Classes, mask: Float[Tensor, "z y x"], limit: float) -> Comparison:
    """Correlate the classes of the halves inside a mask, to `limit` Å, and match them by their difference maps."""
    first, second = as_compared(even, odd, limit)
    differences = difference_maps(first, even.size), difference_maps(second, odd.size)
    by_map = correlation_matrix(first, second, mask)
    by_difference = correlation_matrix(*differences, mask)
    alone = min(len(even), len(odd)) == 1
    rows, columns = match(by_map if alone else by_difference)
    values = min(independent_values(each, mask) for half in differences for each in half) if not alone else np.inf
    means = weighed_mean(first, even.size), weighed_mean(second, odd.size)
    contrast = covariance(means[0], means[1], mask)
    signal = [covariance(differences[0][i], differences[1][j], mask) for i, j in zip(rows, columns, strict=True)]
    left = [
        covariance(structural(differences[0][i], means[0]), structural(differences[1][j], means[1]), mask)
        for i, j in zip(rows, columns, strict=True)
    ]
    power = np.array(signal).clip(min=1e-30)
    shared = np.sqrt(power / max(contrast, 1e-30)) * (np.array(signal) > 0)
    structure = (np.array(left).clip(min=0) / power).clip(max=1) * (np.array(signal) > 0)
    chance = UNRELATED / np.sqrt(values)
    return Comparison(limit, by_map, by_difference, chance, rows, columns, shared, structure)


def as_compared(
    even: Classes, odd: Classes, limit: float
) -> tuple[Float[Tensor, "even z y x"], Float[Tensor, "odd z y x"]]:
    """The maps of both halves to `limit` Å, each shell weighed by how reliable it is in both."""
    weight = reliability(np.concatenate([even.fsc, odd.fsc]))
    first, second = (weighted(band_limited(half.maps, half.pixel_size, limit), weight) for half in (even, odd))
    return first, second


def weighed_mean(maps: Float[Tensor, "cluster z y x"], size: Int[np.ndarray, " cluster"]) -> Float[Tensor, "z y x"]:
    """The mean of all classes' particles."""
    return (torch.from_numpy(size / size.sum()).to(maps.dtype)[:, None, None, None] * maps).sum(0)


def reliability(fsc: Float[np.ndarray, "cluster ring"]) -> Float[Tensor, " ring"]:
    """sqrt(2 FSC / (1 + FSC)) of the classes' mean FSC of half-maps: the correlation of a map with the truth."""
    mean = torch.from_numpy(np.nan_to_num(fsc).clip(0, 1).mean(0))
    return torch.sqrt(2 * mean / (1 + mean))


def weighted(voxels: Float[Tensor, "*batch z y x"], weight: Float[Tensor, " ring"]) -> Float[Tensor, "*batch z y x"]:
    """Maps with each shell multiplied; the corners vanish."""
    box = voxels.shape[-1]
    grid = torch.cat([weight, weight.new_zeros(1)])[shell_index(box)]
    return to_real_3d(to_fourier_3d(voxels) * grid.to(voxels.dtype), box)


def covariance(a: Float[Tensor, "z y x"], b: Float[Tensor, "z y x"], weight: Float[Tensor, "z y x"]) -> float:
    """Of two maps' voxels under a weight."""
    share = weight.double() / weight.double().sum()
    a, b = (each.double() - (share * each).sum() for each in (a, b))
    return float((share * a * b).sum())


def structural(difference: Float[Tensor, "z y x"], mean: Float[Tensor, "z y x"]) -> Float[Tensor, "z y x"]:
    """A difference map without what particles make that are no other structure.

    Misaligned or broken particles, and those of something else, add less of the mean map (in each shell by its own
    factor) and round density, since views that do not belong together average over all directions. Both are taken out,
    in turn, since they overlap.
    """
    for _ in range(PASSES):
        difference = without_round(without_contrast(difference, mean))
    return difference


def without_contrast(difference: Float[Tensor, "z y x"], mean: Float[Tensor, "z y x"]) -> Float[Tensor, "z y x"]:
    """Less the multiple of the mean map in each shell that is most like it (least squares)."""
    box = mean.shape[-1]
    index, other, reference = shell_index(box), to_fourier_3d(difference), to_fourier_3d(mean)
    sums = [
        torch.zeros(box // 2 + 2, dtype=torch.float64).index_add_(0, index.flatten(), values.double().flatten())
        for values in ((reference.conj() * other).real, reference.abs().square())
    ]
    factor = (sums[0] / sums[1].clamp(min=1e-30))[index]
    return to_real_3d(other - factor.to(mean.dtype) * reference, box)


def without_round(voxels: Float[Tensor, "z y x"]) -> Float[Tensor, "z y x"]:
    """Less its mean over each sphere about the box's origin."""
    axis = torch.arange(voxels.shape[-1]) - voxels.shape[-1] // 2
    squared = axis[:, None, None].square() + axis[:, None].square() + axis.square()
    shell = (squared.sqrt() + 0.5).long().flatten()
    mean = torch.bincount(shell, weights=voxels.flatten().double()) / torch.bincount(shell).clamp(min=1)
    return voxels - mean[shell].view_as(voxels).to(voxels)


def correlation_table(even: Classes, odd: Classes, found: Comparison) -> pd.DataFrame:
    """Every pair of classes: cluster_even, cluster_odd, correlation, difference_correlation, matched (0 or 1)."""
    rows, columns = (index.flatten() for index in np.indices(found.correlation.shape))
    return pd.DataFrame(
        {
            "cluster_even": even.number[rows],
            "cluster_odd": odd.number[columns],
            "correlation": found.correlation.flatten(),
            "difference_correlation": found.difference_correlation.flatten(),
            "matched": [int(pair in found.pairs) for pair in zip(rows.tolist(), columns.tolist(), strict=True)],
        }
    )


def read_classes(folder: Path) -> Classes:
    """The classes of one half's analysis from its folders latent/ and volumes/; those without a map are skipped.

    Maps are means of the unregularised half-maps. That of map.mrc is damped by its class's signal-to-noise ratio, and
    a difference of such maps would hold what the filters differ by, the same in both halves, without any structure.
    """
    table = read_csv(folder / "latent" / "clusters.csv", ["particle", "cluster"])
    assigned = table["cluster"].to_numpy()
    sizes = np.bincount(assigned)  # cluster 0: particles of none
    numbers = [number for number in range(1, len(sizes)) if sizes[number]]
    skipped = skipped_clusters(folder / "volumes", numbers)
    numbers = [number for number in numbers if number not in skipped]
    if not numbers:
        raise InputError(
            f"{folder / 'volumes'}: no cluster has a map ({next(iter(skipped.values()), 'none was found')}); lower "
            "latent.clusters"
        )
    places = [folder / "volumes" / f"cluster_{number}" for number in numbers]
    maps = [_mean_of_halves(place) for place in places]
    if len({(each.box, round(each.pixel_size, 4)) for each in maps}) > 1:
        raise InputError(f"{folder / 'volumes'}: its cluster maps differ in box or voxel size; make them again")
    curves = [read_csv(place / "fsc.csv", ["frequency", "fsc_masked"]) for place in places]
    return Classes(
        maps=torch.stack([each.voxels for each in maps]),
        number=np.array(numbers),
        size=sizes[numbers],
        particles=len(assigned),
        images=len(np.unique(table["particle"])),
        fsc=np.stack([curve["fsc_masked"].to_numpy(float) for curve in curves]),
        half_map_resolution=np.array([curve_resolution(curve, threshold=0.5) for curve in curves]),
        pixel_size=maps[0].pixel_size,
        skipped=skipped,
        given=classes_given(folder / "latent"),
    )


def classes_given(latent: Path) -> bool:
    """Whether the clusters of the stage latent are a user's own."""
    path = latent / "structure.json"
    return path.is_file() and read_json(path).get("method") == "labels"


def skipped_clusters(volumes: Path, numbers: list[int]) -> dict[int, str]:
    """The clusters that the stage volumes has no maps of, and its reasons."""
    reasons = {}
    if (volumes / "report.json").is_file():
        reasons = {each["name"]: each["reason"] for each in read_json(volumes / "report.json").get("skipped", [])}
    missing = [number for number in numbers if not (volumes / f"cluster_{number}" / "half1.mrc").is_file()]
    return {number: reasons.get(f"cluster_{number}", "it has no map") for number in missing}


def _mean_of_halves(folder: Path) -> Map:
    half1, half2 = (read_map(folder / name) for name in ("half1.mrc", "half2.mrc"))
    return half1.with_voxels((half1.voxels + half2.voxels) / 2)
