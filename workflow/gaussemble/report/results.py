"""Reading results for figures, without torch: a figure is drawn in a second.

Maps are those that this package wrote (mode 2, axes in order); for others there is `io.mrc`.
"""

from pathlib import Path
from typing import Any, NamedTuple

import mrcfile
import numpy as np
import pandas as pd
from jaxtyping import Float

from gaussemble.errors import InputError
from gaussemble.io.files import read_csv

LARGEST_PANEL = 128  # pixels; a larger map is binned for drawing, and so is the table behind the figure


class Density(NamedTuple):
    """A map as arrays."""

    voxels: Float[np.ndarray, "z y x"]
    pixel_size: float  # Å
    origin: tuple[float, float, float]  # Å, (x, y, z) of voxel 0


class Window(NamedTuple):
    """The cube of a map that figures show, and its binning."""

    start: int
    stop: int
    step: int


def read_density(path: Path) -> Density:
    """A map that this package wrote."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with mrcfile.open(path, permissive=False) as file:
        header: Any = file.header
        origin = tuple(float(header.origin[axis]) for axis in "xyz")
        voxels: Any = file.data
        return Density(np.array(voxels, dtype=np.float32), float(file.voxel_size["x"]), origin)  # type: ignore[arg-type]


def window(mask: Float[np.ndarray, "z y x"], margin: int = 2) -> Window:
    """The smallest cube about the box's centre that holds the mask; binned where it is larger than a panel."""
    box = mask.shape[-1]
    inside = np.argwhere(mask > 0.1) - box // 2
    reach = min(box // 2, int(np.abs(inside).max()) + margin) if len(inside) else box // 2
    return _about_center(box, reach)


def window_of_points(points: Float[np.ndarray, "point 3"], density: Density, margin: int = 4) -> Window:
    """The smallest cube about the box's centre that holds all points, in Å from the centre."""
    box = density.voxels.shape[-1]
    return _about_center(box, min(box // 2, int(np.abs(points).max() / density.pixel_size) + margin))


def _about_center(box: int, reach: int) -> Window:
    start, stop = box // 2 - reach, min(box, box // 2 + reach + 1)
    return Window(start, stop, -(-(stop - start) // LARGEST_PANEL))


def projection(voxels: Float[np.ndarray, "z y x"], axis: int, shown: Window) -> Float[np.ndarray, "row column"]:
    """Sum along an array axis (0 z, 1 y, 2 x) of the window's part; rows go up in drawings (origin lower)."""
    return binned(voxels[(slice(shown.start, shown.stop),) * 3].sum(axis=axis), shown.step)


def binned(image: Float[np.ndarray, "row column"], step: int) -> Float[np.ndarray, "row column"]:
    """Mean over step x step pixels; what does not fill a bin at the end is left out."""
    rows, columns = (size // step for size in image.shape)
    return image[: rows * step, : columns * step].reshape(rows, step, columns, step).mean(axis=(1, 3))


def extent(density: Density, shown: Window) -> tuple[float, float, float, float]:
    """Left, right, bottom, top in Å from the box's origin (voxel D//2), for imshow with the origin below."""
    size = (shown.stop - shown.start) // shown.step * shown.step
    low = (shown.start - density.voxels.shape[-1] // 2 - 0.5) * density.pixel_size
    high = low + size * density.pixel_size
    return low, high, low, high


def pixels(panels: dict[str, Float[np.ndarray, "row column"]]) -> pd.DataFrame:
    """The panels' pixels as a table: panel, row, column, value; row 0 is the lowest."""
    parts = []
    for name, image in panels.items():
        row, column = np.indices(image.shape)
        parts.append(
            pd.DataFrame({"panel": name, "row": row.ravel(), "column": column.ravel(), "value": image.ravel()})
        )
    return pd.concat(parts, ignore_index=True)


def crossing(frequency: Any, curve: Any, threshold: float) -> float:
    """Å where a curve first falls below a threshold; as physics.rings.resolution, on arrays."""
    frequency, curve = np.asarray(frequency, dtype=float), np.asarray(curve, dtype=float)
    below = np.flatnonzero(curve[1:] < threshold)
    if len(below) == 0:
        return 1 / frequency[-1]
    after = int(below[0]) + 1
    before = after - 1
    drop = curve[before] - curve[after]
    share = (curve[before] - threshold) / drop if before > 0 and drop > 0 else 1.0
    return 1 / (frequency[before] + share * (frequency[after] - frequency[before]))


def crossing_text(frequency: Any, curve: Any, threshold: float) -> str:
    """The crossing in Å as text; with a < where the curve ends above the threshold."""
    beyond = "" if (np.asarray(curve)[1:] < threshold).any() else "< "
    return f"{beyond}{crossing(frequency, curve, threshold):.1f}"


def main_curve(table: pd.DataFrame) -> str:
    """The column of fsc.csv that gives the resolution: without what the mask adds, where that was measured."""
    return "fsc_corrected" if "fsc_corrected" in table else "fsc_masked"


def cluster_count(folder: Path) -> int:
    """Number of clusters of an analysis (of one split)."""
    return int(np.max(read_csv(folder / "latent" / "clusters.csv", ["cluster"])["cluster"]))


def trajectories(folder: Path) -> dict[str, pd.DataFrame]:
    """The trajectories pc1, pc2, ... of an analysis (of one split)."""
    paths = sorted((folder / "latent" / "trajectories").glob("pc*.csv"), key=lambda path: int(path.stem[2:]))
    if not paths:
        raise InputError(f"{folder / 'latent' / 'trajectories'}: no pc1.csv; run the stage latent")
    return {path.stem: read_csv(path, ["point", "percentile", "z1"]) for path in paths}


def embedding(folder: Path, most: int = 20_000) -> tuple[pd.DataFrame, int]:
    """Embedding and cluster of each particle, at most `most` of them drawn at random, and how many there are."""
    paths = [folder / "latent" / name for name in ("embedding.csv", "clusters.csv")]
    table = read_csv(paths[0], ["particle", "pc1"])
    clusters = read_csv(paths[1], ["particle", "cluster"])
    if not np.array_equal(table["particle"], clusters["particle"]):  # not merged: copies of a particle share its number
        raise InputError(f"{paths[1]}: the column particle is not that of {paths[0]}; run the stage latent again")
    table["cluster"] = clusters["cluster"]
    return (table.sample(most, random_state=0) if len(table) > most else table), len(table)
