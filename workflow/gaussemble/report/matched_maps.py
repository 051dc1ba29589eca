"""The figure of matched classes: their maps, and the difference maps that were scored, of both halves side by side."""

from pathlib import Path

import numpy as np

from gaussemble.report.agreement import HALVES, MOST, pair_name, read_verdict
from gaussemble.report.densities import VIEWS, grey_limits, show
from gaussemble.report.results import Density, extent, pixels, projection, window
from gaussemble.report.style import SIGNED, SPLITS, Drawing, new_figure, scale_bar


def agreement_maps(results: Path, analysis: str) -> Drawing:
    """Matched classes side by side: central slice and projection, and what sets each apart, of both halves.

    The difference maps are those that were scored: class minus all particles of the half's other classes, to the
    resolution to which maps were compared.
    """
    from gaussemble.analysis.agreement import union_of_masks
    from gaussemble.analysis.matching import as_compared, difference_maps, read_classes

    result = read_verdict(results, analysis)
    clusters = result["clusters"][:MOST]
    classes = [read_classes(results / half / analysis) for half in HALVES]
    compared = as_compared(classes[0], classes[1], result["resolution"])
    analyses, consensus = ([results / half / part for half in HALVES] for part in (analysis, "consensus"))
    box = classes[0].maps.shape[-1]
    mask = union_of_masks((analyses[0], analyses[1]), (consensus[0], consensus[1]), box).numpy()
    frame, shown = Density(mask, classes[0].pixel_size, (0.0, 0.0, 0.0)), window(mask)
    inside = slice(shown.start, shown.stop)
    panels: dict[str, dict[str, np.ndarray]] = {}
    for half, own, maps in zip(HALVES, classes, compared, strict=True):
        differences = difference_maps(maps, own.size)
        for each in clusters:
            row = own.number.tolist().index(each[half])
            voxels, difference = own.maps[row].numpy() * mask, differences[row].numpy() * mask
            column = panels.setdefault(pair_name(each), {})
            column[f"{half}, slice"] = voxels[box // 2][inside, inside]
            column[f"{half}, projection"] = projection(voxels, VIEWS["y"], shown)
            column[f"{half}, difference"] = projection(difference, VIEWS["y"], shown)
    return drawn_side_by_side(panels, extent(frame, shown))


def drawn_side_by_side(panels: dict[str, dict[str, np.ndarray]], edges: tuple[float, float, float, float]) -> Drawing:
    """A column for each match, a row for each kind of picture and half."""
    kinds = [f"{half}, {kind}" for kind in ("slice", "projection", "difference") for half in HALVES]
    figure = new_figure(1.0 + 1.5 * len(panels), 1.55 * len(kinds) + 0.4)
    grid = figure.subplots(len(kinds), len(panels), squeeze=False)
    for row, kind in enumerate(kinds):
        alike = [image for each in panels.values() for name, image in each.items() if name.endswith(kind.split()[-1])]
        most = float(np.percentile(np.abs(np.concatenate([image.ravel() for image in alike])), 99.7))
        limits, cmap = ((-most, most), SIGNED) if "difference" in kind else (grey_limits(alike), "Greys")
        for axes, (name, column) in zip(grid[row], panels.items(), strict=True):
            show(axes, column[kind], limits, edges, cmap)
            axes.set_title(name if row == 0 else "")
        grid[row, 0].set_ylabel(
            kind.replace(", ", "\n"), rotation=0, ha="right", va="center", color=SPLITS[kind.split(",")[0]]
        )
    scale_bar(grid[0, 0], edges[1] - edges[0])
    return Drawing(
        figure, pixels({f"{name}, {kind}": image for name, each in panels.items() for kind, image in each.items()})
    )
