"""Neutral map of one split from its own particles: half-maps, their FSC, mask, and the spectrum of the noise.

The poses are taken as they are. A map of the user's may stand in for the reconstruction; it is then held against it.
"""

from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.io.files import write_csv
from gaussemble.io.mrc import write_map
from gaussemble.io.store import ImageStore, open_store
from gaussemble.options import StageOptions
from gaussemble.physics.backprojection import Sums, divide, wiener_snr
from gaussemble.physics.coverage import coverage
from gaussemble.physics.masks import soft_mask
from gaussemble.physics.rings import shell_correlation
from gaussemble.physics.symmetric_sums import symmetrised
from gaussemble.prepare.checks import (
    check_contrast,
    check_coverage,
    check_map,
    check_mask,
    check_poses,
    correlation,
)
from gaussemble.prepare.contrast import coarse
from gaussemble.prepare.fsc import curve_resolution, half_map_table
from gaussemble.prepare.fsc import fsc_table as fsc_table  # for stages that compare other maps
from gaussemble.prepare.given import frame_origin, matched_scale, on_grid, read_mask
from gaussemble.prepare.noise import noise_power, noise_rows, noise_table
from gaussemble.prepare.slices import check_symmetry, halves, sum_slices
from gaussemble.progress import say
from gaussemble.quantities import Map

RELIABLE = 0.5  # correlation of half-maps at 20 Å, above which a reconstruction may refuse what the user gave


class Options(StageOptions):
    """Options of the stage `consensus`."""

    padding: Literal[1, 2] = Field(default=2, description="Zero padding of the reconstruction; 1 is quicker, coarser.")
    symmetry: str = Field(
        default="C1", description="Point group of the map in RELION's names and axes: C1, C4, D2, T, O, I1 ..."
    )
    mask_resolution: float = Field(default=15.0, gt=0, description="Low-pass filter before the mask's threshold, Å.")
    mask_threshold: float | None = Field(
        default=None,
        description="Density of the low-passed map where the mask begins; from the background if not given.",
    )
    mask_extend: float = Field(default=6.0, ge=0, description="Å by which the mask reaches beyond the density.")
    mask_edge: float = Field(default=12.0, gt=0, description="Width of the mask's soft edge, Å.")
    noise_particles: int = Field(
        default=2000, ge=1, description="Particles of each optics group that the noise spectrum is measured on."
    )
    check: Literal["refuse", "warn"] = Field(
        default="refuse", description="What follows where contrast or a given map look wrong: stop, or one line."
    )


def make_mask(density: Map, store: ImageStore, options: Options) -> Float[Tensor, "z y x"]:
    """Soft mask of the map as the options say; raises InputError where nothing stands out."""
    try:
        return soft_mask(
            density.voxels,
            density.pixel_size,
            options.mask_resolution,
            options.mask_threshold,
            options.mask_extend,
            options.mask_edge,
        )
    except ValueError as error:
        raise InputError(
            f"{store.folder}: no mask can be made round the map of {len(store)} particles: {error}; set "
            "consensus.mask_threshold or give consensus.mask"
        ) from error


def judge(problem: str | None, sure: bool, options: Options) -> None:
    """Stop with the problem, or only say it where the reconstruction is too poor to be sure or the user wants so."""
    if problem is None:
        return
    if sure and options.check == "refuse":
        raise InputError(f"{problem}; or set consensus.check to warn")
    say(f"warning: {problem}" + ("" if sure else " (but the reconstruction is poor)"))


