"""Figures that are curves: Fourier shell correlation, noise, training, displacement along the chain."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from gaussemble.io.files import read_csv
from gaussemble.report.results import main_curve
from gaussemble.report.style import (
    INK,
    LINE,
    PALE,
    SPLITS,
    Drawing,
    cluster_colors,
    correlation_axis,
    draw_fsc,
    new_figure,
    note,
    resolution_axis,
)

FSC_COLUMNS = ["frequency", "fsc", "fsc_masked"]
GROWTH_COLUMNS = ["gaussians", "resolution", "lowest_fsc"]


def fsc_figure(curves: dict[str, pd.DataFrame], colors: list, threshold: float = 0.143) -> Figure:
    """Several half-map curves on one pair of axes; the legend says where each crosses the threshold."""
    figure = new_figure()
    fsc_curves(figure.subplots(), curves, colors, threshold)
    return figure


def fsc_curves(axes: Axes, curves: dict[str, pd.DataFrame], colors: list, threshold: float = 0.143) -> None:
    """The curves of `fsc_figure`, on axes that are there."""
    for (label, curve), color in zip(curves.items(), colors, strict=True):
        draw_fsc(axes, curve, main_curve(curve), label, threshold, color=color)
    correlation_axis(axes, min(float(np.min(curve[main_curve(curve)])) for curve in curves.values()))
    resolution_axis(axes, max(float(np.max(curve["frequency"])) for curve in curves.values()))
    axes.legend(title=f"crosses {threshold:g} at", alignment="left", title_fontsize=9)


def stacked(curves: dict[str, pd.DataFrame], name: str) -> pd.DataFrame:
    """Tables below each other, with a first column that tells them apart."""
    return pd.concat([curve.assign(**{name: key}) for key, curve in curves.items()], ignore_index=True)


def consensus_fsc(results: Path, analysis: str) -> Drawing:
    """Half-map FSC of the consensus of all particles and of each half, and how the mask changes that of all."""
    curves = {split: read_csv(results / split / "consensus" / "fsc.csv", FSC_COLUMNS) for split in SPLITS}
    figure = fsc_figure(curves, list(SPLITS.values()))
    thin = {"color": PALE, "linewidth": 1.1, "zorder": 1}
    whole = curves["full"]
    draw_fsc(figure.axes[0], whole, "fsc", "full, unmasked", **thin)
    if main_curve(whole) != "fsc_masked":
        draw_fsc(figure.axes[0], whole, "fsc_masked", "full, masked, not corrected", linestyle=(0, (5, 2)), **thin)
        random = {"label": "full, masked, phases randomised", "linestyle": (0, (1, 1.5))}
        figure.axes[0].plot(whole["frequency"][1:], whole["fsc_randomised"][1:], **random, **thin)
    figure.axes[0].legend(title="crosses 0.143 at", alignment="left", title_fontsize=9)
    return Drawing(figure, stacked(curves, "split"))


def neutral_fsc(results: Path, analysis: str) -> Drawing:
    """FSC of the mixture's map against the consensus map."""
    curve = read_csv(results / "full" / "neutral" / "fsc.csv", FSC_COLUMNS)
    figure = new_figure()
    axes = figure.subplots()
    draw_fsc(axes, curve, "fsc_masked", "inside the mask", 0.5, color=INK)
    draw_fsc(axes, curve, "fsc", "whole box", 0.5, color=PALE, linewidth=1.2)
    correlation_axis(axes, float(np.min(curve[["fsc", "fsc_masked"]].to_numpy())))
    resolution_axis(axes, float(np.max(curve["frequency"])))
    axes.legend(title="crosses 0.5 at", alignment="left", title_fontsize=9)
    return Drawing(figure, curve)


