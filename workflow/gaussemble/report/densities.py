"""Figures of maps and of the mixture: slices, projections, motion. The first named axis runs right, the other up."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from gaussemble.report.results import (
    Density,
    Window,
    binned,
    extent,
    pixels,
    projection,
    read_density,
    trajectories,
    window,
    window_of_points,
)
from gaussemble.report.style import (
    DENSITY,
    INK,
    ORDERED,
    SIGNED,
    Drawing,
    blank,
    cluster_colors,
    new_figure,
    scale_bar,
)

VIEWS = {"z": 0, "y": 1, "x": 2}  # the axis that a view looks along, and its place in an array
PLANES = {"z": (0, 1), "y": (0, 2), "x": (1, 2)}  # what runs to the right and up, as places in (x, y, z)


def show(axes: Axes, image: np.ndarray, limits: tuple[float, float], edges: tuple, cmap: str = DENSITY):
    """An image in Å, in fixed limits of grey or colour."""
    blank(axes)
    return axes.imshow(
        image, cmap=cmap, vmin=limits[0], vmax=limits[1], origin="lower", extent=edges, interpolation="bilinear"
    )


def grey_limits(images: list[np.ndarray]) -> tuple[float, float]:
    """From the background's level to what hardly any pixel exceeds, for all images alike."""
    values = np.concatenate([image.ravel() for image in images])
    return float(np.percentile(values, 5)), float(np.percentile(values, 99.7))


def consensus_slices(results: Path, analysis: str) -> Drawing:
    """Central slices of the consensus map, with the mask's outline."""
    density = read_density(results / "full" / "consensus" / "map.mrc")
    mask = read_density(results / "full" / "consensus" / "mask.mrc").voxels
    shown, middle = window(mask, margin=4), density.voxels.shape[-1] // 2
    inside = slice(shown.start, shown.stop)
    slices = {
        name: binned(density.voxels.take(middle, axis)[inside, inside], shown.step) for name, axis in VIEWS.items()
    }
    outline = {name: binned(mask.take(middle, axis)[inside, inside], shown.step) for name, axis in VIEWS.items()}
    figure = new_figure(7.6, 2.9)
    edges, limits = extent(density, shown), grey_limits(list(slices.values()))
    for axes, (name, image) in zip(figure.subplots(1, 3), slices.items(), strict=True):
        show(axes, image, limits, edges)
        axes.contour(outline[name], levels=[0.5], colors=[cluster_colors(1)[0]], linewidths=1, extent=edges)
        axes.set_title(f"{'xyz'[PLANES[name][0]]}–{'xyz'[PLANES[name][1]]} plane")
        scale_bar(axes, edges[1] - edges[0])
    return Drawing(figure, pixels({f"{name} = 0": image for name, image in slices.items()}))


def neutral_mixture(results: Path, analysis: str) -> Drawing:
    """The Gaussians' centres over projections of the consensus map."""
    density = read_density(results / "full" / "consensus" / "map.mrc")
    with np.load(results / "full" / "neutral" / "mixture.npz", allow_pickle=False) as data:
        table = pd.DataFrame(data["center"] - data["box_center"], columns=["x", "y", "z"])
        table["amplitude"], table["width"] = data["amplitude"], data["width"]
    shown = window_of_points(table[["x", "y", "z"]].to_numpy(), density)
    figure = new_figure(7.6, 4.0)
    for axes, name in zip(figure.subplots(1, 2), ("z", "y"), strict=True):
        background(axes, density, name, shown)
        across, up = (table.iloc[:, place] for place in PLANES[name])
        height = table["amplitude"].abs()
        size = min(16, 8000 / len(table)) * np.clip(height / height.median(), 0.1, 4)
        edges = np.where(table["amplitude"] < 0, INK, cluster_colors(1)[0])
        axes.scatter(across, up, s=size, facecolor="none", edgecolor=edges, linewidth=0.8)
        axes.set_title(f"{len(table):,} Gaussians, seen along {name}" if name == "z" else f"seen along {name}")
        scale_bar(axes, np.ptp(axes.get_xlim()))
    return Drawing(figure, table)


def neutral_slices(results: Path, analysis: str) -> Drawing:
    """Central slices of the consensus inside the mask and of the mixture's map, and their difference."""
    density = read_density(results / "full" / "consensus" / "map.mrc")
    mask = read_density(results / "full" / "consensus" / "mask.mrc").voxels
    drawn = read_density(results / "full" / "neutral" / "map.mrc").voxels
    shown, middle = window(mask, margin=4), density.voxels.shape[-1] // 2
    inside = slice(shown.start, shown.stop)
    maps = {"consensus": density.voxels * mask, "mixture": drawn, "difference": (density.voxels - drawn) * mask}
    panels = {name: binned(voxels[middle][inside, inside], shown.step) for name, voxels in maps.items()}
    figure = new_figure(7.6, 2.9)
    edges, grey = extent(density, shown), grey_limits([panels["consensus"], panels["mixture"]])
    most = grey[1] - grey[0]
    for axes, (name, image) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        signed = name == "difference"
        show(axes, image, (-most, most) if signed else grey, edges, SIGNED if signed else DENSITY)
        axes.set_title(name)
        scale_bar(axes, edges[1] - edges[0])
    return Drawing(figure, pixels(panels))


