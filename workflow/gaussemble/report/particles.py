"""Figures of the particles as they came: defocus, views, shifts, and examples beside the consensus."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.patches import Circle, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import StrMethodFormatter

from gaussemble.io.files import read_csv, read_json, read_npz
from gaussemble.report.results import LARGEST_PANEL, binned, crossing, main_curve, read_density
from gaussemble.report.style import (
    INK,
    LINE,
    ORDERED,
    PALE,
    Drawing,
    blank,
    cluster_colors,
    new_figure,
    note,
)

BINS = 50
NO_CTF = "the images are taken without a CTF (option particles.ctf)"
EXAMPLES, COMPARED = 6, 500  # particles shown, and those over which correlations are averaged
PICTURE = 30.0  # Å, to which pictures are low-passed
FINEST, LARGEST_BOX = 6.0, 120  # Å and pixels of the comparison: a second's work
BLOCK = 64  # images in memory at a time
ROWS = {
    "stored": "stored",
    "image": "low-passed\nto {:.0f} Å",
    "expectation": "expected:\nprojection,\nCTF, shift",
    "corrected": "CTF undone,\ncentred",
    "projection": "projection\nin this view",
}


def known_particles(results: Path) -> dict[str, np.ndarray]:
    """The arrays of the full split's particles.npz, one row for each image: copies left out; box and pixel_size."""
    arrays = read_npz(results / "full" / "particles" / "particles.npz", "the particles of an image store")
    _, first = np.unique(arrays["image"], return_index=True)
    first.sort()
    return {name: array[first] if array.ndim else array for name, array in arrays.items()} | {"row": first}


def group_labels(results: Path) -> dict[int, str]:
    """A name for each optics group that has particles, by its 0-based number."""
    inspection = read_json(results / "full" / "particles" / "report.json")["inspection"]
    return {row["group"] - 1: row["name"] or f"optics group {row['group']}" for row in inspection["optics"]}


def particles_defocus(results: Path, analysis: str) -> Drawing:
    """Histograms of defocus and of astigmatism, stacked by optics group."""
    known = known_particles(results)
    if (known["amplitude_contrast"] == 1).all() and not known["defocus_u"].any():
        return Drawing(note(NO_CTF), pd.DataFrame(columns=["quantity"]))
    labels = group_labels(results)
    values = {
        "defocus (µm)": (known["defocus_u"] + known["defocus_v"]) / 2e4,
        "astigmatism (Å)": np.abs(known["defocus_u"] - known["defocus_v"]),
    }
    figure = new_figure(7.6, 3.3)
    parts = []
    for axes, (name, value) in zip(figure.subplots(1, 2), values.items(), strict=True):
        edges = np.histogram_bin_edges(value, BINS, range=(0, max(1.0, value.max())) if "astigm" in name else None)
        colors = cluster_colors(len(labels))
        below = np.zeros(BINS)
        for (group, label), color in zip(labels.items(), colors, strict=True):
            count, _ = np.histogram(value[known["optics_group"] == group], edges)
            axes.bar(edges[:-1], count, np.diff(edges), below, align="edge", color=color, label=label)
            below += count
            parts.append(
                pd.DataFrame({"quantity": name, "optics_group": group, "from": edges[:-1], "to": edges[1:]}).assign(
                    particles=count
                )
            )
        axes.set_xlabel(name)
    figure.axes[0].set_ylabel("particles")
    if 1 < len(labels) <= 8:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=min(4, len(labels)))
    return Drawing(figure, pd.concat(parts, ignore_index=True))


# ---- Views


