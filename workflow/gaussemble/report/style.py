"""How figures look: colours that colour-blind readers tell apart, axes of frequency, panels of density."""

from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure

from gaussemble.report.results import crossing_text

INK, PALE, LINE = "#222222", "#8a8a8a", "#d9d9d9"
SPLITS = {"full": INK, "even": "#0072B2", "odd": "#D55E00"}
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#7A5195", "#8C8C3E")  # after Okabe & Ito
ORDERED, SIGNED, DENSITY = "viridis", "PuOr_r", "Greys"
NICE = (100, 60, 40, 30, 20, 15, 12, 10, 8, 7, 6, 5, 4.5, 4, 3.5, 3, 2.5, 2, 1.5, 1)  # Å, ticks of the upper axis

SETTINGS = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=PALETTE),
    "xtick.color": PALE,
    "ytick.color": PALE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "gaussemble",  # the same picture gives the same file
}


class Drawing(NamedTuple):
    """A figure and the numbers that it shows."""

    figure: Figure
    table: pd.DataFrame


def new_figure(width: float = 6.4, height: float = 4.0) -> Figure:
    """An empty figure in inches, whose parts do not overlap."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def cluster_colors(count: int) -> list:
    """A colour per cluster, the same in all figures; beyond the palette an ordered scale, as their numbers are."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    return [to_hex(color) for color in mpl.colormaps[ORDERED](np.linspace(0, 0.95, count))]


def resolution_axis(axes: Axes, last: float) -> None:
    """Frequency below in 1/Å, from 0 to `last`, and resolution above in Å."""
    axes.set_xlim(0, last)
    axes.set_xlabel("spatial frequency (1/Å)")
    ticks: list[float] = []
    for value in NICE:
        if 1 / value <= last * 1.001 and 1 / value - (1 / ticks[-1] if ticks else -np.inf) > 0.075 * last:
            ticks.append(value)
    upper = axes.secondary_xaxis("top")
    upper.set_xticks([1 / value for value in ticks], [f"{value:g}" for value in ticks])
    upper.set_xlabel("resolution (Å)", fontsize=9)
    upper.tick_params(labelsize=9)
    upper.spines["top"].set_visible(True)


def correlation_axis(axes: Axes, lowest: float = 0.0) -> None:
    """Fourier shell correlation upwards, with the two thresholds in use."""
    axes.set_ylim(min(-0.05, max(-1.0, lowest - 0.05)), 1.03)
    axes.set_ylabel("Fourier shell correlation")
    axes.axhline(0, color=LINE, linewidth=0.8, zorder=0)
    for threshold in (0.5, 0.143):
        axes.axhline(threshold, color=PALE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        axes.annotate(
            f"{threshold:g}", (1, threshold), xycoords=("axes fraction", "data"), xytext=(3, 0),
            textcoords="offset points", va="center", fontsize=8, color=PALE,
        )  # fmt: skip


def draw_fsc(axes: Axes, curve: pd.DataFrame, column: str, label: str, threshold: float = 0.143, **style) -> None:
    """One curve; the legend gives where it crosses the threshold."""
    at = crossing_text(curve["frequency"], curve[column], threshold)
    label = f"{label}: {at} Å" if label else "_"
    axes.plot(curve["frequency"][1:], curve[column][1:], label=label, **style)


def blank(axes: Axes) -> None:
    """A panel for an image: no ticks, no frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def difference_bar(figure: Figure, axes: Any, most: float) -> None:
    """The colours of difference maps, below the panels."""
    bar = figure.colorbar(
        ScalarMappable(Normalize(-most, most), SIGNED),
        ax=axes,
        orientation="horizontal",
        shrink=0.4,
        aspect=40,
        pad=0.02,
    )
    bar.set_ticks([-most, 0, most], labels=["less", "as consensus", "more"])


def scale_bar(axes: Axes, width: float) -> None:
    """A bar of a round length in Å, about a quarter of the panel's `width` (Å, the panel's unit)."""
    length = max((step for step in (5, 10, 20, 50, 100, 200, 500) if step <= width / 2.5), default=width / 4)
    left, right = sorted(axes.get_xlim())
    bottom, top = sorted(axes.get_ylim())
    x, y = left + 0.05 * (right - left), bottom + 0.05 * (top - bottom)
    axes.plot([x, x + length], [y, y], color=INK, linewidth=2.5, solid_capstyle="butt")
    axes.annotate(f"{length:g} Å", (x, y), xytext=(0, 3), textcoords="offset points", fontsize=8, color=INK)


def note(text: str) -> Figure:
    """A figure that says why there is nothing to see."""
    figure = new_figure(height=1.4)
    figure.text(0.5, 0.5, text, ha="center", va="center", color=PALE)
    return figure
