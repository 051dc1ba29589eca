"""Figures of the latent space: where the particles lie, their clusters, and the truth where it is known."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize

from gaussemble.io.files import read_csv
from gaussemble.report.results import embedding, trajectories
from gaussemble.report.style import INK, ORDERED, PALE, Drawing, cluster_colors, new_figure, note


def scatter(axes: Axes, table: pd.DataFrame, pair: tuple[str, str], colors: np.ndarray | list) -> None:
    """Particles as small dots, drawn as an image inside the SVG."""
    size = float(np.clip(20_000 / len(table), 1.5, 12))
    axes.scatter(table[pair[0]], table[pair[1]], c=colors, s=size, linewidths=0, alpha=0.6, rasterized=True)
    axes.set_xlabel(pair[0])
    axes.set_ylabel(pair[1])


def by_value(axes: Axes, table: pd.DataFrame, pair: tuple[str, str], column: str, label: str) -> None:
    """Particles in the colours of a number, with its scale; the outermost hundredths share a colour."""
    low, high = np.percentile(table[column], [1, 99])
    scale = ScalarMappable(Normalize(low, high), ORDERED)
    scatter(axes, table, pair, scale.to_rgba(table[column].to_numpy(dtype=float)))
    axes.figure.colorbar(scale, ax=axes, shrink=0.8, label=label)


def by_cluster(axes: Axes, table: pd.DataFrame, pair: tuple[str, str], title: str) -> None:
    """Particles in the colours of their clusters, each cluster's number at its median; those in none grey, below."""
    colors = cluster_colors(int(np.max(table["cluster"])))
    shown = table.iloc[np.argsort(table["cluster"].to_numpy() > 0, kind="stable")]
    scatter(axes, shown, pair, [colors[number - 1] if number else PALE for number in shown["cluster"]])
    for number, part in pd.DataFrame(table[table["cluster"] > 0]).groupby("cluster"):
        axes.annotate(
            str(number), (part[pair[0]].median(), part[pair[1]].median()), ha="center", va="center",
            fontweight="bold", color="white",
            bbox={"boxstyle": "circle,pad=0.25", "facecolor": colors[int(str(number)) - 1], "edgecolor": "white"},
        )  # fmt: skip
    axes.set_title(title)


def particles_title(shown: int, total: int) -> str:
    """How many of the particles are drawn."""
    return f"{total:,} particles" if shown == total else f"{shown:,} of {total:,} particles"


def histogram_by_cluster(table: pd.DataFrame, total: int) -> Drawing:
    """The one coordinate of a one-dimensional latent space."""
    figure = new_figure(height=3.2)
    axes = figure.subplots()
    count = int(np.max(table["cluster"]))
    parts = [table["pc1"][table["cluster"] == number] for number in range(1, count + 1)]
    names, colors = [f"cluster {number}" for number in range(1, count + 1)], cluster_colors(count)
    if (none := table["pc1"][table["cluster"] == 0]).size:
        parts, names, colors = [none, *parts], ["in none", *names], [PALE, *colors]
    axes.hist(parts, bins=60, stacked=True, color=colors, label=names)
    axes.set_xlabel("pc1")
    axes.set_ylabel("particles")
    axes.set_title(particles_title(len(table), total))
    axes.legend()
    return Drawing(figure, pd.DataFrame(table[["particle", "pc1", "cluster"]]))


def latent_pca(results: Path, analysis: str) -> Drawing:
    """Particles on the first two principal components: density with the trajectories, and clusters."""
    folder = results / "full" / analysis
    table, total = embedding(folder)
    if "pc2" not in table:
        return histogram_by_cluster(table, total)
    figure = new_figure(8.0, 3.9)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    left.hexbin(table["pc1"], table["pc2"], gridsize=50, cmap="Blues", norm=LogNorm(), linewidths=0.1)
    for component, points in list(trajectories(folder).items())[:2]:
        coordinate = points[component]
        zero = np.zeros(len(points))
        place = (coordinate, zero) if component == "pc1" else (zero, coordinate)
        left.plot(*place, "o-", color=INK, linewidth=1, markersize=4, markeredgecolor="white")
    left.set_xlabel("pc1")
    left.set_ylabel("pc2")
    left.set_title(particles_title(len(table), total))
    by_cluster(right, table, ("pc1", "pc2"), "clusters")
    return Drawing(figure, pd.DataFrame(table[["particle", "pc1", "pc2", "cluster"]]))


