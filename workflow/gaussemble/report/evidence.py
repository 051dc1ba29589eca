"""Figures of how far to trust the result: even against odd, and against the truth where it is known."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from gaussemble.io.files import read_csv, read_json
from gaussemble.report.curves import stacked
from gaussemble.report.style import (
    INK,
    LINE,
    PALE,
    SIGNED,
    Drawing,
    cluster_colors,
    correlation_axis,
    draw_fsc,
    new_figure,
    note,
    resolution_axis,
)


def agreement_fsc(results: Path, analysis: str) -> Drawing:
    """FSC between matched classes of the halves: of the maps, and of what sets each class apart."""
    folder = results / "agreement" / analysis
    matches = read_csv(folder / "matches.csv", ["cluster_even", "cluster_odd"])
    colors = cluster_colors(int(np.max(matches["cluster_even"])))
    curves = {}
    figure = new_figure()
    axes = figure.subplots()
    pairs = matches[["cluster_even", "cluster_odd"]].to_numpy(dtype=int).tolist()
    for number, (even, odd) in enumerate(pairs, start=1):
        name = f"even {even} and odd {odd}"
        curve = read_csv(folder / "fsc" / f"match_{number}.csv", ["frequency", "fsc_masked", "fsc_difference"])
        color = colors[even - 1]
        draw_fsc(axes, curve, "fsc_masked", name, 0.5, color=color)
        draw_fsc(axes, curve, "fsc_difference", "", 0.5, color=color, linestyle=(0, (2, 1.5)), linewidth=1.4)
        curves[name] = curve
    axes.plot([], [], color=PALE, linestyle=(0, (2, 1.5)), linewidth=1.4, label="difference maps")
    correlation_axis(axes, min(float(np.min(curve["fsc_difference"])) for curve in curves.values()))
    resolution_axis(axes, max(float(np.max(curve["frequency"])) for curve in curves.values()))
    axes.legend(title="maps cross 0.5 at", alignment="left", title_fontsize=9)
    return Drawing(figure, stacked(curves, "match"))


def agreement_matrix(results: Path, analysis: str) -> Drawing:
    """Correlation of every even with every odd class, of maps and of difference maps; matches are framed."""
    columns = ["cluster_even", "cluster_odd", "correlation", "difference_correlation", "matched"]
    table = read_csv(results / "agreement" / analysis / "correlations.csv", columns)
    figure = new_figure(7.6, 3.9)
    panels = figure.subplots(1, 2)
    for axes, column, title in zip(
        panels, ("correlation", "difference_correlation"), ("maps", "what sets the classes apart"), strict=True
    ):
        heat_map(axes, table, column)
        axes.set_title(title)
    panels[0].set_ylabel("even half, cluster")
    figure.colorbar(ScalarMappable(Normalize(-1, 1), SIGNED), ax=panels, shrink=0.8, label="correlation")
    return Drawing(figure, table)


def heat_map(axes: Axes, table: pd.DataFrame, column: str) -> None:
    """A matrix with its numbers written in; the matched pairs have a frame."""
    matrix = table.pivot(index="cluster_even", columns="cluster_odd", values=column)
    axes.imshow(matrix.to_numpy(), cmap=SIGNED, vmin=-1, vmax=1)
    few = matrix.size <= 64
    for row in table.to_dict("records"):
        place, value = (row["cluster_odd"] - 1, row["cluster_even"] - 1), row[column]
        if few:
            color = "white" if abs(value) > 0.65 else INK
            axes.annotate(f"{value:.2f}", place, ha="center", va="center", color=color, fontsize=9)
        if row["matched"]:
            axes.add_patch(Rectangle((place[0] - 0.46, place[1] - 0.46), 0.92, 0.92, fill=False, edgecolor=INK, lw=1.8))
    axes.set_xticks(np.arange(matrix.shape[1]), [str(number) for number in matrix.columns])
    axes.set_yticks(np.arange(matrix.shape[0]), [str(number) for number in matrix.index])
    axes.set_xlabel("odd half, cluster")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


SCORES = (  # in truth.json, the word of the axis, and the key of the best possible
    ("swing_r2", "swing\n(R²)", "swing_r2"),
    ("occupancy_linear_probe", "occupancy, from latents\n(balanced accuracy)", "occupancy_linear_probe"),
    ("occupancy_clusters", "occupancy, from clusters\n(balanced accuracy)", "occupancy_linear_probe"),
)


def truth_recovery(results: Path, analysis: str) -> Drawing:
    """How much of the truth the analysis found, beside what the best possible estimate would find."""
    scores = read_json(results / "truth" / f"{analysis}.json")
    rows = [
        {"score": label.replace("\n", " "), "found": scores["analysis"][key], "best_possible": scores["oracle"][best]}
        for key, label, best in SCORES
        if scores["analysis"].get(key) is not None
    ]
    if not rows:
        return Drawing(note("nothing varies in these particles"), pd.DataFrame(columns=["score"]))
    table = pd.DataFrame(rows)
    figure = new_figure(height=3.3)
    axes = figure.subplots()
    place = np.arange(len(table))
    for shift, column, color, label in (
        (-0.19, "found", cluster_colors(1)[0], "this analysis"),
        (0.19, "best_possible", LINE, "best possible with these images"),
    ):
        values = table[column].astype(float)
        axes.bar(place + shift, values, width=0.36, color=color, label=label)
        for x, value in zip(place + shift, values, strict=True):
            axes.annotate(f"{value:.3f}", (x, max(value, 0)), xytext=(0, 3), textcoords="offset points", ha="center")
    labels = {label.replace("\n", " "): label for _, label, _ in SCORES}
    axes.set_xticks(place, [labels[name] for name in table["score"]])
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(min(0.0, float(np.min(table["found"]))), 1.12)
    axes.set_ylabel("score (1: perfect)")
    figure.legend(loc="outside upper left", ncols=2)
    return Drawing(figure, table)