def judged(
    store: ImageStore,
    half_maps: tuple[Map, Map],
    own: Map,
    given: tuple[Map | None, Path | None],
    mask: tuple[Float[Tensor, "z y x"] | None, Path | None],
    options: Options,
) -> Map | None:
    """The user's map, if any, in the particles' grey scale, after all that may be wrong with it and the particles.

    Raises:
        InputError: something is, and the half-maps agree well enough to say so.
    """
    reliability = correlation(*(coarse(half) for half in half_maps))
    sure = reliability > RELIABLE
    judge(check_contrast(own, reliability, store.folder), sure, options)
    if mask[0] is not None and mask[1]:
        judge(check_mask(mask[0], own, mask[1]), sure, options)
    if not (given[0] and given[1]):
        return None
    plain = own.with_voxels((half_maps[0].voxels + half_maps[1].voxels) / 2)  # Wiener's filter would damp the scale
    judge(check_poses(given[0], store, options.symmetry, given[1]), True, options)
    judge(check_map(given[0], plain, given[1]), sure, options)
    return matched_scale(given[0], plain)


def say_result(store: ImageStore, table: pd.DataFrame, mask: Float[Tensor, "z y x"], symmetry: str) -> None:
    """Resolution and coverage in a line each."""
    limit, without = curve_resolution(table), curve_resolution(table, "fsc")
    images = len(store.images)
    copies = f" in {len(store)} rows" if len(store) > images else ""
    say(
        f"consensus: {images} particles{copies}, {symmetry}, {limit:.1f} Å at FSC 0.143 in the mask "
        f"({float(mask.mean()):.0%} of the box; corrected for what it adds itself), {without:.1f} Å without"
    )
    found = coverage(store.particles.rotation, store.box * store.pixel_size / limit, symmetry)
    say(f"views: {found.unseen:.1%} of the directions unseen, sampling efficiency {found.efficiency:.2f} (1: even)")
    problem = check_coverage(found, store.folder)
    if problem:
        say(f"warning: {problem}")


def summed(store: ImageStore, options: Options) -> Sums:
    """The sums of both half-maps, symmetry applied."""
    sums = sum_slices(store, halves(store, torch.arange(len(store))), 2, options.padding)
    return symmetrised(sums, options.symmetry)


def consensus(
    *, particles: Path, out: Path, map: Path | None = None, mask: Path | None = None, options: Options
) -> None:
    """Write map.mrc, half1.mrc, half2.mrc, mask.mrc, fsc.csv and noise.csv of a split into `out`.

    Args:
        particles: folder of the split's image store.
        out: folder of the results.
        map: a user's map, written to map.mrc in the place of the reconstruction; half-maps, FSC and noise are always
            the particles'.
        mask: a user's mask.
        options: of this stage.

    Raises:
        InputError: contrast or poses inverted; a map or a mask that does not fit the particles; a symmetry that is
            unknown, or that the particles have been expanded by.
    """
    store = open_store(particles)
    if len(store) < 2:
        raise InputError(f"{particles}: {len(store)} particle; two half-maps need at least 2")
    check_symmetry(store, options.symmetry)
    given = on_grid(map, store) if map else None
    given_mask = read_mask(mask, store) if mask else None

    sums = summed(store, options)
    half1, half2 = divide(sums, 0), divide(sums, 1)
    both = sums.merged([0, 1])
    filtered = divide(both, snr=wiener_snr(shell_correlation(half1, half2)))
    own = Map(filtered, store.pixel_size, frame_origin(store))
    half_maps = (own.with_voxels(half1), own.with_voxels(half2))
    scaled = judged(store, half_maps, own, (given, map), (given_mask, mask), options)
    frame = scaled or own

    soft = make_mask(frame, store, options) if given_mask is None else given_mask
    table = half_map_table(half1, half2, soft, store.pixel_size)
    snr = wiener_snr(torch.tensor(table["fsc_corrected"].to_numpy()))
    result = scaled or own.with_voxels(divide(both, snr=snr))
    references = (divide(sums, 0, snr / 2) * soft, divide(sums, 1, snr / 2) * soft)
    power = noise_power(store, references, noise_rows(store, options.noise_particles), options.padding)

    for name, voxels in {"map": result.voxels, "half1": half1, "half2": half2, "mask": soft}.items():
        write_map(out / f"{name}.mrc", frame.with_voxels(voxels))
    write_csv(out / "fsc.csv", table)
    write_csv(out / "noise.csv", noise_table(power, store.pixel_size, store.box))
    say_result(store, table, soft, options.symmetry)