def latent_umap(results: Path, analysis: str) -> Drawing:
    """The UMAP picture in the colours of the clusters and of the first principal component."""
    table, total = embedding(results / "full" / analysis)
    if "umap1" not in table:
        return Drawing(note("UMAP is switched off (option latent.umap)"), pd.DataFrame({"particle": table["particle"]}))
    figure = new_figure(8.0, 3.9)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    by_cluster(left, table, ("umap1", "umap2"), particles_title(len(table), total))
    by_value(right, table, ("umap1", "umap2"), "pc1", "pc1")
    right.set_title("first principal component")
    return Drawing(figure, pd.DataFrame(table[["particle", "umap1", "umap2", "pc1", "cluster"]]))


def cluster_sizes(results: Path, analysis: str) -> Drawing:
    """Particles in each cluster, with three binomial standard errors."""
    clusters = read_csv(results / "full" / analysis / "latent" / "clusters.csv", ["cluster"])["cluster"].to_numpy()
    count = np.bincount(clusters)[1:]
    number, share = np.arange(1, len(count) + 1), count / len(clusters)  # cluster 0 is none
    error = np.sqrt(share * (1 - share) / len(clusters))
    figure = new_figure(height=0.9 + 0.42 * len(count))
    axes = figure.subplots()
    style = {"ecolor": INK, "elinewidth": 1.2}
    axes.barh(number, 100 * share, xerr=300 * error, color=cluster_colors(len(count)), height=0.7, error_kw=style)
    for place, right, value in zip(number, 100 * (share + 3 * error), count, strict=True):
        axes.annotate(f"{value:,}", (right, place), xytext=(5, 0), textcoords="offset points", va="center")
    axes.set_xlim(right=115 * float((share + 3 * error).max()))
    axes.set_yticks(number, [f"cluster {each}" for each in number])
    axes.invert_yaxis()
    none = int((clusters == 0).sum())
    axes.set_xlabel("% of the particles" + (f" ({none:,} in no cluster)" if none else ""))
    columns = {"cluster": number, "particles": count, "fraction": share, "fraction_error": error}
    return Drawing(figure, pd.DataFrame(columns))


def truth_latent(results: Path, analysis: str) -> Drawing:
    """Latents in the colours of what is true of each simulated particle, and not of all alike."""
    table, _ = embedding(results / "full" / analysis)
    truth = read_csv(results / "simulated" / "truth.csv", ["particle"])
    known = [name for name in ("swing", "occupied") if name in truth]
    shown = [name for name in known if len(set(truth[name])) > 1] or known
    table = table.merge(truth[["particle", *shown]], on="particle", validate="many_to_one")  # copies share it
    pair = ("pc1", "pc2" if "pc2" in table else shown[0])
    figure = new_figure(4.0 * len(shown), 3.9)
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(shown), sharex=True, sharey=True)), shown, strict=True):
        if name == "occupied":
            colors = cluster_colors(2)
            scatter(axes, table, pair, [colors[int(value)] for value in table[name]])
            for value, label in ((0, "absent"), (1, "present")):
                axes.scatter([], [], color=colors[value], label=label)
            axes.legend(loc="best", markerscale=0.8)
        else:
            by_value(axes, table, pair, name, "true swing (degrees)")
        axes.set_title("true swing" if name == "swing" else "true occupancy")
    return Drawing(
        figure, pd.DataFrame(table[["particle", *dict.fromkeys(pair), *[n for n in shown if n not in pair]]])
    )
