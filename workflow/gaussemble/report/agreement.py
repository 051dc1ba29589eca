"""Figures of even against odd: which classes and motions both halves found, how alike, and beside the null."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from gaussemble.analysis.verdict import SCORES
from gaussemble.io.files import read_csv, read_json
from gaussemble.report.curves import stacked
from gaussemble.report.densities import PLANES, background
from gaussemble.report.results import Density, Window, read_density, window
from gaussemble.report.style import (
    INK,
    LINE,
    PALE,
    SIGNED,
    SPLITS,
    Drawing,
    blank,
    cluster_colors,
    correlation_axis,
    draw_fsc,
    new_figure,
    note,
    resolution_axis,
    scale_bar,
)

DASHED = (0, (2, 1.5))
HALVES = ("even", "odd")
MOST = 8  # matches side by side in a figure
WORDS = {"reproduced": "✓", "undecided": "?", "not reproduced": "✗"}
DOTS, ARROWS = 4000, 400  # particles and arrows that are drawn, at most


def read_verdict(results: Path, analysis: str) -> dict[str, Any]:
    """verdict.json of an analysis."""
    return read_json(results / "agreement" / analysis / "verdict.json")


def pair_name(match: dict[str, Any]) -> str:
    """Even's and odd's name of a match, with a sign for its verdict."""
    return f"{match['even']} | {match['odd']} {WORDS[match['verdict']]}"


def agreement_fsc(results: Path, analysis: str) -> Drawing:
    """FSC between matched classes of the halves: of the maps, and of what sets each class apart, and of the null's."""
    folder = results / "agreement" / analysis
    clusters = read_verdict(results, analysis)["clusters"]
    colors = cluster_colors(max(each["even"] for each in clusters))
    figure = new_figure(8.4, 4.2)
    panels, curves, lowest = figure.subplots(1, 2, sharey=True), {}, 0.0
    for number, each in enumerate(clusters, start=1):
        curve = read_csv(folder / "fsc" / f"match_{number}.csv", ["frequency", "fsc_masked", "fsc_difference"])
        name, color = f"even {each['even']}, odd {each['odd']}", colors[each["even"] - 1]
        for axes, column in zip(panels, ("fsc_masked", "fsc_difference"), strict=True):
            draw_fsc(axes, curve, column, pair_name(each), 0.5, color=color)
        curves[name] = curve
        lowest = min(lowest, float(np.min(curve["fsc_difference"])))
    for path in sorted(results.glob(f"null*/agreement/{analysis}/fsc/match_*.csv")):
        curve = read_csv(path, ["frequency", "fsc_masked", "fsc_difference"])
        panels[1].plot(curve["frequency"][1:], curve["fsc_difference"][1:], color=LINE, linewidth=1.2, zorder=0)
        curves[f"{path.parts[-5]}, {path.stem}"] = curve
    if any(name.startswith("null") for name in curves):
        panels[1].plot([], [], color=LINE, linewidth=1.2, label="null")
    for axes, title in zip(panels, ("maps of matched classes", "what sets them apart"), strict=True):
        correlation_axis(axes, lowest)
        resolution_axis(axes, max(float(np.max(curve["frequency"])) for curve in curves.values()))
        axes.set_title(title)
        axes.legend(title="even | odd, 0.5 at", alignment="left", title_fontsize=8, fontsize=8)
    panels[1].set_ylabel("")
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
    rows, columns = list(matrix.index), list(matrix.columns)
    for row in table.to_dict("records"):
        place, value = (columns.index(row["cluster_odd"]), rows.index(row["cluster_even"])), row[column]
        if few:
            color = "white" if abs(value) > 0.65 else INK
            axes.annotate(f"{value:.2f}", place, ha="center", va="center", color=color, fontsize=9)
        if row["matched"]:
            axes.add_patch(Rectangle((place[0] - 0.46, place[1] - 0.46), 0.92, 0.92, fill=False, edgecolor=INK, lw=1.8))
    axes.set_xticks(np.arange(len(columns)), [str(number) for number in columns])
    axes.set_yticks(np.arange(len(rows)), [str(number) for number in rows])
    axes.set_xlabel("odd half, cluster")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def agreement_sizes(results: Path, analysis: str) -> Drawing:
    """Share of the particles of each class in the two halves, with three binomial errors; unmatched ones at the end."""
    result = read_verdict(results, analysis)
    rows = []
    for each in result["clusters"]:
        for half, share, error in zip(HALVES, each["fractions"], each["fraction_errors"], strict=True):
            rows.append({"match": pair_name(each), "half": half, "share": share, "error": error})
    table = pd.DataFrame(rows)
    figure = new_figure(max(5.0, 1.6 + 0.9 * len(result["clusters"])), 3.6)
    axes = figure.subplots()
    names = [pair_name(each) for each in result["clusters"]]
    for shift, half in ((-0.2, "even"), (0.2, "odd")):
        own = table[table["half"] == half]
        axes.bar(
            np.arange(len(names)) + shift, own["share"], 0.36, yerr=3 * own["error"], color=SPLITS[half],
            error_kw={"ecolor": INK, "elinewidth": 1.2, "capsize": 3}, label=f"{half} half",
        )  # fmt: skip
    axes.set_xticks(np.arange(len(names)), names)
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylabel("share of the half's particles")
    axes.set_xlabel("class, even | odd")
    figure.legend(loc="outside upper left", ncols=2)
    return Drawing(figure, table)


