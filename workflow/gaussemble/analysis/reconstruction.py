"""The maps of one state from the sums of its slices: half-maps, their FSC, filtered, sharpened; and the decoded map."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from gaussemble.io.files import write_csv
from gaussemble.io.mrc import write_map
from gaussemble.model.heterogeneity import DeformableMixture
from gaussemble.physics.backprojection import Sums, divide, wiener_snr
from gaussemble.physics.band_limited import band_limited_map
from gaussemble.physics.sharpening import (
    b_factor_gain,
    correlation_gain,
    filtered,
    guinier,
    low_pass_gain,
)
from gaussemble.physics.symmetric_sums import symmetrised
from gaussemble.prepare.fsc import curve_resolution, half_map_table
from gaussemble.quantities import Map, Mixture

MAPS = ("map", "half1", "half2", "unfiltered", "sharpened", "decoded")
Maps = dict[str, Float[Tensor, "z y x"]]


def reconstructed(sums: Sums, frame: Map, symmetry: str = "C1") -> tuple[Maps, pd.DataFrame]:
    """half1, half2, unfiltered and map of the sums of two halves, and their fsc.csv.

    Args:
        sums: volumes 0 and 1 are the halves.
        frame: the mask in which FSC counts.
        symmetry: point group that the maps get.
    """
    sums = symmetrised(sums, symmetry)
    half1, half2, both = divide(sums, 0), divide(sums, 1), sums.merged([0, 1])
    table = half_map_table(half1, half2, frame.voxels, frame.pixel_size)
    weighted = divide(both, snr=_snr(table))
    ended = filtered(weighted, low_pass_gain(sums.box, frame.pixel_size, curve_resolution(table)))
    return {"map": ended, "half1": half1, "half2": half2, "unfiltered": divide(both)}, table


def averaged(half1: Float[Tensor, "z y x"], half2: Float[Tensor, "z y x"], frame: Map) -> tuple[Maps, pd.DataFrame]:
    """The same of half-maps of which there are no sums: their mean, and Wiener's filter by shells."""
    table = half_map_table(half1, half2, frame.voxels, frame.pixel_size)
    snr, mean = _snr(table), (half1 + half2) / 2
    gain = snr / (1 + snr) * low_pass_gain(frame.box, frame.pixel_size, curve_resolution(table))
    return {"map": filtered(mean, gain), "half1": half1, "half2": half2, "unfiltered": mean}, table


def _snr(table: pd.DataFrame) -> Float[Tensor, " ring"]:
    """Of the mean of two half-maps."""
    return wiener_snr(torch.tensor(table["fsc_corrected"].to_numpy()))


def sharpened(
    maps: Maps, table: pd.DataFrame, frame: Map, sharpen: bool, b_factor: float | None
) -> tuple[Maps, dict[str, Any]]:
    """The maps with `sharpened`, where it was asked for and can be made, and what was done for report.json.

    Args:
        maps: of `reconstructed`.
        table: their fsc.csv.
        frame: the mask.
        sharpen: whether.
        b_factor: Å²; None: by Guinier's plot.
    """
    if not sharpen:
        return maps, {}
    limit = curve_resolution(table)
    weighted = filtered(maps["unfiltered"], correlation_gain(torch.tensor(table["fsc_corrected"].to_numpy())))
    line = guinier(weighted, frame.pixel_size, limit) if b_factor is None else None
    b_factor = line.b_factor if line else b_factor
    facts = {"b_factor": b_factor, "guinier_correlation": line.correlation if line else None}
    if b_factor is None:
        return maps, facts
    gain = b_factor_gain(frame.box, frame.pixel_size, b_factor) * low_pass_gain(frame.box, frame.pixel_size, limit)
    return maps | {"sharpened": filtered(weighted, gain)}, facts


def decoded(model: DeformableMixture, latent: Float[Tensor, " latent"], frame: Map) -> Float[Tensor, "z y x"]:
    """The map of the mixture that the model decodes from a latent vector, as its projections are: up to Nyquist."""
    with torch.no_grad():
        mixture = model.decode(latent[None].float())
    single = Mixture(mixture.center[0], mixture.amplitude[0], mixture.width[0])
    return band_limited_map(single, frame.box, frame.pixel_size)


def write_maps(folder: Path, maps: Maps, table: pd.DataFrame, frame: Map) -> None:
    """The maps and fsc.csv of one state; what an earlier run wrote with other options is removed."""
    remove_maps(folder)
    for name, voxels in maps.items():
        write_map(folder / f"{name}.mrc", frame.with_voxels(voxels))
    write_csv(folder / "fsc.csv", table)


def remove_maps(folder: Path) -> None:
    """Of a state that gets none now."""
    for name in (*(f"{each}.mrc" for each in MAPS), "fsc.csv"):
        (folder / name).unlink(missing_ok=True)
