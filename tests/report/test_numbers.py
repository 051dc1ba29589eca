"""The figure of how many clusters there are, from the three small tables that it reads."""

from pathlib import Path

import pandas as pd
import pytest

from gaussemble.report.numbers import cluster_number


@pytest.fixture
def results(tmp_path) -> Path:
    """An analysis whose latents ask for three clusters, and that uses two, beside one particle in none."""
    tables = {
        "full/main/latent/numbers.csv": {"clusters": [1, 2, 3, 4], "bic": [300.0, 40.0, 0.0, 60.0]},
        "full/main/latent/clusters.csv": {"particle": [0, 1, 2], "cluster": [1, 2, 0]},
        "agreement/main/stability.csv": {
            "clusters": [2, 3], "rand_index": [0.9, 0.8], "rand_index_error": [0.01, 0.02],
            "prediction_strength": [0.95, 0.7], "null_rand_index": [0.0, 0.01], "null_prediction_strength": [0.5, 0.3],
        },
    }  # fmt: skip
    for name, table in tables.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(table).to_csv(tmp_path / name, index=False)
    return tmp_path


def test_the_numbers_are_those_of_the_files(results):
    drawing = cluster_number(results, "main")
    table = drawing.table.set_index("clusters")
    assert table["bic"].idxmin() == 3 and (table["used"] == 2).all()
    assert table["rand_index"].dropna().to_dict() == {2: 0.9, 3: 0.8}
    left, right = drawing.figure.axes
    marked = left.get_lines()[1]
    assert list(marked.get_xdata()) == [3] and list(marked.get_ydata()) == [0]
    labels = [text.get_text() for text in right.get_legend().get_texts()]
    assert sorted(set(labels)) == ["adjusted Rand index", "prediction strength", "the same, null"]


def test_without_crossing_there_is_the_criterion_alone(results):
    (results / "agreement/main/stability.csv").unlink()
    drawing = cluster_number(results, "main")
    assert list(drawing.table) == ["clusters", "bic", "used"]
    assert [text.get_text() for text in drawing.figure.axes[1].texts] == ["the halves' particles were not crossed"]
