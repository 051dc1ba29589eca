"""Figures of the stage volumes: the maps of clusters and trajectories, their FSC, and the motion-corrected map.

States that were too small for a map are left out; the page's tables name them.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps

from gaussemble.errors import InputError
from gaussemble.io.files import read_csv
from gaussemble.report.curves import FSC_COLUMNS, fsc_curves, fsc_figure, stacked
from gaussemble.report.densities import VIEWS, grey_limits, show
from gaussemble.report.results import (
    Density,
    Window,
    cluster_count,
    extent,
    pixels,
    projection,
    read_density,
    trajectories,
    window,
)
from gaussemble.report.style import (
    DENSITY,
    INK,
    ORDERED,
    PALE,
    SIGNED,
    Drawing,
    blank,
    cluster_colors,
    difference_bar,
    new_figure,
    scale_bar,
)


def mapped_clusters(folder: Path) -> list[int]:
    """The clusters of an analysis (of one split) that have a map."""
    numbers = range(1, cluster_count(folder) + 1)
    found = [number for number in numbers if (folder / "volumes" / f"cluster_{number}" / "map.mrc").is_file()]
    if not found:
        raise InputError(f"{folder / 'volumes'}: no cluster is large enough for a map; ask for fewer clusters")
    return found


def mask_of_maps(results: Path, folder: Path) -> Density:
    """The mask on the grid of the states' maps: the consensus' own, or that of the original images."""
    path = folder / "volumes" / "mask.mrc"
    return read_density(path if path.is_file() else results / "full" / "consensus" / "mask.mrc")


def cluster_slices(results: Path, analysis: str) -> Drawing:
    """Each cluster's map and its difference from the consensus, both seen along z and along x.

    From the mean of the clusters where maps are of original images, which the consensus is not.
    """
    folder = results / "full" / analysis
    mask, numbers = mask_of_maps(results, folder), mapped_clusters(folder)
    shown = window(mask.voxels)
    maps = {number: read_density(folder / "volumes" / f"cluster_{number}" / "map.mrc").voxels for number in numbers}
    reference = read_density(results / "full" / "consensus" / "map.mrc").voxels
    if reference.shape != mask.voxels.shape:
        reference = np.mean(list(maps.values()), axis=0)
    panels: dict[str, np.ndarray] = {}
    for number, voxels in maps.items():
        for view in ("z", "x"):
            panels[f"cluster {number}, along {view}"] = projection(voxels * mask.voxels, VIEWS[view], shown)
            difference = projection((voxels - reference) * mask.voxels, VIEWS[view], shown)
            panels[f"cluster {number} minus consensus, along {view}"] = difference
    draw = new_figure(max(4.0, 0.5 + 1.7 * len(numbers)), 7.6)
    grid = draw.subplots(4, len(numbers), squeeze=False)
    edges, colors = extent(mask, shown), cluster_colors(cluster_count(folder))
    grey = grey_limits([image for name, image in panels.items() if "minus" not in name])
    most = max(float(np.percentile(np.abs(image), 99.7)) for name, image in panels.items() if "minus" in name)
    for column, number in zip(grid.T, numbers, strict=True):
        for row, view in ((0, "z"), (2, "x")):
            show(column[row], panels[f"cluster {number}, along {view}"], grey, edges)
            show(
                column[row + 1], panels[f"cluster {number} minus consensus, along {view}"], (-most, most), edges, SIGNED
            )
        column[0].set_title(f"cluster {number}", color=colors[number - 1], fontweight="bold", loc="center")
    for axes, label in zip(grid[:, 0], ("seen along z", "difference", "seen along x", "difference"), strict=True):
        axes.set_ylabel(label)
    scale_bar(grid[0, 0], edges[1] - edges[0])
    difference_bar(draw, grid, most)
    return Drawing(draw, pixels(panels))


def cluster_fsc(results: Path, analysis: str) -> Drawing:
    """Half-map FSC of each cluster's reconstruction."""
    folder = results / "full" / analysis
    numbers, colors = mapped_clusters(folder), cluster_colors(cluster_count(folder))
    curves = {f"cluster {number}": curve(folder, f"cluster_{number}") for number in numbers}
    return Drawing(fsc_figure(curves, [colors[number - 1] for number in numbers]), stacked(curves, "cluster"))


def curve(folder: Path, state: str) -> pd.DataFrame:
    """fsc.csv of a state."""
    return read_csv(folder / "volumes" / state / "fsc.csv", FSC_COLUMNS)