def background(axes: Axes, density: Density, view: str, shown: Window) -> None:
    """A pale projection of the map, to draw upon."""
    image = projection(density.voxels, VIEWS[view], shown)
    low, high = grey_limits([image])
    show(axes, image, (low, high + 0.8 * (high - low)), extent(density, shown))


def motion_table(folder: Path) -> pd.DataFrame:
    """What each Gaussian does between the ends of each trajectory, by the decoder.

    trajectory, gaussian, x, y, z (Å, first point), dx, dy, dz (Å), amplitude_first, amplitude_last.
    """
    import torch  # here, because only this figure needs the network

    from gaussemble.model.heterogeneity import load_model

    model = load_model(folder / "heterogeneity" / "model.pt")
    parts = []
    for name, points in trajectories(folder).items():
        latent = points[[f"z{axis + 1}" for axis in range(model.latent_dim)]].to_numpy(dtype=np.float32)
        with torch.no_grad():
            mixture = model.decode(torch.tensor(latent[[0, -1]]))
        center, amplitude = mixture.center.numpy(), mixture.amplitude.numpy()
        part = pd.DataFrame({"trajectory": name, "gaussian": np.arange(center.shape[1])})
        part[["x", "y", "z"]], part[["dx", "dy", "dz"]] = center[0], center[1] - center[0]
        part["amplitude_first"], part["amplitude_last"] = amplitude
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def motion_quiver(results: Path, analysis: str) -> Drawing:
    """Arrows from where each Gaussian is at the first point of a trajectory to where it is at the last."""
    density = read_density(results / "full" / "consensus" / "map.mrc")
    table = motion_table(results / "full" / analysis)
    first, move = table[["x", "y", "z"]].to_numpy(), table[["dx", "dy", "dz"]].to_numpy()
    length = np.linalg.norm(move, axis=1)
    shown = window_of_points(np.concatenate([first, first + move]), density)
    width = extent(density, shown)[1] * 2
    stretch = arrow_stretch(float(length.max()), width)
    paths = list(dict.fromkeys(table["trajectory"]))
    figure = new_figure(7.6, 0.3 + 3.9 * len(paths))
    for row, name in zip(figure.subplots(len(paths), 2, squeeze=False), paths, strict=True):
        chosen = (table["trajectory"] == name).to_numpy()
        for axes, view in zip(row, ("z", "y"), strict=True):
            background(axes, density, view, shown)
            arrows(axes, first[chosen], stretch * move[chosen], length[chosen], view, float(length.max()))
            amplitude_rings(axes, pd.DataFrame(table[chosen]), view)
        moved = f"up to {length[chosen].max():.1f} Å"
        row[0].set_title(f"{name}: {moved}" + (f", arrows {stretch:g} times as long" if stretch > 1 else ""))
        row[1].set_title("seen along y")
        scale_bar(row[0], width)
    colors = ScalarMappable(Normalize(0, float(length.max())), ORDERED)
    figure.colorbar(colors, ax=figure.axes, shrink=0.5, label="motion (Å)")
    return Drawing(figure, table)


def arrow_stretch(longest: float, width: float) -> float:
    """How many times longer arrows are drawn, so that the longest is no less than a tenth of the picture."""
    wanted = 0.1 * width / max(longest, 1e-6)
    return float(max((step for step in (1, 2, 5, 10, 20, 50) if step <= wanted), default=1))


def arrows(axes: Axes, first: np.ndarray, move: np.ndarray, length: np.ndarray, view: str, most: float) -> None:
    """Arrows of what moves at all, coloured by how far it really moves."""
    across, up = PLANES[view]
    seen = length > 0.1 * most
    order = np.argsort(length[seen])  # the longest on top
    place, way = first[seen][order], move[seen][order]
    axes.quiver(
        place[:, across], place[:, up], way[:, across], way[:, up], length[seen][order], cmap=ORDERED,
        clim=(0, most), angles="xy", scale_units="xy", scale=1, width=0.006, headwidth=3.5, headlength=4,
    )  # fmt: skip


def amplitude_rings(axes: Axes, table: pd.DataFrame, view: str) -> None:
    """Rings round Gaussians whose amplitude changes by more than a quarter of the median amplitude."""
    across, up = ("xyz"[place] for place in PLANES[view])
    first, last = table["amplitude_first"].abs(), table["amplitude_last"].abs()
    change = (last - first) / first.median()
    for sign, color in ((1, cluster_colors(5)[4]), (-1, INK)):
        part = table[sign * change > 0.25]
        axes.scatter(part[across], part[up], s=22, facecolor="none", edgecolor=color, linewidth=0.8)
