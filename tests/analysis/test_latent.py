"""Principal components, clusters and trajectories of latents."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gaussemble.analysis.latent import Options, latent, principal_axes, trajectory
from gaussemble.analysis.picture import umap_picture
from gaussemble.errors import InputError
from gaussemble.io.posteriors import Posteriors, write_posteriors

QUICK = {"umap": False}


def blobs(seed: int = 0, size: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Four groups at the corners of a 12 x 6 rectangle in axes 1 and 2, sd 1; axis 3 is noise alone."""
    rng = np.random.default_rng(seed)
    corner = np.array([[-6, -3, 0], [-6, 3, 0], [6, -3, 0], [6, 3, 0]], dtype=float)
    state = rng.integers(0, 4, size)
    return corner[state] + rng.normal(size=(size, 3)), state


def table_of(z: np.ndarray, sd: np.ndarray | float = 1.0) -> pd.DataFrame:
    deviations = np.broadcast_to(sd, z.shape)
    columns = {"particle": np.arange(len(z)) * 2}  # the even half
    columns |= {f"z{i + 1}": z[:, i] for i in range(z.shape[1])}
    columns |= {f"sd{i + 1}": deviations[:, i] for i in range(z.shape[1])}
    return pd.DataFrame(columns | {"loss": 0.0, "held_out": 0})


def run(folder: Path, table: pd.DataFrame, **options) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "latent.csv", index=False)
    latent(latent=folder / "latent.csv", out=folder / "latent", options=Options(**(QUICK | options)))
    return folder / "latent"


def test_coordinates_and_latents_are_inverse():
    z, _ = blobs()
    axes = principal_axes(z, np.array([1.0, 0.1, 3.0]))
    np.testing.assert_allclose(axes.latents(axes.coordinates(z)), z, atol=1e-12)
    np.testing.assert_allclose(axes.direction @ axes.direction.T, np.eye(3), atol=1e-12)


def test_components_are_ordered_uncorrelated_and_their_signs_fixed():
    z, _ = blobs()
    axes = principal_axes(z, np.ones(3))
    covariance = np.cov(axes.coordinates(z).T)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-9)
    assert (np.diff(np.diag(covariance)) < 0).all()
    largest = axes.direction[np.arange(3), np.abs(axes.direction).argmax(axis=1)]
    assert (largest > 0).all()
    # the same directions, not mirrored ones, from particles in another order
    np.testing.assert_allclose(principal_axes(z[::-1], np.ones(3)).direction, axes.direction, atol=1e-9)


def test_stretching_an_axis_with_its_posterior_changes_nothing(tmp_path):
    z, _ = blobs()
    stretch = np.array([0.01, 7.0, 300.0])
    plain = run(tmp_path / "plain", table_of(z), scale="uncertainty")
    stretched = run(tmp_path / "stretched", table_of(z * stretch, stretch), scale="uncertainty")
    columns = ["pc1", "pc2", "pc3"]
    a, b = (pd.read_csv(folder / "embedding.csv")[columns].to_numpy() for folder in (plain, stretched))
    np.testing.assert_allclose(a, b, atol=1e-4)
    pd.testing.assert_frame_equal(pd.read_csv(plain / "clusters.csv"), pd.read_csv(stretched / "clusters.csv"))


def test_without_scaling_a_stretched_noise_axis_would_lead(tmp_path):
    z, _ = blobs()
    stretch = np.array([1.0, 1.0, 100.0])
    folder = run(tmp_path, table_of(z * stretch, stretch), scale="none")
    embedding = pd.read_csv(folder / "embedding.csv")
    assert abs(np.corrcoef(embedding["pc1"], embedding["z3"])[0, 1]) > 0.99


def test_trajectory_ends_at_percentiles_and_goes_through_z(tmp_path):
    z, _ = blobs()
    folder = run(tmp_path, table_of(z), points=3, lower=10, upper=90, components=2)
    embedding = pd.read_csv(folder / "embedding.csv")
    for name in ("pc1", "pc2"):
        points = pd.read_csv(folder / "trajectories" / f"{name}.csv")
        assert list(points.columns) == ["point", "percentile", name, "z1", "z2", "z3"]
        np.testing.assert_allclose(points["percentile"], [10, 50, 90])
        np.testing.assert_allclose(points[name], np.percentile(embedding[name], [10, 50, 90]), rtol=1e-5)
        axes = principal_axes(z, np.ones(3))
        back = axes.coordinates(points[["z1", "z2", "z3"]].to_numpy())
        expected = np.zeros((3, 3))
        expected[:, int(name[2]) - 1] = points[name]
        np.testing.assert_allclose(back, expected, atol=1e-5)  # the other components stay at their mean