def view_density(
    axis: Float[np.ndarray, "view 3"], at: Float[np.ndarray, "point 3"]
) -> tuple[Float[np.ndarray, " point"], float]:
    """Density of views on the sphere relative to uniform, and the width of its kernel in degrees.

    A von Mises-Fisher kernel `k / (2 pi (1 - exp(-2k))) exp(k (cos g - 1))`; k = 1/width², so wide that about forty
    views of an even distribution count at each point.
    """
    width = float(np.clip(np.sqrt(40 / len(axis)), np.deg2rad(4), np.deg2rad(20)))
    concentration = width**-2
    cell, count = np.unique(np.round(axis * (3 / width)), axis=0, return_counts=True)  # many views: a grid of them
    cell /= np.linalg.norm(cell, axis=1, keepdims=True)
    total = np.zeros(len(at))
    for start in range(0, len(cell), 4096):
        cosine = at @ cell[start : start + 4096].T
        total += np.exp(concentration * (cosine - 1)) @ count[start : start + 4096]
    norm = 2 * concentration / (1 - np.exp(-2 * concentration))
    return norm * total / len(axis), float(np.rad2deg(width))


def particles_views(results: Path, analysis: str) -> Drawing:
    """Where the particles are seen from: an equal-area map of the view axes, relative to an even distribution."""
    arrays = read_npz(results / "full" / "particles" / "particles.npz", "the particles of an image store")
    longitude, latitude = np.deg2rad(np.arange(-180, 181, 3)), np.deg2rad(np.arange(-90, 91, 3))
    turn, height = np.meshgrid(longitude, latitude)
    flat = np.cos(height)
    at = np.stack([flat * np.cos(turn), flat * np.sin(turn), np.sin(height)], axis=-1)
    density, width = view_density(arrays["rotation"][:, 2].astype(np.float64), at.reshape(-1, 3))
    figure = new_figure(7.6, 3.9)
    axes = figure.subplots(subplot_kw={"projection": "mollweide"})
    image = axes.pcolormesh(
        longitude, latitude, density.reshape(turn.shape), cmap=ORDERED, vmin=0, vmax=max(2.0, density.max()),
        shading="gouraud", rasterized=True,
    )  # fmt: skip
    axes.set_xticks(np.deg2rad([-120, -60, 0, 60, 120]), ["−120°", "−60°", "rot 0°", "60°", "120°"])
    for label in axes.get_xticklabels():
        label.set(color="white", path_effects=[withStroke(linewidth=2, foreground=INK)])
    axes.set_yticks(np.deg2rad([-60, -30, 0, 30, 60]), ["150°", "120°", "tilt 90°", "60°", "30°"])
    axes.grid(color="white", linewidth=0.4, alpha=0.5)
    axes.spines["geo"].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8, label="particles per solid angle\n(1: even views)")
    axes.set_title(f"{len(arrays['rotation']):,} views, smoothed over {width:.0f}°", pad=14)
    columns = {"rot": np.rad2deg(turn), "tilt": 90 - np.rad2deg(height), "density": density.reshape(turn.shape)}
    return Drawing(figure, pd.DataFrame({name: values.ravel() for name, values in columns.items()}))


# ---- Shifts


def particles_offsets(results: Path, analysis: str) -> Drawing:
    """Shifts as a histogram in the plane, and the same in the box to scale."""
    known = known_particles(results)
    shift, pixel_size = known["shift"].astype(np.float64), float(known["pixel_size"])
    field = float(known["box"]) * pixel_size
    reach = max(1.05 * float(np.abs(shift).max()), pixel_size)
    bins = int(np.clip(np.sqrt(len(shift)), 11, BINS)) // 2 * 2 + 1  # odd: one is round the middle
    count, x, y = np.histogram2d(*shift.T, bins=bins, range=[[-reach, reach]] * 2)
    figure = new_figure(7.6, 3.6)
    left, right = figure.subplots(1, 2)
    shown = np.ma.masked_equal(count.T, 0)
    colors = LinearSegmentedColormap.from_list("shifts", mpl.colormaps["Blues"](np.linspace(0.2, 1, 64)))
    image = left.pcolormesh(x, y, shown, cmap=colors, norm=LogNorm(1, max(2, count.max())), rasterized=True)
    bar = figure.colorbar(image, ax=left, shrink=0.8, label="particles", format=StrMethodFormatter("{x:,.0f}"))
    bar.minorticks_off()
    bar.set_ticks([step for step in (1, 2, 5, 10, 20, 50, *np.logspace(2, 6, 5)) if step <= count.max()])
    left.set_title("all shifts")
    right.add_patch(Rectangle((-field / 2, -field / 2), field, field, facecolor="none", edgecolor=INK, linewidth=1.2))
    right.add_patch(Circle((0, 0), field / 3, facecolor="none", edgecolor=PALE, linestyle=(0, (4, 3))))
    right.annotate("a third of the box", (0, field / 3), ha="center", va="bottom", fontsize=8, color=PALE)
    right.plot(*shift.T, ".", markersize=1.5, color=cluster_colors(1)[0], rasterized=True)
    most = max(0.53 * field, reach)
    right.set_xlim(-most, most)
    right.set_ylim(-most, most)
    right.set_title("in the box, to scale")
    for axes in (left, right):
        axes.set_aspect("equal")
        axes.set_xlabel("x (Å)")
    left.set_ylabel("y (Å)")
    filled = np.argwhere(count > 0)
    middle = {"x": (x[:-1] + x[1:])[filled[:, 0]] / 2, "y": (y[:-1] + y[1:])[filled[:, 1]] / 2}
    return Drawing(figure, pd.DataFrame(middle).assign(particles=count[count > 0].astype(int)))