def agreement_latents(results: Path, analysis: str) -> Drawing:
    """Both halves' particles in the frame that the two networks share, and how alike the networks place them."""
    path = results / "agreement" / analysis / "latents.csv"
    if not path.is_file():
        return Drawing(note("no latents were crossed"), pd.DataFrame(columns=["particle"]))
    table = read_csv(path, ["particle", "even1", "odd1"], words=["half"])
    table = table.sample(DOTS, random_state=0) if len(table) > DOTS else table
    correlations = read_verdict(results, analysis)["latents"]["canonical_correlations"]
    plane = "even2" in table
    figure = new_figure(8.8 if plane else 4.4, 3.8)
    panels = np.atleast_1d(figure.subplots(1, 3 if plane else 1))
    for axes, number in zip(panels, (1, 2) if plane else (1,), strict=False):
        for half in HALVES:
            own = table[table["half"] == half]
            axes.scatter(
                own[f"even{number}"],
                own[f"odd{number}"],
                s=2,
                alpha=0.4,
                color=SPLITS[half],
                linewidths=0,
                label=f"{half} half",
            )
        axes.axline((0, 0), slope=1, color=LINE, linewidth=1, zorder=0)
        axes.set_title(f"variate {number}: correlation {correlations[number - 1]:.2f}")
        axes.set_xlabel("by even's network")
        axes.set_ylabel("by odd's network")
    if plane:
        for half, other in (("even", "odd"), ("odd", "even")):
            own = table[table["half"] == half]
            panels[2].scatter(own[f"{other}1"], own[f"{other}2"], s=2, alpha=0.4, color=SPLITS[half], linewidths=0)
        panels[2].set_title("by the network that\nnever saw the particle")
        panels[2].set_xlabel("variate 1")
        panels[2].set_ylabel("variate 2")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, markerscale=5)
    columns = [name for name in ("particle", "half", "even1", "odd1", "even2", "odd2") if name in table]
    return Drawing(figure, pd.DataFrame(table[columns]))