def test_trajectory_steps_hold_equal_numbers_of_particles():
    z, _ = blobs(size=1001)
    axes = principal_axes(z, np.ones(3))
    pc = axes.coordinates(z)
    coordinate, _ = trajectory(axes, pc, 0, np.linspace(0, 100, 5))
    counts, _ = np.histogram(pc[:, 0], coordinate)
    assert np.ptp(counts) <= 1


@pytest.mark.parametrize(("sd", "said"), [(1.0, False), (6.0, True)])
def test_noisy_particles_are_told_to_be_decoded(tmp_path, capsys, sd, said):
    """Groups 6 apart, by latents that are known to 1 and to 6."""
    run(tmp_path, table_of(blobs()[0], sd))
    assert ("posterior deviations apart" in capsys.readouterr().err) == said


def test_same_seed_gives_the_same_files(tmp_path):
    z, _ = blobs()
    first, second = (run(tmp_path / name, table_of(z), umap=True, seed=3) for name in ("a", "b"))
    for name in ("embedding.csv", "clusters.csv", "trajectories/pc1.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    columns = list(pd.read_csv(first / "embedding.csv"))
    assert columns == ["particle", "z1", "z2", "z3", "sd1", "sd2", "sd3", "pc1", "pc2", "pc3", "umap1", "umap2"]
    assert list(pd.read_csv(first / "clusters.csv")["particle"]) == [2 * i for i in range(200)]


def test_umap_keeps_groups_together_also_those_placed_later():
    z, state = blobs(size=400)
    picture = umap_picture(z, fitted=200)
    assert picture.shape == (400, 2)
    nearest = np.linalg.norm(picture[:, None] - picture[None], axis=-1) + np.diag(np.full(400, np.inf))
    assert (state[nearest.argmin(axis=1)] == state).mean() > 0.98


def test_one_latent_dimension(tmp_path):
    z, _ = blobs()
    folder = run(tmp_path, table_of(z[:, :1]), components=None, clusters=2, umap=True)
    assert pd.read_csv(folder / "clusters.csv")["cluster"].value_counts().min() > 50
    assert [path.name for path in (folder / "trajectories").iterdir()] == ["pc1.csv"]
    assert "umap1" not in pd.read_csv(folder / "embedding.csv")


def test_trajectories_of_an_earlier_run_do_not_stay(tmp_path):
    z, _ = blobs()
    run(tmp_path, table_of(z), components=3)
    folder = run(tmp_path, table_of(z), components=1)
    assert [path.name for path in (folder / "trajectories").iterdir()] == ["pc1.csv"]


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda t: t.assign(z1=np.where(t.particle == 4, np.nan, t.z1)), {}, r"row 3 \(particle 4\)"),
        (lambda t: t, {"components": 4}, "components is 4"),
        (lambda t: t, {"lower": 95.0, "upper": 5.0}, "below upper"),
        (lambda t: t.head(3), {}, "3 particles"),
        (lambda t: t.assign(z1=0.0, z2=0.0, z3=0.0), {}, "no heterogeneity"),
        (lambda t: t.assign(sd2=0.0), {"scale": "uncertainty"}, "positive"),
        (lambda t: t.drop(columns="sd3"), {"scale": "uncertainty"}, "sd3"),
        (lambda t: t.drop(columns="particle"), {}, "particle"),
        (lambda t: t, {"clusters": None}, "no posteriors were given"),
        (lambda t: t, {"method": "decoded"}, "give --particles and --consensus and --model"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, spoil, options, message):
    z, _ = blobs()
    with pytest.raises(InputError, match=message) as error:
        run(tmp_path, spoil(table_of(z)), **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "latent").exists()


def test_where_hdbscan_finds_nothing_all_particles_are_one_cluster(tmp_path, capsys):
    """As in a null run, whose particles do not vary."""
    z, _ = blobs()
    folder = run(tmp_path, table_of(z), method="hdbscan", smallest=150)
    assert (pd.read_csv(folder / "clusters.csv")["cluster"] == 1).all()
    assert "hdbscan finds no cluster" in capsys.readouterr().err


def test_a_class_that_is_no_particles_most_probable_one_is_left_out(tmp_path, monkeypatch, capsys):
    """As of particles that do not vary: what is there goes on, so that a null run has its verdict."""
    table, posteriors, _ = seen_badly()
    probability = np.tile([0.5, 0.1, 0.4], (len(table), 1))
    probability[::2] = [0.4, 0.1, 0.5]
    monkeypatch.setattr("gaussemble.analysis.assignment.shared_out", lambda *_: probability)
    table.to_csv(tmp_path / "latent.csv", index=False)
    write_posteriors(tmp_path / "posterior.npz", posteriors)
    options = Options(**(QUICK | {"method": "gaussian_mixture", "clusters": 3}))
    latent(latent=tmp_path / "latent.csv", posteriors=tmp_path / "posterior.npz", out=tmp_path, options=options)
    assert set(pd.read_csv(tmp_path / "clusters.csv")["cluster"]) == {1, 2}
    assert "of 3 clusters only 2" in capsys.readouterr().err


