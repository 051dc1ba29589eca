"""Small versions of `make bench-science`: real stages on simulated particles, against the Bayes limit of the same ones.

Scores are shares of the oracle's, so that no luck of views or noise moves them much. They must reach the benchmark's
own target at SNR 0.1, 0.95, with a quarter of its particles and Gaussians; where they cannot, the reason is given.
"""

from typing import Any

import pytest

TARGET = 0.95  # of the Bayes-optimal score, at SNR 0.1


def benchmark(folder, name: str, particles: int, *given: str, docked: bool = False) -> dict[str, Any]:
    """One row of the table, at SNR 0.1."""
    import run

    run.ROOT = folder
    return run.benchmark(name, 0.1, particles, ["seeds.count=256", *given], None, docked)


@pytest.mark.slow
def test_a_line_longer_than_the_domain(tmp_path):
    """Chen & Ludtke's first simulation: one latent dimension follows the whole way."""
    row = benchmark(tmp_path, "linear", 1000, "epochs=20")
    assert row["r2_share"] > TARGET
    assert row["auc"] > row["auc_consensus"]
    assert row["verdict"] != "nothing"
    # 1 if nothing of pose or CTF is in the latents; by chance 0.97 and more (shuffled latents, 1000 particles)
    assert row["to_pose"] > 0.9 and row["to_defocus"] > 0.9
    assert row["motion_error"] < row["motion"]  # better than a model in which nothing moves


@pytest.mark.slow
def test_a_domain_that_circles_is_found_from_where_its_model_has_it(tmp_path):
    """Poses 48 Å from the one at rest; with them the domain's true place, for it is a body with its model's shape."""
    pose = ["seeds.count=null", "seeds.moving=B", "decoder=pose", "amplitude=false", 'domains=[{"selection":"B"}]']
    row = benchmark(tmp_path, "ring", 1000, *pose, docked=True)
    assert row["r2_share"] > TARGET
    assert row["verdict"] == "varies"
    assert row["auc"] > row["auc_consensus"]
    assert row["to_pose"] > 0.9 and row["to_defocus"] > 0.9
    assert row["motion_error"] < 0.3 * row["motion"]


@pytest.mark.slow
def test_what_is_present_and_what_is_not(tmp_path):
    """Four compositions, as a linear probe, and as classes by likelihood under decoded structures."""
    row = benchmark(tmp_path, "composition", 1500)
    assert row["probe_share"] > TARGET
    assert row["ari_share"] > 0.9  # the rarest class has 225 particles to learn from, where the benchmark has 600
    assert row["verdict"] == "varies"


@pytest.mark.slow
def test_nothing_is_called_nothing(tmp_path):
    row = benchmark(tmp_path, "null", 1000)
    assert row["verdict"] == "nothing"
    # what chance may say of 100 held-out particles: three standard errors beyond nothing
    assert row["gain"] < 0.01 + 3 * row["gain_error"]