def neutral_growth(results: Path, analysis: str) -> Drawing:
    """The lowest FSC of mixture and map against the number of Gaussians, for each resolution of the rounds."""
    table = read_csv(results / "full" / "neutral" / "growth.csv", GROWTH_COLUMNS)
    gaussians, resolution, lowest = (np.asarray(table[name]) for name in GROWTH_COLUMNS)
    if len(table) == 1:
        said = (
            f"their number was given: {gaussians[0]:,} Gaussians, FSC at least {lowest[0]:.2f} to {resolution[0]:.3g} Å"
        )
        return Drawing(note(said), table)
    figure = new_figure()
    axes = figure.subplots()
    labelled: list[tuple[float, float]] = []
    for fitted in sorted(set(resolution), reverse=True):
        chosen, color = resolution == fitted, INK if fitted == resolution.min() else PALE
        axes.plot(gaussians[chosen], lowest[chosen], marker="o", color=color, linewidth=1.4)
        place = (gaussians[chosen][-1], lowest[chosen][-1])
        beside = sum(abs(place[1] - y) < 0.04 for x, y in labelled if x == place[0])  # so that labels do not meet
        labelled.append(place)
        axes.annotate(f"{fitted:.3g} Å", place, (7, -3 - 12 * beside), textcoords="offset points", color=color)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    ticks = sorted(set(gaussians))
    axes.set_xticks(ticks, labels=[f"{number:,}" for number in ticks])
    axes.margins(x=0.15)
    axes.set_xlabel("Gaussians")
    axes.set_ylabel("lowest FSC with the map up to the resolution")
    axes.set_ylim(min(0.0, lowest.min()), 1.02)
    return Drawing(figure, table)


def noise_spectrum(results: Path, analysis: str) -> Drawing:
    """Noise power against frequency, for each optics group."""
    table = read_csv(results / "full" / "consensus" / "noise.csv", ["optics_group", "frequency", "power"])
    figure = new_figure(height=3.2)
    axes = figure.subplots()
    groups = list(table.groupby("optics_group"))
    for (group, part), color in zip(groups, cluster_colors(len(groups)), strict=True):
        axes.semilogy(
            part["frequency"][1:], part["power"][1:], color=color, label=f"optics group {int(str(group)) + 1}"
        )
    resolution_axis(axes, float(np.max(table["frequency"])))
    axes.set_ylabel("noise power per coefficient")
    if 1 < len(groups) <= 12:
        axes.legend()
    return Drawing(figure, table)


def training_history(results: Path, analysis: str) -> Drawing:
    """Loss of the trained and of the held-out particles in each epoch."""
    curves = {
        split: read_csv(
            results / split / analysis / "heterogeneity" / "history.csv", ["epoch", "loss", "held_out_loss"]
        )
        for split in SPLITS
    }
    figure = new_figure(height=3.4)
    axes = figure.subplots()
    for split, curve in curves.items():
        axes.plot(curve["epoch"], curve["loss"], color=SPLITS[split], label=split)
        axes.plot(curve["epoch"], curve["held_out_loss"], color=SPLITS[split], linestyle=(0, (3, 2)), linewidth=1.4)
    axes.plot([], [], color=PALE, linestyle=(0, (3, 2)), linewidth=1.4, label="particles held out")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss per particle")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.legend()
    return Drawing(figure, stacked(curves, "split"))


def displacement(results: Path, analysis: str) -> Drawing:
    """How far each residue moves between the ends of each trajectory."""
    path = results / "full" / analysis / "models" / "displacement.csv"
    table = read_csv(path, words=["trajectory", "chain", "residue", "displacement"])
    if table.empty:
        return Drawing(note("the model has no residues"), table)
    figure = new_figure(height=3.4)
    axes = figure.subplots()
    groups = list(table.groupby("trajectory", sort=False))
    for (name, part), color in zip(groups, cluster_colors(len(groups)), strict=True):
        axes.plot(np.arange(len(part)), part["displacement"], color=color, linewidth=1.4, label=str(name))
    first = groups[0][1].reset_index(drop=True)
    chain = first["chain"].astype(str).to_numpy()
    starts = [0, *(np.flatnonzero(chain[1:] != chain[:-1]) + 1).tolist()]
    for start, stop in zip(starts, [*starts[1:], len(first)], strict=True):
        axes.axvline(start, color=LINE, linewidth=0.8, zorder=0)
        if stop - start > 0.02 * len(first):
            axes.annotate(
                chain[start], ((start + stop) / 2, 1), xycoords=("data", "axes fraction"),
                xytext=(0, 3), textcoords="offset points", ha="center", color=PALE, fontsize=9,
            )  # fmt: skip
    axes.set_xlim(0, len(first))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("residue, along the chains named above")
    axes.set_ylabel("displacement (Å)")
    axes.legend()
    return Drawing(figure, table)
