"""The figure of how much was found of the truth, where it is known."""

from pathlib import Path

import numpy as np
import pandas as pd

from gaussemble.io.files import read_json
from gaussemble.report.style import (
    LINE,
    Drawing,
    cluster_colors,
    new_figure,
    note,
)

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
