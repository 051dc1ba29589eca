"""Each figure alone from a small tree of results: it is drawn, and the table beside it holds the numbers."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gaussemble.errors import InputError
from gaussemble.io.mixtures import read_mixture
from gaussemble.model.heterogeneity import load_model
from gaussemble.physics.rings import resolution
from gaussemble.report import curves, latents
from gaussemble.report.captions import CAPTIONS, CHAPTERS
from gaussemble.report.figures import FIGURES, Options, figure
from gaussemble.report.names import DATASET_FIGURES, EVERY_SPLIT
from gaussemble.report.names import FIGURES as NAMES
from gaussemble.report.results import (
    Density,
    crossing,
    crossing_text,
    embedding,
    extent,
    main_curve,
    projection,
    read_density,
    window,
)
from gaussemble.report.style import NICE, cluster_colors, new_figure, resolution_axis
from made_results import BOX, PIXEL, make_results

WORKFLOW = Path(__file__).resolve().parents[2] / "workflow"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    return make_results(tmp_path_factory.mktemp("results") / "tiny", particles=300)


@pytest.fixture(scope="module")
def drawn(results) -> Path:
    """The folder of all figures, drawn at a low resolution."""
    for name in FIGURES:
        figure(name, results=results, analysis="main", out=results / "figures" / "main", options=Options(dpi=50))
    return results / "figures" / "main"


def test_names_captions_and_functions_are_of_the_same_figures():
    assert list(FIGURES) == list(NAMES) == list(CAPTIONS)
    in_chapters = [name for _, _, names in CHAPTERS for name in names]
    assert sorted([*in_chapters, *DATASET_FIGURES]) == sorted(NAMES)
    assert set(EVERY_SPLIT) <= set(NAMES)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_in_both_formats_with_its_table(drawn, name):
    assert (drawn / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (drawn / f"{name}.png").stat().st_size > 2000
    assert ElementTree.parse(drawn / f"{name}.svg").getroot().tag.endswith("svg")
    assert len(pd.read_csv(drawn / f"{name}.csv")) > 0


def test_the_same_results_give_the_same_figure(results, tmp_path):
    for folder in ("a", "b"):
        figure("latent_pca", results=results, analysis="main", out=tmp_path / folder, options=Options())
    for suffix in ("png", "svg", "csv"):
        assert (tmp_path / f"a/latent_pca.{suffix}").read_bytes() == (tmp_path / f"b/latent_pca.{suffix}").read_bytes()


def test_curves_are_those_of_the_files(results, drawn):
    table = pd.read_csv(drawn / "consensus_fsc.csv")
    for split in ("full", "even", "odd"):
        expected = pd.read_csv(results / split / "consensus" / "fsc.csv")
        shown = table[table["split"] == split].drop(columns="split").reset_index(drop=True)
        pd.testing.assert_frame_equal(shown, expected)


def test_cluster_sizes_are_counts_with_binomial_errors(results, drawn):
    clusters = pd.read_csv(results / "full" / "main" / "latent" / "clusters.csv")["cluster"]
    table = pd.read_csv(drawn / "cluster_sizes.csv").set_index("cluster")
    assert table["particles"].to_dict() == clusters.value_counts().sort_index().to_dict()
    share = table["particles"] / 300
    np.testing.assert_allclose(table["fraction_error"], np.sqrt(share * (1 - share) / 300), rtol=1e-6)


def test_gaussians_are_shown_relative_to_the_box_centre(results, drawn):
    table = pd.read_csv(drawn / "neutral_mixture.csv")
    center = read_mixture(results / "full" / "neutral" / "mixture.npz").center.numpy()
    np.testing.assert_allclose(table[["x", "y", "z"]], center, atol=1e-4)


def test_slices_of_the_mixture_are_taken_from_the_consensus(results, drawn):
    table = pd.read_csv(drawn / "neutral_slices.csv")
    panels = {name: part["value"].to_numpy() for name, part in table.groupby("panel")}
    inside = panels["difference"] != 0
    # inside the mask, which is 1 but at its edge
    expected = (panels["consensus"] - panels["mixture"])[inside]
    assert np.corrcoef(expected, panels["difference"][inside])[0, 1] > 0.9


def test_growth_is_shown_as_it_was_written(results, drawn):
    written = pd.read_csv(results / "full" / "neutral" / "growth.csv")
    pd.testing.assert_frame_equal(pd.read_csv(drawn / "neutral_growth.csv"), written)


def test_a_number_that_was_given_is_said_and_not_drawn(tmp_path):
    row = pd.DataFrame({"gaussians": [262], "resolution": [12.0], "lowest_fsc": [0.951]})
    (tmp_path / "full/neutral").mkdir(parents=True)
    row.to_csv(tmp_path / "full/neutral/growth.csv", index=False)
    drawing = FIGURES["neutral_growth"](tmp_path, "any")
    assert [text.get_text() for text in drawing.figure.texts] == [
        "their number was given: 262 Gaussians, FSC at least 0.95 to 12 Å"
    ]
    assert not drawing.figure.axes


def test_arrows_go_from_the_first_to_the_last_point(results, drawn):
    folder = results / "full" / "main"
    model = load_model(folder / "heterogeneity" / "model.pt")
    points = pd.read_csv(folder / "latent" / "trajectories" / "pc1.csv")[["z1", "z2", "z3"]].to_numpy()
    with torch.no_grad():
        center = model.decode(torch.tensor(points, dtype=torch.float32)).center.numpy()
    table = pd.read_csv(drawn / "motion_quiver.csv").query("trajectory == 'pc1'")
    np.testing.assert_allclose(table[["dx", "dy", "dz"]], center[-1] - center[0], atol=1e-4)
    np.testing.assert_allclose(table[["x", "y", "z"]], center[0], atol=1e-4)
    assert (table[["dx", "dy", "dz"]].abs().sum(axis=1) > 0).sum() == 20  # the hand alone may move


def test_difference_panels_are_cluster_minus_consensus(results, drawn):
    """Where the hand is absent something is missing, and only in the clusters that lack it."""
    table = pd.read_csv(drawn / "cluster_slices.csv")
    truth = pd.read_csv(results / "simulated" / "truth.csv").set_index("particle")["occupied"]
    clusters = pd.read_csv(results / "full" / "main" / "latent" / "clusters.csv")
    occupied = clusters.groupby("cluster")["particle"].apply(lambda rows: truth[rows].mean())
    for number in range(1, 5):
        total = table[table["panel"] == f"cluster {number} minus consensus, along z"]["value"].sum()
        assert (total < -100) == (occupied[number] < 0.5)


def test_the_corrected_curve_is_the_main_one_where_there_is_one(results):
    table = pd.read_csv(results / "full" / "consensus" / "fsc.csv")
    assert main_curve(table) == "fsc_corrected"
    assert main_curve(table.drop(columns="fsc_corrected")) == "fsc_masked"
    shown = curves.consensus_fsc(results, "main").figure.axes[0].get_lines()
    main = next(line for line in shown if str(line.get_label()).startswith("full:"))
    np.testing.assert_allclose(np.asarray(main.get_ydata()), table["fsc_corrected"][1:])
    at = crossing_text(table["frequency"], table["fsc_corrected"], 0.143)
    assert main.get_label() == f"full: {at} Å"


def test_copies_of_a_particle_keep_their_rows(results, tmp_path):
    """Rows that share a particle number stand side by side in both tables; they are not paired with each other."""
    folder = tmp_path / "full" / "main" / "latent"
    folder.mkdir(parents=True)
    truth = tmp_path / "simulated" / "truth.csv"
    truth.parent.mkdir()
    pd.DataFrame({"particle": [3, 8], "swing": [-5.0, 5.0]}).to_csv(truth, index=False)
    table = pd.DataFrame({"particle": [3, 3, 8, 8], "pc1": [0.0, 1, 2, 3], "pc2": [1.0, 0, 1, 0]})
    table.to_csv(folder / "embedding.csv", index=False)
    pd.DataFrame({"particle": table["particle"], "cluster": [1, 2, 1, 2]}).to_csv(folder / "clusters.csv", index=False)
    merged, total = embedding(folder.parent)
    assert total == 4
    assert merged["cluster"].tolist() == [1, 2, 1, 2]
    assert latents.truth_latent(tmp_path, "main").table["swing"].tolist() == [-5, -5, 5, 5]
    pd.DataFrame({"particle": [3, 8, 3, 8], "cluster": [1, 2, 1, 2]}).to_csv(folder / "clusters.csv", index=False)
    with pytest.raises(InputError, match=r"clusters.csv: the column particle is not that of .*embedding.csv"):
        embedding(folder.parent)


def test_crossing_is_the_resolution_of_physics():
    frequency = np.arange(20) / 80
    for seed in range(5):
        curve = np.linspace(1.1, -0.2, 20) + 0.1 * np.random.default_rng(seed).normal(size=20)
        expected = resolution(torch.tensor(curve), torch.tensor(frequency), 0.143)
        assert crossing(frequency, curve, 0.143) == pytest.approx(expected)
    assert crossing(frequency, np.ones(20), 0.143) == pytest.approx(80 / 19)
    assert crossing_text(frequency, np.ones(20), 0.143) == "< 4.2"
    assert crossing_text(frequency, np.linspace(1, 0, 20), 0.5) == "8.4"


def test_a_voxel_lies_in_a_panel_where_its_position_says():
    """A point at x = +3, y = -2 voxels from the centre, seen along z, is right of and below the middle."""
    voxels = np.zeros((BOX, BOX, BOX), dtype=np.float32)
    voxels[BOX // 2 + 5, BOX // 2 - 2, BOX // 2 + 3] = 1
    mask = np.zeros_like(voxels)
    mask[BOX // 2 - 8 : BOX // 2 + 9, BOX // 2, BOX // 2] = 1
    shown, density = window(mask), Density(voxels, PIXEL, (0.0, 0.0, 0.0))
    left, right, bottom, top = extent(density, shown)
    for axis, (across, up) in {0: (3, -2), 1: (3, 5), 2: (-2, 5)}.items():
        image = projection(voxels, axis, shown)
        row, column = np.unravel_index(image.argmax(), image.shape)
        x = left + (column + 0.5) * (right - left) / image.shape[1]
        y = bottom + (row + 0.5) * (top - bottom) / image.shape[0]
        assert (x, y) == (pytest.approx(across * PIXEL), pytest.approx(up * PIXEL))


def test_maps_are_read_as_they_were_written(results):
    density = read_density(results / "full" / "consensus" / "map.mrc")
    assert density.voxels.shape == (BOX, BOX, BOX)
    assert density.pixel_size == pytest.approx(PIXEL)
    assert density.origin == (10, 20, 30)


def test_the_resolution_axis_stands_over_its_frequencies():
    axes = new_figure().subplots()
    resolution_axis(axes, 0.25)
    upper = axes.child_axes[0]
    labels = [float(label.get_text()) for label in upper.get_xticklabels()]
    np.testing.assert_allclose(upper.get_xticks(), 1 / np.array(labels))
    assert set(labels) <= set(NICE)
    assert min(labels) >= 4


def test_more_clusters_than_colours_still_differ():
    assert len(set(cluster_colors(8))) == 8
    assert len(set(cluster_colors(20))) == 20


def test_one_latent_dimension_and_no_umap(results, tmp_path):
    folder = tmp_path / "full" / "main" / "latent"
    folder.mkdir(parents=True)
    for name in ("embedding", "clusters"):
        table = pd.read_csv(results / "full" / "main" / "latent" / f"{name}.csv")
        table.drop(columns=["pc2", "pc3"], errors="ignore").to_csv(folder / f"{name}.csv", index=False)
    for name in ("latent_pca", "latent_umap"):
        figure(name, results=tmp_path, analysis="main", out=tmp_path, options=Options(dpi=50))
        assert (tmp_path / f"{name}.png").stat().st_size > 2000


def test_a_figure_that_is_not_one_or_lacks_its_file(results, tmp_path):
    with pytest.raises(InputError, match="latent_pca"):
        figure("latent_pac", results=results, analysis="main", out=tmp_path, options=Options())
    with pytest.raises(InputError, match=r"fsc.csv: no such file"):
        figure("consensus_fsc", results=tmp_path, analysis="main", out=tmp_path / "out", options=Options())
    assert not (tmp_path / "out").exists()


def test_figures_start_without_torch():
    code = "import sys, gaussemble.report.figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env={"PYTHONPATH": str(WORKFLOW)}).returncode == 0


def test_what_is_the_same_of_all_particles_has_no_panel(tmp_path):
    results = make_results(tmp_path / "tiny", particles=300)
    path = results / "simulated" / "truth.csv"
    pd.read_csv(path).assign(swing=0.0).to_csv(path, index=False)
    figure("truth_latent", results=results, analysis="main", out=tmp_path / "out", options=Options(dpi=50))
    columns = list(pd.read_csv(tmp_path / "out/truth_latent.csv"))
    assert "occupied" in columns
    assert "swing" not in columns
