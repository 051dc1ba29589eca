"""Even against odd: which classes of one half of the particles does the other half find too?

The halves share no particle and no network, only the frame of the refinement, so maps are compared and never labels.
All classes of a molecule look alike, because most of the molecule is the same in all of them; what matters is how a
class *differs*. So every class map also yields its difference map, class minus the mean of its half's classes, and the
one-to-one matching and the verdict rest on the correlation of difference maps. Two copies with independent noise
correlate by S / (S + N): 0.5 means as much signal as noise.

It does not exclude agreement that has another cause than structure (shared poses, preferred views, the way the method
works): that takes a null, the same analysis of particles without heterogeneity, which is not made here. "Chance" here
is only that of unrelated maps with the spectrum of the difference maps.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from gaussemble.analysis.metrics import band_limited, correlation_matrix, independent_values, match, runner_up
from gaussemble.errors import InputError
from gaussemble.io.files import read_csv, write_csv, write_json
from gaussemble.io.mrc import read_map
from gaussemble.options import StageOptions
from gaussemble.physics.rings import resolution, ring_frequencies, shell_correlation
from gaussemble.prepare.fsc import curve_resolution
from gaussemble.progress import say
from gaussemble.quantities import Map

SIGNIFICANT = 3.0  # standard errors
NO_NULL = (
    "Agreement by another cause than structure (shared poses, preferred views) is not excluded: "
    "no null, the same analysis of particles without heterogeneity, was run."
)


class Options(StageOptions):
    """Options of the stage `agreement`."""

    resolution: float | None = Field(
        default=None,
        gt=0,
        description="Resolution in Å to which maps are compared; none: the median over all classes of where the FSC of "
        "their half-maps falls below 0.5.",
    )
    correlation: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Least correlation of difference maps of a reproduced class; 0.5 is as much signal as noise.",
    )
    size_tolerance: float = Field(
        default=0.05,
        ge=0,
        description="By how much the fraction of particles of a reproduced class may differ between the halves, on top "
        "of three binomial errors.",
    )


@dataclass(frozen=True)
class Classes:
    """The classes of one half."""

    maps: Float[Tensor, "cluster z y x"]
    size: Int[np.ndarray, " cluster"]  # particles
    half_map_resolution: Float[np.ndarray, " cluster"]  # Å, FSC 0.5
    pixel_size: float  # Å

    def __len__(self) -> int:
        return len(self.maps)

    @property
    def fraction(self) -> Float[np.ndarray, " cluster"]:
        """Share of the half's particles."""
        return self.size / self.size.sum()

    @property
    def fraction_error(self) -> Float[np.ndarray, " cluster"]:
        """Binomial standard error of the share."""
        return np.sqrt(self.fraction * (1 - self.fraction) / self.size.sum())


@dataclass(frozen=True)
class Comparison:
    """Every class of one half against every class of the other."""

    resolution: float  # Å, to which they were compared
    correlation: Float[np.ndarray, "even odd"]  # of maps
    difference_correlation: Float[np.ndarray, "even odd"]  # of difference maps; 0 where there is one class only
    chance: float  # a correlation that unrelated difference maps hardly ever exceed
    even: Int[np.ndarray, " match"]  # 0-based, matched one to one
    odd: Int[np.ndarray, " match"]


def difference_maps(maps: Float[Tensor, "cluster z y x"]) -> Float[Tensor, "cluster z y x"]:
    """Each class minus the mean of all classes, whatever their sizes."""
    return maps - maps.mean(dim=0)


def compare(even: Classes, odd: Classes, mask: Float[Tensor, "z y x"], limit: float) -> Comparison:
    """Correlate the classes of the halves inside a mask, to `limit` Å, and match them by their difference maps."""
    first, second = (band_limited(half.maps, half.pixel_size, limit) for half in (even, odd))
    differences = difference_maps(first), difference_maps(second)
    by_map = correlation_matrix(first, second, mask)
    by_difference = correlation_matrix(*differences, mask)
    alone = min(len(even), len(odd)) == 1
    rows, columns = match(by_map if alone else by_difference)
    values = min(independent_values(each, mask) for half in differences for each in half) if not alone else np.inf
    return Comparison(limit, by_map, by_difference, SIGNIFICANT / np.sqrt(values), rows, columns)


def match_fsc(even: Classes, odd: Classes, mask: Float[Tensor, "z y x"], pair: tuple[int, int]) -> pd.DataFrame:
    """FSC between a class and its match: plain, masked, and of their difference maps, masked; columns as fsc.csv."""
    box, (i, j) = mask.shape[-1], pair
    differences = difference_maps(even.maps)[i], difference_maps(odd.maps)[j]
    frequency = ring_frequencies(box, even.pixel_size)
    curves = {
        "fsc": shell_correlation(even.maps[i], odd.maps[j]),
        "fsc_masked": shell_correlation(even.maps[i] * mask, odd.maps[j] * mask),
        "fsc_difference": shell_correlation(differences[0] * mask, differences[1] * mask),
    }
    columns = {"ring": np.arange(len(frequency)), "frequency": frequency, "resolution": 1 / frequency}
    return pd.DataFrame(columns | {name: curve.numpy() for name, curve in curves.items()})