# ---- Examples


def example_rows(known: dict[str, np.ndarray]) -> Int[np.ndarray, " example"]:
    """Positions of a few particles evenly spread over the range of defocus."""
    order = np.argsort(known["defocus_u"] + known["defocus_v"], kind="stable")
    count = min(EXAMPLES, len(order))
    return order[((np.arange(count) + 0.5) / count * len(order)).astype(np.int64)]


def read_sample(results: Path, rows: np.ndarray, maps: list[str], which: np.ndarray, box: int) -> Any:
    """Rows of the store with maps of the consensus, those inside the mask, for `report.matching`.

    On a smaller `box` over the same field of view; what is larger is read piece by piece.
    """
    import torch  # here, because only this figure needs the images

    from gaussemble.io.store import open_store
    from gaussemble.physics.fourier import fourier_crop, resample_3d
    from gaussemble.report.matching import Sample

    store = open_store(results / "full" / "particles")
    index, pixel_size = torch.from_numpy(np.asarray(rows)), store.pixel_size * store.box / box
    mask = read_density(results / "full" / "consensus" / "mask.mrc").voxels
    voxels = []
    for name in maps:
        fine = torch.from_numpy(read_density(results / "full" / "consensus" / f"{name}.mrc").voxels * mask)
        voxels.append(resample_3d(fine, store.pixel_size, box, pixel_size) if box < store.box else fine)
    images = torch.cat([fourier_crop(store.read(block), box) for block in index.split(BLOCK)])
    return Sample(images, store.particles[index], torch.stack(voxels), torch.from_numpy(which), pixel_size)


def compared_to(results: Path) -> float:
    """Å to which images and projections are compared: where the half-maps agree (FSC 0.5), within a second's work."""
    fsc = read_csv(results / "full" / "consensus" / "fsc.csv", ["frequency", "fsc"])
    store = read_npz(results / "full" / "particles" / "particles.npz", "the particles of an image store")
    finest = 2 * float(store["box"]) * float(store["pixel_size"]) / LARGEST_BOX
    return max(crossing(fsc["frequency"], fsc[main_curve(fsc)], 0.5), FINEST, finest)


