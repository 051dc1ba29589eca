"""The figure of how many clusters there are: what the latents ask for, and what both halves find alike."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from gaussemble.analysis.stability import STRONG
from gaussemble.io.files import read_csv
from gaussemble.report.results import cluster_count
from gaussemble.report.style import INK, LINE, PALE, Drawing, cluster_colors, new_figure

SCORES = {"rand_index": "adjusted Rand index", "prediction_strength": "prediction strength"}


def cluster_number(results: Path, analysis: str) -> Drawing:
    """BIC of every number of clusters, and how alike the halves' networks divide the same particles into so many."""
    folder, path = results / "full" / analysis, results / "agreement" / analysis / "stability.csv"
    asked, used = read_csv(folder / "latent" / "numbers.csv", ["clusters", "bic"]), cluster_count(folder)
    figure = new_figure(8.0, 3.6)
    panels = figure.subplots(1, 2)
    draw_criterion(panels[0], asked)
    if path.is_file():
        stable = read_csv(path, ["clusters", *SCORES])
        draw_stability(panels[1], stable)
        asked = asked.merge(stable, on="clusters", how="outer")
    else:
        panels[1].set_axis_off()
        panels[1].text(0.5, 0.5, "the halves' particles were not crossed", ha="center", color=PALE)
    for axes in panels:
        axes.axvline(used, color=LINE, linewidth=6, zorder=0)
        axes.set_xlabel("clusters")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].annotate(
        "used", (used, 1), xycoords=("data", "axes fraction"), xytext=(0, 2), textcoords="offset points",
        ha="center", fontsize=9, color=PALE,
    )  # fmt: skip
    return Drawing(figure, asked.assign(used=used))


def draw_criterion(axes: Axes, table: pd.DataFrame) -> None:
    """BIC over the lowest, which is marked."""
    clusters, bic = table["clusters"].to_numpy(), table["bic"].to_numpy(dtype=float)
    axes.plot(clusters, bic, "o-", color=INK, markersize=4)
    axes.plot(clusters[bic.argmin()], bic.min(), "o", color=cluster_colors(5)[4], markersize=8)
    axes.set_ylabel("BIC above the lowest (lower is better)")
    axes.set_ylim(bottom=-0.06 * max(1.0, bic.max()))


def draw_stability(axes: Axes, table: pd.DataFrame) -> None:
    """Both scores with their errors; dashed those of particles without heterogeneity, where these were made."""
    for (name, label), color in zip(SCORES.items(), cluster_colors(2), strict=True):
        error = table[f"{name}_error"] if f"{name}_error" in table else np.zeros(len(table))
        axes.errorbar(table["clusters"], table[name], yerr=error, fmt="o-", color=color, markersize=4, label=label)
        if f"null_{name}" in table:
            axes.plot(table["clusters"], table[f"null_{name}"], "--", color=color, linewidth=1, label="the same, null")
    axes.axhline(STRONG, color=PALE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axes.set_ylim(min(-0.05, table[list(SCORES)].to_numpy(dtype=float).min() - 0.05), 1.05)
    axes.set_ylabel("same particles, two networks")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8)