def match_row(even: Classes, odd: Classes, found: Comparison, pair: tuple[int, int], fsc: pd.DataFrame) -> dict:
    """The numbers of one match: a row of matches.csv."""
    i, j = pair
    frequency = torch.tensor(fsc["frequency"].to_numpy())
    masked, difference = (torch.tensor(fsc[name].to_numpy()) for name in ("fsc_masked", "fsc_difference"))
    return {
        "cluster_even": i + 1,
        "cluster_odd": j + 1,
        "correlation": found.correlation[i, j],
        "resolution_0.5": resolution(masked, frequency, 0.5),
        "resolution_0.143": resolution(masked, frequency, 0.143),
        "particles_even": even.size[i],
        "particles_odd": odd.size[j],
        "fraction_even": even.fraction[i],
        "fraction_odd": odd.fraction[j],
        "fraction_error_even": even.fraction_error[i],
        "fraction_error_odd": odd.fraction_error[j],
        "difference_correlation": found.difference_correlation[i, j],
        "difference_runner_up": runner_up(found.difference_correlation, i, j),
        "difference_resolution_0.5": resolution(difference, frequency, 0.5),
    }


def judge(row: dict, chance: float, options: Options) -> tuple[str, str]:
    """The verdict on one match (reproduced, not reproduced, undecided) and its reason in numbers.

    Whether the match is nearer than the next class is judged on Fisher's scale, where a correlation r has the standard
    error 1 / sqrt(n) whatever it is: the lead is `atanh r_match - atanh r_next`, and its bound sqrt(2) * chance.
    """
    own, other = row["difference_correlation"], row["difference_runner_up"]
    if not np.isfinite(other):
        return "undecided", "there is one class only: nothing to tell it from"
    near, far = np.arctanh(np.clip([own, other], -0.999999, 0.999999))
    alike = f"difference maps correlate by {own:.2f} (next class {other:.2f})"
    if own <= chance:
        return "not reproduced", f"{alike}, no more than unrelated maps may ({chance:.2f})"
    if near - far < -np.sqrt(2) * chance:
        return "not reproduced", f"{alike}: another class is nearer"
    if near - far <= np.sqrt(2) * chance:
        return "undecided", f"{alike}: two classes that cannot be told apart"
    if own < options.correlation:
        return "undecided", f"{alike}: more than by chance ({chance:.2f}), but more noise than signal"
    error = np.hypot(row["fraction_error_even"], row["fraction_error_odd"])
    if abs(row["fraction_even"] - row["fraction_odd"]) > SIGNIFICANT * error + options.size_tolerance:
        sizes = "{fraction_even:.1%} of the even, {fraction_odd:.1%} of the odd particles".format(**row)
        return "undecided", f"{alike}, but sizes differ: {sizes}"
    return "reproduced", f"{alike} and agree to {row['difference_resolution_0.5']:.1f} Å; sizes agree"


def summarise(clusters: list[dict[str, Any]], most: int) -> str:
    """One sentence on all matches. `most`: the larger number of classes of the halves."""
    good = [each for each in clusters if each["verdict"] == "reproduced"]
    if not good:
        return f"None of {most} classes is reproduced by the two halves of the data."
    share = sum(sum(each["fractions"]) / 2 for each in good)
    limits = [f"{limit:.1f}" for limit in sorted(each["difference_resolution"] for each in good)]
    to = f"{limits[0]} Å" if limits[0] == limits[-1] else f"{limits[0]} to {limits[-1]} Å"
    return (
        f"{len(good)} of {most} classes, with {share:.0%} of the particles, are reproduced by the two halves of the "
        f"data; what sets them apart agrees to {to} (FSC 0.5)."
    )


def verdict(name: str, rows: list[dict], found: Comparison, options: Options) -> dict[str, Any]:
    """What verdict.json holds; its keys are stable.

    analysis; resolution (Å, of the comparison); chance (bound of a correlation of unrelated difference maps);
    matching_by_maps_agrees (whether whole maps would be matched alike); null (none was run); unmatched (classes of a
    half that has more); summary; caution (what it does not say); clusters: for each match even, odd (cluster
    numbers), correlation, difference_correlation, runner_up, resolution and difference_resolution (Å, masked FSC 0.5),
    fractions and fraction_errors (even, odd), verdict, reason.
    """
    clusters = []
    for row in rows:
        word, reason = judge(row, found.chance, options)
        other = row["difference_runner_up"]
        clusters.append(
            {
                "even": int(row["cluster_even"]),
                "odd": int(row["cluster_odd"]),
                "correlation": float(row["correlation"]),
                "difference_correlation": float(row["difference_correlation"]),
                "runner_up": float(other) if np.isfinite(other) else None,
                "resolution": float(row["resolution_0.5"]),
                "difference_resolution": float(row["difference_resolution_0.5"]),
                "fractions": [float(row["fraction_even"]), float(row["fraction_odd"])],
                "fraction_errors": [float(row["fraction_error_even"]), float(row["fraction_error_odd"])],
                "verdict": word,
                "reason": reason,
            }
        )
    rows_, columns_ = found.correlation.shape
    by_map = match(found.correlation)
    return {
        "analysis": name,
        "resolution": float(found.resolution),
        "chance": float(found.chance),
        "matching_by_maps_agrees": bool((by_map[0] == found.even).all() and (by_map[1] == found.odd).all()),
        "null": None,
        "unmatched": {
            "even": sorted(set(range(1, rows_ + 1)) - {each["even"] for each in clusters}),
            "odd": sorted(set(range(1, columns_ + 1)) - {each["odd"] for each in clusters}),
        },
        "summary": summarise(clusters, max(rows_, columns_)),
        "caution": NO_NULL,
        "clusters": clusters,
    }


