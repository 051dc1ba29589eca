"""Neutral map of one split from its own particles: half-maps, their FSC, mask, and the spectrum of the noise.

The poses are taken as they are. A map of the user's may stand in for the reconstruction; it is then held against it.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from pydantic import Field
from scipy.stats import skew
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.io.files import read_json, write_csv
from gaussemble.io.mrc import read_map, write_map
from gaussemble.io.store import ImageStore, open_store
from gaussemble.options import StageOptions
from gaussemble.physics.backprojection import (
    Sums,
    divide,
    empty_sums,
    extract,
    insert,
    volume_grid,
    weighted_slices,
    wiener_snr,
)
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import to_fourier, to_fourier_3d, to_real_3d
from gaussemble.physics.masks import low_pass, masked_correlation, soft_mask, within_sphere
from gaussemble.physics.projection import shift_phases
from gaussemble.physics.rings import resolution, ring_frequencies, ring_means, shell_correlation
from gaussemble.progress import progress, say
from gaussemble.quantities import Map

BLOCK = 512  # images in memory at a time
SAME = 0.01  # relative difference of pixel sizes and fields of view that counts as none
COARSE = 20.0  # Å, where contrast, hand and a user's map are judged


class Options(StageOptions):
    """Options of the stage `consensus`."""

    padding: Literal[1, 2] = Field(default=2, description="Zero padding of the reconstruction; 1 is quicker, coarser.")
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


def halves(store: ImageStore, rows: Int[Tensor, " image"]) -> Int[Tensor, "image 2"]:
    """(row, 0 or 1) of each row: the half-map that its particle belongs to."""
    return torch.stack([rows, store.half[rows]], dim=-1)


def sum_slices(store: ImageStore, pairs: Int[Tensor, "pair 2"], volumes: int, padding: int) -> Sums:
    """Insert the images of a store into several volumes in one pass; pair (r, v) adds row r to volume v."""
    sums = empty_sums(volumes, store.box, padding)
    rows = torch.unique(pairs[:, 0])
    starts = range(0, len(rows), BLOCK)
    for start in progress(starts, "reconstruction, blocks of images"):
        block = rows[start : start + BLOCK]
        here = pairs[torch.isin(pairs[:, 0], block)]
        here = here[torch.argsort(here[:, 1], stable=True)]
        local = torch.stack([torch.searchsorted(block, here[:, 0].contiguous()), here[:, 1]], dim=-1)
        particles = store.particles[block]
        data, weights = weighted_slices(store.read(block), particles, store.pixel_size)
        insert(sums, data, weights, particles.rotation, local)
    return sums


def fsc_table(
    half1: Float[Tensor, "z y x"], half2: Float[Tensor, "z y x"], mask: Float[Tensor, "z y x"], pixel_size: float
) -> pd.DataFrame:
    """fsc.csv of two half-maps: ring, frequency (1/Å), resolution (Å), fsc, fsc_masked."""
    frequency = ring_frequencies(half1.shape[-1], pixel_size).numpy()
    with np.errstate(divide="ignore"):
        period = 1 / frequency
    curves = {"fsc": shell_correlation(half1, half2), "fsc_masked": masked_correlation(half1, half2, mask)}
    table = {"ring": np.arange(len(frequency)), "frequency": frequency, "resolution": period}
    return pd.DataFrame(table | {name: curve.numpy() for name, curve in curves.items()})


def curve_resolution(table: pd.DataFrame, column: str = "fsc_masked", threshold: float = 0.143) -> float:
    """Å where a curve of fsc.csv falls below the threshold."""
    fsc, frequency = (torch.tensor(table[name].to_numpy(float)) for name in (column, "frequency"))
    return resolution(fsc, frequency, threshold)


def crop_map(voxels: Float[Tensor, "z y x"], box: int) -> Float[Tensor, "box box box"]:
    """A map resampled to a smaller box over the same field of view, mean density kept."""
    size = voxels.shape[-1]
    upper, lower = (box + 1) // 2, (box - 1) // 2  # an even box's Nyquist is left out: it aliases two frequencies
    source = torch.cat([torch.arange(upper), torch.arange(size - lower, size)])
    target = torch.cat([torch.arange(upper), torch.arange(box - lower, box)])
    transform = torch.zeros(box, box, box // 2 + 1, dtype=torch.complex64)
    original = to_fourier_3d(voxels)
    transform[target[:, None], target[None, :], :upper] = original[source[:, None], source[None, :], :upper]
    return to_real_3d(transform, box) * (box / size) ** 3


def on_grid(path: Path, store: ImageStore) -> Map:
    """A map file on the store's grid: as it is, or Fourier-cropped from a finer grid over the same field of view.

    Raises:
        InputError: box and pixel size fit neither way.
    """
    given = read_map(path)
    if given.box == store.box and abs(given.pixel_size / store.pixel_size - 1) < SAME:
        return Map(given.voxels, store.pixel_size, given.origin)
    field, wanted = given.box * given.pixel_size, store.box * store.pixel_size
    if given.box <= store.box or abs(field / wanted - 1) >= SAME:
        raise InputError(
            f"{path}: box {given.box} at {given.pixel_size:.4g} Å/pixel, but the particles of {store.folder} have box "
            f"{store.box} at {store.pixel_size:.4g} Å/pixel; give a map over the same field of view ({wanted:.4g} Å)"
        )
    say(f"{path}: Fourier-cropped from box {given.box} to {store.box}")
    center = given.center
    origin = tuple(float(value) for value in center - store.box // 2 * store.pixel_size)
    return Map(crop_map(given.voxels, store.box), store.pixel_size, (origin[0], origin[1], origin[2]))


def frame_origin(store: ImageStore) -> tuple[float, float, float]:
    """Å, of voxel 0 in the frame of the refinement's maps, whose own voxel 0 is at 0 (RELION's).

    Not 0 where an odd box was cropped: D//2 of the two boxes then differ. The refinement's box is in report.json.
    """
    path = store.folder / "report.json"
    if not path.is_file():
        return (0.0, 0.0, 0.0)
    report = read_json(path)
    center = report["image_size"] // 2 * report["image_pixel_size"]
    return (center - store.box // 2 * store.pixel_size,) * 3


def correlation(a: Float[np.ndarray, " voxel"], b: Float[np.ndarray, " voxel"]) -> float:
    """Pearson's; 0 where one of them is flat."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def coarse(density: Map) -> Float[np.ndarray, "z y x"]:
    """The map low-passed for judging, as float64."""
    smooth = low_pass(density.voxels, density.pixel_size, max(COARSE, 3 * density.pixel_size))
    return smooth.numpy().astype(np.float64)