def agreement_motions(results: Path, analysis: str) -> Drawing:
    """Matched motions of the two halves as arrows on the Gaussians, from end to end."""
    folder = results / "agreement" / analysis
    motions = read_verdict(results, analysis)["motions"][: MOST // 2]
    if not motions:
        return Drawing(note("no motions were compared"), pd.DataFrame(columns=["x"]))
    density = read_density(results / "even" / "consensus" / "map.mrc")
    shown = window(read_density(results / "even" / "consensus" / "mask.mrc").voxels, margin=4)
    figure = new_figure(7.6, 0.4 + 3.5 * len(motions))
    grid, tables = figure.subplots(len(motions), 2, squeeze=False), {}
    for number, (row, each) in enumerate(zip(grid, motions, strict=True), start=1):
        table = read_csv(folder / "motions" / f"match_{number}.csv", ["x", "y", "z", "dx_even", "dx_odd"])
        name = pair_name(each)
        tables[name] = table
        draw = presence if each["kind"] == "presence" else displacement
        first, second = draw(row, table, density, shown)
        row[0].set_title(f"{name}: {motion_words(each)}{first}", fontsize=9)
        row[1].set_title(second, fontsize=9)
        scale_bar(row[0], np.ptp(row[0].get_xlim()))
    for half in HALVES:
        grid[0, 0].plot([], [], color=SPLITS[half], label=f"{half} half")
    figure.legend(loc="outside lower left", ncols=2)
    return Drawing(figure, stacked(tables, "match"))


def displacement(row: np.ndarray, table: pd.DataFrame, density: Density, shown: Window) -> tuple[str, str]:
    """Arrows of both halves, seen from two sides; returns the panels' titles."""
    times = 1
    for axes, view in zip(row, ("z", "y"), strict=True):
        background(axes, density, view, shown)
        times = arrows(axes, table, view)
    return (f"; arrows × {times}" if times > 1 else ""), "seen along y"


def presence(row: np.ndarray, table: pd.DataFrame, density: Density, shown: Window) -> tuple[str, str]:
    """What appears and what vanishes in each half, seen along y; returns the panels' titles."""
    across, up = ("xyz"[place] for place in PLANES["y"])
    for axes, half in zip(row, HALVES, strict=True):
        background(axes, density, "y", shown)
        colors = {"c": table[f"presence_{half}"], "cmap": SIGNED, "vmin": -1, "vmax": 1}
        axes.scatter(table[across], table[up], s=14, edgecolor=PALE, linewidth=0.3, **colors)
    return ", even half", "odd half: more (orange) and less (violet) at one end"


def motion_words(motion: dict[str, Any]) -> str:
    """How far a motion goes and agrees."""
    if motion["kind"] == "presence":
        return f"presence, cosine {motion['cosine']:.2f}"
    return f"{np.mean(motion['displacement']):.1f} Å, differ by {motion['difference']:.1f} Å"


def arrows(axes: Axes, table: pd.DataFrame, view: str) -> int:
    """The longest displacements of both halves, of what is there at both ends; returns how many times enlarged."""
    across, up = ("xyz"[place] for place in PLANES[view])
    there = table["mass"] * table["present_even"] * table["present_odd"] > 0.2 * table["mass"].median()
    columns = [f"d{axis}_{half}" for axis in "xyz" for half in HALVES]
    length = np.where(there, np.linalg.norm(table[columns].to_numpy(float), axis=1), 0.0)
    drawn = table.iloc[np.argsort(-length, kind="stable")[:ARROWS]]
    short = 0.08 * np.ptp(axes.get_xlim()) / max(float(length.max()), 1e-9)
    times = next((each for each in (10, 5, 2) if each <= short), 1)
    for half in HALVES:
        axes.quiver(
            drawn[across], drawn[up], drawn[f"d{across}_{half}"], drawn[f"d{up}_{half}"], color=SPLITS[half],
            angles="xy", scale_units="xy", scale=1 / times, width=0.004, alpha=0.7,
        )  # fmt: skip
    return times


def agreement_null(results: Path, analysis: str) -> Drawing:
    """Every score beside its value in the null runs."""
    result = read_verdict(results, analysis)
    if not result["null"]:
        return Drawing(note("no null was run (agreement.null)"), pd.DataFrame(columns=["score"]))
    names = [name for name in SCORES if result["scores"][name] is not None]
    figure = new_figure(8.0, 0.5 + 0.42 * len(names))
    grid, rows = figure.subplots(len(names), 1, squeeze=False)[:, 0], []
    for axes, name in zip(grid, names, strict=True):
        value, nulls = result["scores"][name], result["null"]["scores"][name]
        most, least = max([value, *nulls, 0.0]), min([value, *nulls, 0.0])
        axes.plot([least, most], [0, 0], color=LINE, linewidth=1, zorder=0)
        axes.scatter(nulls, np.zeros(len(nulls)), s=42, facecolor="white", edgecolor=PALE, linewidth=1.4, label="null")
        axes.scatter([value], [0], s=42, color=INK, label="data", zorder=3)
        axes.set_xlim(least - 0.04 * (most - least or 1), most + 0.04 * (most - least or 1))
        axes.set_ylim(-1, 1)
        blank(axes)
        axes.set_ylabel(SCORES[name], rotation=0, ha="right", va="center", fontsize=9)
        words = f"{value:.3g}   null {', '.join(f'{each:.3g}' for each in nulls[:3])}{' …' * (len(nulls) > 3)}"
        axes.annotate(words, (1.02, 0.5), xycoords="axes fraction", va="center", fontsize=9)
        rows += [{"score": name, "run": "data", "value": value}]
        rows += [{"score": name, "run": f"null {number}", "value": each} for number, each in enumerate(nulls, start=1)]
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return Drawing(figure, pd.DataFrame(rows))