def read_classes(folder: Path) -> Classes:
    """The classes of one half's analysis from its folders latent/ and volumes/.

    Maps are means of the unregularised half-maps. That of map.mrc is damped by its class's signal-to-noise ratio, and
    a difference of such maps would hold what the filters differ by, the same in both halves, without any structure.
    """
    assigned = read_csv(folder / "latent" / "clusters.csv", ["cluster"])["cluster"].to_numpy()
    size = np.bincount(assigned)[1:]
    places = [folder / "volumes" / f"cluster_{number}" for number in range(1, len(size) + 1)]
    maps = [_mean_of_halves(place) for place in places]
    if len({(each.box, round(each.pixel_size, 4)) for each in maps}) > 1:
        raise InputError(f"{folder / 'volumes'}: its cluster maps differ in box or voxel size; make them again")
    limits = []
    for place in places:
        fsc = read_csv(place / "fsc.csv", ["frequency", "fsc_masked"])
        limits.append(curve_resolution(fsc, threshold=0.5))
    return Classes(torch.stack([each.voxels for each in maps]), size, np.array(limits), maps[0].pixel_size)


def _mean_of_halves(folder: Path) -> Map:
    half1, half2 = (read_map(folder / name) for name in ("half1.mrc", "half2.mrc"))
    return half1.with_voxels((half1.voxels + half2.voxels) / 2)


def _union_of_masks(even: Path, odd: Path, box: int) -> Float[Tensor, "z y x"]:
    masks = [read_map(folder / "mask.mrc").voxels for folder in (even, odd)]
    for folder, mask in zip((even, odd), masks, strict=True):
        if mask.shape[-1] != box:
            raise InputError(f"{folder / 'mask.mrc'}: box {mask.shape[-1]}, but the class maps have {box}")
    return torch.maximum(*masks)


def agreement(
    *,
    even: Path,
    odd: Path,
    out: Path,
    even_consensus: Path | None = None,
    odd_consensus: Path | None = None,
    options: Options,
) -> None:
    """Match the classes of the halves and judge which are reproduced.

    `even` and `odd` are the analysis' folders of the splits; `even_consensus` and `odd_consensus` are the splits'
    consensus folders, for their masks, beside the analyses unless given. Writes matches.csv, correlations.csv,
    fsc/match_N.csv and verdict.json into `out`.
    """
    first, second = read_classes(even), read_classes(odd)
    if first.maps.shape[1:] != second.maps.shape[1:] or abs(first.pixel_size - second.pixel_size) > 1e-3:
        raise InputError(f"{even} and {odd}: class maps of another box or voxel size; the halves need equal options")
    consensus = even_consensus or even.parent / "consensus", odd_consensus or odd.parent / "consensus"
    mask = _union_of_masks(*consensus, first.maps.shape[-1])
    limits = np.concatenate([first.half_map_resolution, second.half_map_resolution])
    found = compare(first, second, mask, options.resolution or float(np.median(limits)))
    say(f"agreement: maps are compared to {found.resolution:.1f} Å")

    rows = []
    for stale in (out / "fsc").glob("match_*.csv"):  # of an earlier run with more classes
        stale.unlink()
    for number, pair in enumerate(zip(found.even.tolist(), found.odd.tolist(), strict=True), start=1):
        fsc = match_fsc(first, second, mask, pair)
        write_csv(out / "fsc" / f"match_{number}.csv", fsc)
        rows.append(match_row(first, second, found, pair, fsc))
    write_csv(out / "matches.csv", pd.DataFrame(rows))
    write_csv(out / "correlations.csv", correlation_table(found))
    result = verdict(even.name, rows, found, options)
    write_json(out / "verdict.json", result)
    say(f"agreement: {result['summary']}")


def correlation_table(found: Comparison) -> pd.DataFrame:
    """Every pair of classes: cluster_even, cluster_odd, correlation, difference_correlation, matched (0 or 1)."""
    even, odd = (index.flatten() for index in np.indices(found.correlation.shape))
    pairs = set(zip(found.even.tolist(), found.odd.tolist(), strict=True))
    return pd.DataFrame(
        {
            "cluster_even": even + 1,
            "cluster_odd": odd + 1,
            "correlation": found.correlation.flatten(),
            "difference_correlation": found.difference_correlation.flatten(),
            "matched": [int(pair in pairs) for pair in zip(even.tolist(), odd.tolist(), strict=True)],
        }
    )