def trajectory_fsc(results: Path, analysis: str) -> Drawing:
    """Half-map FSC along each trajectory, and of the user's selections: a fan each."""
    folder = results / "full" / analysis
    fans: dict[str, dict[str, pd.DataFrame]] = {}
    for name, points in trajectories(folder).items():
        there = {f"point {number}": f"trajectory_{name}_{number}" for number in points["point"]}
        fans[name] = {label: curve(folder, state) for label, state in there.items() if has_map(folder, state)}
    chosen = sorted(place.name for place in (folder / "volumes").glob("selection_*") if has_map(folder, place.name))
    fans["selections"] = {state.removeprefix("selection_"): curve(folder, state) for state in chosen}
    fans = {name: curves for name, curves in fans.items() if curves}
    draw = new_figure(max(5.0, 3.8 * len(fans)), 3.8)
    for axes, (name, curves) in zip(np.atleast_1d(draw.subplots(1, max(1, len(fans)))), fans.items(), strict=False):
        ordered = name != "selections"
        along = colormaps[ORDERED](np.linspace(0.1, 0.85, len(curves)))
        colors = along if ordered else cluster_colors(len(curves))
        fsc_curves(axes, curves, list(colors))
        axes.set_title(name)
    tables = {f"{name}, {label}": table for name, curves in fans.items() for label, table in curves.items()}
    return Drawing(draw, stacked(tables, "state"))


def has_map(folder: Path, state: str) -> bool:
    """Whether a state was large enough."""
    return (folder / "volumes" / state / "map.mrc").is_file()


def telling_view(first: np.ndarray, last: np.ndarray, shown: Window) -> str:
    """The axis along which two maps look most different."""
    change = {view: projection(last - first, axis, shown).std() for view, axis in VIEWS.items()}
    return max(change, key=lambda view: change[view])


def trajectory_slices(results: Path, analysis: str) -> Drawing:
    """Points of each trajectory: reconstructed from the nearest particles, and decoded by the network."""
    folder = results / "full" / analysis
    mask = mask_of_maps(results, folder)
    shown, edges = window(mask.voxels), extent(mask, window(mask.voxels))
    paths = trajectories(folder)
    most = max(len(points) for points in paths.values())
    draw = new_figure(max(4.0, 0.6 + 1.45 * most), 0.3 + 3.2 * len(paths))
    grid = draw.subplots(2 * len(paths), most, squeeze=False)
    panels: dict[str, np.ndarray] = {}
    for row, (name, points) in enumerate(paths.items()):
        states = [f"trajectory_{name}_{number}" for number in points["point"]]
        there = [number for number, state in enumerate(states) if has_map(folder, state)]
        for axes in grid[2 * row : 2 * row + 2].flat:
            blank(axes)
        if not there:
            continue
        ends = [read_density(folder / "volumes" / states[there[end]] / "decoded.mrc").voxels for end in (0, -1)]
        view = telling_view(ends[0], ends[1], shown)
        for line, (file, label) in enumerate((("map", "reconstructed"), ("decoded", "decoded"))):
            images = {
                number: projection(
                    read_density(folder / "volumes" / states[number] / f"{file}.mrc").voxels, VIEWS[view], shown
                )
                for number in there
            }
            limits = grey_limits(list(images.values()))
            for number, image in images.items():
                show(grid[2 * row + line, number], image, limits, edges)
                panels[f"{name} {number + 1}, {label}, along {view}"] = image
                if line == 0:
                    title = f"{points['percentile'].iloc[number]:.0f} %"
                    grid[2 * row, number].set_title(title, loc="center", color=PALE)
            grid[2 * row + line, 0].set_ylabel(f"{name} along {view}\n{label}")
    scale_bar(grid[0, 0], edges[1] - edges[0])
    return Drawing(draw, pixels(panels))


def motion_corrected(results: Path, analysis: str) -> Drawing:
    """Central slices of the consensus and of the motion-corrected map, and the half-map FSC of both."""
    folder = results / "full" / analysis
    places = {"consensus": results / "full" / "consensus", "motion-corrected": folder / "volumes" / "motion_corrected"}
    maps = {name: read_density(place / "map.mrc") for name, place in places.items()}
    masks = {"consensus": read_density(places["consensus"].parent / "consensus" / "mask.mrc")}
    masks["motion-corrected"] = mask_of_maps(results, folder)
    draw = new_figure(9.2, 5.0)
    grid = draw.subplots(2, 4, gridspec_kw={"width_ratios": [1, 1, 1, 1.9]})
    panels = {}
    for row, (name, density) in enumerate(maps.items()):
        shown = window(masks[name].voxels, margin=4)
        middle, inside = density.voxels.shape[-1] // 2, slice(shown.start, shown.stop)
        edges = extent(density, shown)
        slices = {view: density.voxels.take(middle, axis)[inside, inside] for view, axis in VIEWS.items()}
        limits = grey_limits(list(slices.values()))
        for axes, (view, image) in zip(grid[row], slices.items(), strict=False):
            show(axes, image, limits, edges, DENSITY)
            panels[f"{name}, {view} = 0"] = image
            if row == 0:
                axes.set_title(f"{view} = 0")
        grid[row, 0].set_ylabel(name)
        scale_bar(grid[row, 0], edges[1] - edges[0])
    for axes in grid[:, 3]:
        axes.remove()
    curves = {name: read_csv(place / "fsc.csv", FSC_COLUMNS) for name, place in places.items()}
    fsc_curves(draw.add_subplot(grid[0, 3].get_gridspec()[:, 3]), curves, [INK, cluster_colors(1)[0]])
    return Drawing(draw, pixels(panels))
