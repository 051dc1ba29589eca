"""Small versions of `make bench-science`: real stages on simulated particles, against the Bayes limit of the same ones.

Thresholds lie a little below what is measured (in brackets); they are shares of the oracle's scores, so that no luck of
views or noise moves them much.
"""

from typing import Any

import pytest


def benchmark(folder, name: str, particles: int, *given: str) -> dict[str, Any]:
    """One row of the table, at SNR 0.1."""
    import run

    run.ROOT = folder
    return run.benchmark(name, 0.1, particles, [*given], None)


@pytest.mark.slow
def test_a_line_longer_than_the_domain(tmp_path):
    """Chen & Ludtke's first simulation: one latent dimension follows the whole way."""
    row = benchmark(tmp_path, "linear", 1500, "epochs=20")
    assert row["r2_share"] > 0.93
    assert row["auc"] > row["auc_consensus"]
    assert row["verdict"] != "nothing"
    assert row["to_pose"] > 0.9 and row["to_defocus"] > 0.9  # 1: nothing of pose or CTF is in the latents
    assert row["motion_error"] < row["motion"]


@pytest.mark.slow
def test_what_is_present_and_what_is_not(tmp_path):
    """Four compositions, as clusters and as decoded classes."""
    row = benchmark(tmp_path, "composition", 2000)
    assert row["ari_share"] > 0.9
    assert row["probe_share"] > 0.93
    assert row["verdict"] == "varies"


@pytest.mark.slow
def test_nothing_is_called_nothing(tmp_path):
    row = benchmark(tmp_path, "null", 1500)
    assert row["verdict"] == "nothing"
    assert row["gain"] < 0.01 + 3 * row["gain_error"]