def seen_badly(size: int = 800) -> tuple[pd.DataFrame, Posteriors, np.ndarray]:
    """Two groups 4 apart on axis 1, of which half of the particles show that axis and the others the second alone."""
    rng = np.random.default_rng(5)
    state = rng.integers(0, 2, size)
    true = np.stack([4.0 * state - 2, np.zeros(size)], 1) + 0.2 * rng.normal(size=(size, 2))
    shown = rng.integers(0, 2, size)
    sd = np.where(np.arange(2) == shown[:, None], 0.6, 30.0)
    estimate = true + sd * rng.normal(size=(size, 2))
    prior = np.diag([9.0, 9.0])
    precision = np.stack([np.diag(row) for row in sd**-2.0])
    covariance = np.linalg.inv(precision + np.linalg.inv(prior))
    mean = np.einsum("nij,nj->ni", covariance @ precision, estimate)
    table = table_of(mean, np.sqrt(np.einsum("nii->ni", covariance))).assign(held_out=(np.arange(size) % 5 == 0))
    return table, Posteriors(table["particle"].to_numpy(), mean, covariance, np.zeros(2), prior), state


def test_what_varies_is_told_from_chance(tmp_path):
    """Two groups that half of the views show; then the same views of one group."""
    table, posteriors, state = seen_badly()
    paths = {"latent": tmp_path / "latent.csv", "posteriors": tmp_path / "posterior.npz"}
    still = posteriors.latent - np.einsum(
        "nij,nj->ni",
        np.eye(2) - posteriors.covariance @ np.linalg.inv(posteriors.prior_covariance),
        np.stack([4.0 * state - 2, np.zeros(len(state))], 1),
    )
    for latents, varies in ((posteriors.latent, True), (still, False)):
        write_posteriors(paths["posteriors"], replace(posteriors, latent=latents))
        table.assign(held_out=table["held_out"].astype(int)).to_csv(paths["latent"], index=False)
        latent(**paths, out=tmp_path, options=Options(clusters=2, **QUICK))
        found = json.loads((tmp_path / "structure.json").read_text())
        assert found["varies"] == varies
        assert (found["variation"]["mean"] > 3 * found["variation"]["error"]) == varies
        assert found["kept_from_training"]
        numbers = pd.read_csv(tmp_path / "numbers.csv").set_index("clusters")
        assert numbers["bic"].idxmin() == (2 if varies else 1)


@pytest.mark.parametrize("sign", [1, -1])
def test_gains_that_are_known_say_whether_anything_varies(tmp_path, sign):
    """Of the held-out particles alone: the others' are of the other sign."""
    table, posteriors, _ = seen_badly()
    held_out = table["held_out"].astype(int)
    gains = sign * np.where(held_out == 1, 0.5, -0.5) + 0.1 * np.random.default_rng(0).normal(size=len(table))
    write_posteriors(tmp_path / "posterior.npz", posteriors)
    table.assign(held_out=held_out, gain=gains).to_csv(tmp_path / "latent.csv", index=False)
    paths = {"latent": tmp_path / "latent.csv", "posteriors": tmp_path / "posterior.npz"}
    latent(**paths, out=tmp_path, options=Options(clusters=2, **QUICK))
    found = json.loads((tmp_path / "structure.json").read_text())
    assert found["varies"] == (sign > 0)
    assert found["variation"]["mean"] == pytest.approx(0.5 * sign, abs=0.05)


def test_the_number_of_clusters_is_found_where_none_is_given(tmp_path):
    table, posteriors, _ = seen_badly()
    write_posteriors(tmp_path / "posterior.npz", posteriors)
    table.assign(held_out=table["held_out"].astype(int)).to_csv(tmp_path / "latent.csv", index=False)
    paths = {"latent": tmp_path / "latent.csv", "posteriors": tmp_path / "posterior.npz"}
    latent(**paths, out=tmp_path, options=Options(clusters=None, **QUICK))
    assert sorted(pd.read_csv(tmp_path / "clusters.csv")["cluster"].unique()) == [1, 2]


def test_posteriors_must_be_those_of_the_particles(tmp_path):
    table, posteriors, _ = seen_badly(60)
    write_posteriors(tmp_path / "posterior.npz", posteriors)
    table.iloc[::-1].to_csv(tmp_path / "latent.csv", index=False)
    with pytest.raises(InputError, match=r"not the particles of latent\.csv"):
        paths = {"latent": tmp_path / "latent.csv", "posteriors": tmp_path / "posterior.npz"}
        latent(**paths, out=tmp_path, options=Options(**QUICK))