def example_pictures(
    results: Path, known: dict[str, np.ndarray], low_pass: float
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(image, y, x) of each row of the figure for the example particles, and how image and expectation correlate."""
    from gaussemble.io.store import open_store
    from gaussemble.physics.fourier import band_box, to_fourier
    from gaussemble.report.matching import correlation, pictures

    rows = known["row"][example_rows(known)]
    box = band_box(int(known["box"]), float(known["pixel_size"]), low_pass / 2)
    shown = pictures(read_sample(results, rows, ["map"], np.zeros(len(rows), np.int64), box), low_pass)
    stored = open_store(results / "full" / "particles").read(rows).numpy()
    values = correlation(to_fourier(shown["image"]), to_fourier(shown["expectation"])).numpy()
    step = -(-stored.shape[-1] // LARGEST_PANEL)
    raw = np.stack([binned(image, step) for image in stored])
    return {"stored": raw} | {name: images.numpy() for name, images in shown.items()}, values


def comparison_table(results: Path, known: dict[str, np.ndarray], resolution: float) -> pd.DataFrame:
    """`matching.compare` of particles at random, each with the half-map that was made without it."""
    from gaussemble.report.matching import compare

    count = len(known["row"])
    chosen = np.sort(np.random.default_rng(0).choice(count, min(COMPARED, count), replace=False))
    other = 1 - known["half"][chosen].astype(np.int64)
    box = min(int(known["box"]), 2 * (int(float(known["box"] * known["pixel_size"]) / resolution) + 1))
    sample = read_sample(results, known["row"][chosen], ["half1", "half2"], other, box)
    return compare(sample).assign(particles=len(chosen))


def particles_examples(results: Path, analysis: str) -> Drawing:
    """A few images beside the projections that they should resemble, and how well many do.

    The table has the correlations; the images themselves are rows of the store.
    """
    known = known_particles(results)
    resolution = compared_to(results)
    low_pass = max(PICTURE, 3 * float(known["pixel_size"]))
    images, values = example_pictures(results, known, low_pass)
    table = comparison_table(results, known, resolution)
    columns = len(values)
    figure = new_figure(7.6, 1.15 * len(ROWS) + 2.3)
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.15 * len(ROWS), 2.3])  # pyright: ignore[reportGeneralTypeIssues]
    grid = upper.subplots(len(ROWS), columns, squeeze=False)
    for line, (name, label) in zip(grid, ROWS.items(), strict=True):
        for axes, image in zip(line, images[name], strict=True):
            picture(axes, image)
        line[0].set_ylabel(label.format(low_pass), rotation=0, ha="right", va="center", fontsize=9)
    rows = example_rows(known)
    for axes, row in zip(grid[0], rows, strict=True):
        defocus = (known["defocus_u"][row] + known["defocus_v"][row]) / 2e4
        axes.set_title(f"row {known['particle'][row]}\n{defocus:.2f} µm", loc="center", fontsize=9)
    for axes, value in zip(grid[list(ROWS).index("expectation")], values, strict=True):
        axes.set_xlabel(f"corr. {value:.2f}", fontsize=9, labelpad=2)
    bars(lower, table, resolution)
    examples = {"comparison": "example, low-passed", "correlation": values, "particles": 1}
    return Drawing(figure, pd.concat([table, pd.DataFrame(examples).assign(particle=known["particle"][rows])]))


def picture(axes: Axes, image: Float[np.ndarray, "y x"]) -> None:
    """An image whose protein is white, in the greys of its own range."""
    blank(axes)
    low, high = np.percentile(image, [0.5, 99.5])
    axes.imshow(image, cmap="gray", norm=Normalize(low, high), origin="lower", interpolation="bilinear")


def bars(figure: Any, table: pd.DataFrame, resolution: float) -> None:
    """The mean correlations, as given and with one thing wrong."""
    axes = figure.subplots()
    place = np.arange(len(table))
    colors = [cluster_colors(1)[0], *[LINE] * (len(table) - 1)]
    style = {"ecolor": INK, "elinewidth": 1.2}
    axes.barh(place, table["correlation"], xerr=2 * table["error"], color=colors, height=0.7, error_kw=style)
    right = np.maximum(table["correlation"], 0) + 2 * table["error"].to_numpy()
    for y, x, value in zip(place, right, table["correlation"], strict=True):
        axes.annotate(
            f"{round(value, 3) + 0.0:.3f}", (x, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_xlim(right=1.12 * float(np.max(right)))
    axes.axvline(0, color=PALE, linewidth=0.8)
    axes.set_yticks(place, list(table["comparison"]))
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    count = int(table["particles"].iloc[0])
    axes.set_xlabel("correlation, mean and two standard errors")
    title = f"{count:,} images and projections of the half-map without them, to {resolution:.1f} Å"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