def check_contrast(own: Map, reliability: float, folder: Path) -> str | None:
    """What is wrong with the contrast of a reconstruction, or None.

    A molecule fills a small part of its box, so its density has a long tail on its own side: the skewness of the
    low-passed voxels is above 1 for positive molecules and below -1 for negative ones.
    """
    asymmetry = float(skew(coarse(own)[within_sphere(own.box)]))
    if asymmetry >= 0 or (asymmetry > -1 and reliability < 0.5):
        return None
    return (
        f"{folder}: contrast looks inverted: set particles.invert (skewness of the reconstruction's density at "
        f"{COARSE:g} Å is {asymmetry:.2f}, expected positive)"
    )


def check_map(given: Map, own: Map, path: Path) -> str | None:
    """What is wrong with a user's map beside the particles' own reconstruction, or None; says how well they agree."""
    sphere = within_sphere(own.box)
    first, second = coarse(own), coarse(given)
    straight = correlation(first[sphere], second[sphere])
    mirror = np.roll(second[..., ::-1], 1 - own.box % 2, axis=-1)  # x to -x about voxel D//2
    mirrored = correlation(first[sphere], mirror[sphere])
    found = f"correlation with the particles' own reconstruction at {COARSE:g} Å is {straight:.2f}"
    say(f"{path}: {found}")
    if straight < -0.3:
        return f"{path}: contrast inverted: {found}; multiply the map by -1, or set particles.invert"
    if mirrored > straight + 0.05 and mirrored > 0.8:
        return f"{path}: the map has the other hand: {found}, that of its mirror image {mirrored:.2f}; mirror the map"
    if straight < 0.7:
        return (
            f"{path}: the map does not belong to these particles, or their poses are inverted, or their views leave "
            f"much of it unseen: {found}"
        )
    return None


def judge(problem: str | None, sure: bool, options: Options) -> None:
    """Stop with the problem, or only say it where the reconstruction is too poor to be sure or the user wants so."""
    if problem is None:
        return
    if sure and options.check == "refuse":
        raise InputError(f"{problem}; or set consensus.check to warn")
    say(f"warning: {problem}" + ("" if sure else " (but the reconstruction is poor)"))


def noise_rows(store: ImageStore, most: int) -> Int[Tensor, " image"]:
    """At most so many particles of each optics group, evenly spread over the store."""
    chosen = []
    for group in torch.unique(store.particles.optics_group):
        rows = (store.particles.optics_group == group).nonzero().flatten()
        chosen.append(rows[torch.linspace(0, len(rows) - 1, min(most, len(rows))).long()])
    return torch.cat(chosen).sort().values


def noise_power(
    store: ImageStore, references: tuple[Tensor, Tensor], rows: Int[Tensor, " image"], padding: int
) -> Float[Tensor, "group ring"]:
    """Mean |X - CTF P(map)|² per ring and optics group (NaN for groups without particles).

    The map is the *other* half's (`references[1]` for those of half 0): in a map to which a particle has contributed,
    part of its own noise would be subtracted. What remains is the noise plus the error of the filtered half-map, which
    is never more than the signal that the filter left out: the estimate is a little high, never low.
    """
    groups = int(store.particles.optics_group.max()) + 1
    total, count = torch.zeros(groups, store.box // 2 + 1, dtype=torch.float64), torch.zeros(groups)
    for half, reference in enumerate(references):
        grid = volume_grid(reference, padding)
        for block in rows[store.half[rows] != half].split(BLOCK):
            particles = store.particles[block]
            model = extract(grid, particles.rotation, store.box, padding)
            model = model * evaluate(particles.ctf, store.box, store.pixel_size)
            model = model * shift_phases(particles.shift, store.box, store.pixel_size)
            residual = (to_fourier(store.read(block)) - model).abs().square()
            total.index_add_(0, particles.optics_group, ring_means(residual, store.box).double())
            count.index_add_(0, particles.optics_group, torch.ones(len(block)))
    return total / count[:, None]


def noise_table(power: Float[Tensor, "group ring"], pixel_size: float, box: int) -> pd.DataFrame:
    """noise.csv: optics_group, ring, frequency (1/Å), power; groups without particles get the others' mean."""
    missing = power.isnan().any(dim=1)
    power = torch.where(missing[:, None], power[~missing].mean(0), power)
    groups, rings = power.shape
    columns = {
        "optics_group": np.repeat(np.arange(groups), rings),
        "ring": np.tile(np.arange(rings), groups),
        "frequency": np.tile(ring_frequencies(box, pixel_size).numpy(), groups),
        "power": power.flatten().numpy(),
    }
    return pd.DataFrame(columns)


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


def read_mask(path: Path, store: ImageStore) -> Float[Tensor, "z y x"]:
    """A user's mask on the store's grid; raises InputError where it is not between 0 and 1 or is empty."""
    mask = on_grid(path, store).voxels
    low, high = float(mask.min()), float(mask.max())
    if low < -0.2 or high > 1.2 or high < 0.5:
        raise InputError(f"{path}: values from {low:.3g} to {high:.3g}; a mask goes from 0 to 1")
    return mask.clamp(0, 1)


def check_mask(mask: Float[Tensor, "z y x"], own: Map, path: Path) -> str | None:
    """What is wrong with a user's mask beside the particles' own reconstruction, or None."""
    density, weight = own.voxels.double(), mask.double()
    if float((1 - weight).sum()) < 1:
        return None
    inside, outside = (float((density * part).sum() / part.sum()) for part in (weight, 1 - weight))
    if inside > outside:
        return None
    return (
        f"{path}: the mask misses the molecule: the reconstruction's mean density is {inside:.3g} inside and "
        f"{outside:.3g} outside; is it inverted, or of another map?"
    )


def matched_scale(given: Map, own: Map) -> Map:
    """A user's map in the particles' grey scale: least squares on the low-passed density."""
    sphere = within_sphere(own.box)
    first, second = coarse(own)[sphere], coarse(given)[sphere]
    first, second = first - first.mean(), second - second.mean()
    scale = float((first * second).sum() / (second * second).sum())
    say(f"the map is multiplied by {scale:.4g}: the particles' grey scale")
    return given.with_voxels(given.voxels * scale)


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
        InputError: contrast inverted; a map or a mask that does not fit the particles.
    """
    store = open_store(particles)
    if len(store) < 2:
        raise InputError(f"{particles}: {len(store)} particle; two half-maps need at least 2")
    given = on_grid(map, store) if map else None
    given_mask = read_mask(mask, store) if mask else None

    sums = sum_slices(store, halves(store, torch.arange(len(store))), 2, options.padding)
    half1, half2 = divide(sums, 0), divide(sums, 1)
    both = sums.merged([0, 1])
    filtered = divide(both, snr=wiener_snr(shell_correlation(half1, half2)))
    own = Map(filtered, store.pixel_size, frame_origin(store))

    pair = [coarse(own.with_voxels(half))[within_sphere(store.box)] for half in (half1, half2)]
    reliability = correlation(*pair)
    judge(check_contrast(own, reliability, particles), reliability > 0.5, options)
    if given and map:
        plain = own.with_voxels((half1 + half2) / 2)  # Wiener's filter would damp the scale
        judge(check_map(given, plain, map), reliability > 0.5, options)
        given = matched_scale(given, plain)
    frame = given or own

    if given_mask is not None and mask:
        judge(check_mask(given_mask, own, mask), reliability > 0.5, options)
    soft = make_mask(frame, store, options) if given_mask is None else given_mask
    table = fsc_table(half1, half2, soft, store.pixel_size)
    snr = wiener_snr(torch.tensor(table["fsc_masked"].to_numpy()))
    result = given or own.with_voxels(divide(both, snr=snr))
    references = (divide(sums, 0, snr / 2) * soft, divide(sums, 1, snr / 2) * soft)
    power = noise_power(store, references, noise_rows(store, options.noise_particles), options.padding)

    for name, voxels in {"map": result.voxels, "half1": half1, "half2": half2, "mask": soft}.items():
        write_map(out / f"{name}.mrc", frame.with_voxels(voxels))
    write_csv(out / "fsc.csv", table)
    write_csv(out / "noise.csv", noise_table(power, store.pixel_size, store.box))
    say(
        f"consensus: {len(store)} particles, {curve_resolution(table):.1f} Å at FSC 0.143 in the mask "
        f"({float(soft.mean()):.0%} of the box), {curve_resolution(table, 'fsc'):.1f} Å without"
    )
