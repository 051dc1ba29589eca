"""The scores of an analysis against the truth: the Bayes-optimal one knows, and every score falls when it should."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import ROOT
from gaussemble.analysis.truth import (
    Options,
    linear_probe,
    majority_accuracy,
    match_scores,
    normal_equations,
    oracle,
    posterior_of,
    swing_scores,
    truth,
)
from gaussemble.errors import InputError
from gaussemble.fit.band import open_band
from gaussemble.io.files import write_csv
from gaussemble.io.mrc import open_stack, write_map
from gaussemble.io.relion import interpret
from gaussemble.io.star import read_star
from gaussemble.io.states import States, read_states
from gaussemble.io.store import ImageStore, open_store, write_store
from gaussemble.physics.backprojection import volume_grids
from gaussemble.physics.projection import project
from gaussemble.physics.rotations import euler_to_matrix
from gaussemble.prepare import simulate as simulation
from gaussemble.quantities import Map, Mixture, Particles

MODEL = ROOT / "resources" / "demo_molecule.cif"
BOX, COUNT = 64, 96


def stored(folder: Path, star: Path, factor: float) -> ImageStore:
    """An image store of simulated particles as they are, times a factor."""
    said = interpret(read_star(star))
    rotation, shift = euler_to_matrix(torch.from_numpy(said.angles)).float(), torch.from_numpy(said.shift).float()
    count = torch.arange(len(shift))
    particles = Particles(count, rotation, shift, said.ctf, torch.zeros_like(count))
    write_store(folder, particles, factor * np.array(open_stack(star.with_suffix(".mrcs"))), said.pixel_size)
    return open_store(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Particles with as much signal as noise: 20 times the demo's."""
    folder = tmp_path_factory.mktemp("truth")
    options = simulation.Options(particles=COUNT, snr=1.0, states=13, box=BOX)
    simulation.simulate(model=MODEL, out=folder / "simulated", options=options)
    stored(folder / "particles", folder / "simulated" / "particles.star", 1.0)
    return folder


@pytest.fixture
def store(folder) -> ImageStore:
    return open_store(folder / "particles")


@pytest.fixture
def states(folder) -> States:
    return read_states(folder / "simulated" / "states.npz")


@pytest.fixture
def known(folder) -> pd.DataFrame:
    return pd.read_csv(folder / "simulated" / "truth.csv").set_index("particle")


def white(variance: float = 1.0) -> torch.Tensor:
    """Power per ring of white noise."""
    return torch.full((1, BOX // 2 + 1), variance * BOX**2, dtype=torch.float64)


def nearest(states: States, known: pd.DataFrame) -> torch.Tensor:
    return states.nearest(
        *(torch.tensor(known[name].to_numpy(), dtype=torch.float32) for name in ("swing", "occupied"))
    )


def with_shift(store: ImageStore, change) -> ImageStore:
    return replace(store, particles=replace(store.particles, shift=change(store.particles.shift)))


# --- the Bayes-optimal score


def test_the_oracle_knows_the_state_of_nearly_noiseless_particles(store, states, known):
    found = oracle(store, states, nearest(states, known), white(), 12.0)
    assert found.scale == pytest.approx(1.0, abs=0.01)
    # the grid's 5 degrees leave 1.4 at best; the arm's tip moves 1.5 Å in a degree
    assert np.sqrt(np.mean((found.swing - known["swing"]) ** 2)) < 2
    assert np.array_equal(found.occupied > 0.5, known["occupied"] > 0.5)


@pytest.mark.parametrize("change", [lambda shift: -shift, lambda shift: shift.flip(1), torch.zeros_like])
def test_the_oracle_is_lost_with_wrong_shifts(change, store, states, known):
    right = oracle(store, states, nearest(states, known), white(), 12.0)
    wrong = oracle(with_shift(store, change), states, nearest(states, known), white(), 12.0)
    assert wrong.scale < 0.7 * right.scale
    assert np.mean((wrong.swing - known["swing"]) ** 2) > 3 * np.mean((right.swing - known["swing"]) ** 2)


def test_the_scale_of_normalised_images_is_found_and_changes_nothing_else(folder, store, states, known):
    brighter = stored(folder / "brighter", folder / "simulated" / "particles.star", 7.0)
    first = oracle(store, states, nearest(states, known), white(), 12.0)
    second = oracle(brighter, states, nearest(states, known), white(49.0), 12.0)
    assert second.scale == pytest.approx(7 * first.scale, rel=1e-4)
    np.testing.assert_allclose(second.swing, first.swing, atol=0.02)


def test_the_posterior_width_is_that_of_the_errors(tmp_path):
    """At the demo's noise the mean squared error is what the posterior expects of it."""
    options = simulation.Options(particles=300, snr=0.05)
    simulation.simulate(model=MODEL, out=tmp_path, options=options)
    store, states = stored(tmp_path / "store", tmp_path / "particles.star", 1.0), read_states(tmp_path / "states.npz")
    known = pd.read_csv(tmp_path / "truth.csv").set_index("particle")
    found = oracle(store, states, nearest(states, known), white(), 16.0)
    ratio = np.mean((found.swing - known["swing"]) ** 2) / np.mean(found.deviation**2)
    assert 0.6 < ratio < 1.6  # squared errors are widely spread: over 300 their mean is known to about 15 %
    assert np.corrcoef(found.swing, known["swing"])[0, 1] ** 2 > 0.95


def test_parts_of_the_states_are_compared_as_their_projections(store, states):
    """b and G by slices of maps against those by exact projections of the Gaussians."""
    parts, _ = states.components()
    maps, _ = simulation.component_maps(states, BOX, 4.0)
    batch = open_band(store, white(), 12.0).batch(torch.arange(8))
    products, gram = normal_equations(volume_grids(maps[:4], 2), batch)
    exact = [batch.transfer * project(part, batch.rotation, batch.box, batch.pixel_size) for part in parts[:4]]
    for i, first in enumerate(exact):
        expected = (first.conj() * batch.image).real.sum((1, 2))
        norm = first.abs().square().sum((1, 2)).sqrt() * batch.image.abs().square().sum((1, 2)).sqrt()
        assert float(((products[:, i] - expected) / norm).abs().max()) < 0.005
        for j, second in enumerate(exact):
            both = (first.conj() * second).real.sum((1, 2))
            norm = first.abs().square().sum((1, 2)).sqrt() * second.abs().square().sum((1, 2)).sqrt()
            assert float(((gram[:, i, j] - both) / norm).abs().max()) < 0.02


def test_the_posterior_is_bayes_rule():
    """Two states that a hand can compute: unit templates in one dimension, X = 1, unit noise."""
    mixture = Mixture(torch.zeros(2, 1, 3), torch.ones(2, 1), torch.ones(2, 1))
    states = States(mixture, torch.tensor([0.0, 10.0]), torch.tensor([0.0, 1.0]), 8, 1.0)
    template, image = torch.tensor([0.0, 1.0]), 1.0
    matched = (template * image).repeat(4, 1).double()
    norm = template.square().repeat(4, 1).double()
    found = posterior_of(matched, norm, states, torch.tensor([1, 1, 1, 0]))  # prior 3/4
    weight = 0.75 * np.exp(0) / (0.75 * np.exp(0) + 0.25 * np.exp(-0.5))  # g = 1: residuals 0 and 1
    np.testing.assert_allclose(found.occupied, weight)
    np.testing.assert_allclose(found.swing, 10 * weight)
    np.testing.assert_allclose(found.deviation, 10 * np.sqrt(weight * (1 - weight)))


# --- latents and classes


def test_latents_that_hold_the_truth_score_well_and_others_do_not():
    generator = np.random.default_rng(0)
    swing, occupied = generator.uniform(-30, 30, 800), generator.integers(0, 2, 800)
    angle = np.deg2rad(3 * swing)  # a bent curve: no linear score would do
    latent = np.stack([np.cos(angle), np.sin(angle), 3.0 * occupied], axis=1) + 0.02 * generator.normal(size=(800, 3))
    noise = generator.normal(size=(800, 3))
    assert swing_scores(latent, swing, Options(neighbours=8))["swing_r2"] > 0.99
    assert swing_scores(noise, swing, Options())["swing_r2"] < 0.05
    assert linear_probe(latent, occupied, Options()) == 1.0
    assert linear_probe(noise, occupied, Options()) < 0.58


def test_clusters_are_called_by_their_majority():
    cluster, occupied = np.array([1, 1, 1, 2, 2, 2, 2, 3]), np.array([1, 1, 0, 0, 0, 0, 1, 1])
    # of 4 occupied 3 are called so, of 4 empty 3
    assert majority_accuracy(cluster, occupied) == pytest.approx((3 / 4 + 3 / 4) / 2)


def test_what_does_not_vary_has_no_score():
    latent = np.random.default_rng(0).normal(size=(50, 2))
    assert swing_scores(latent, np.zeros(50), Options()) == {"swing_r2": None, "swing_error": None}
    assert linear_probe(latent, np.ones(50), Options()) is None
    assert majority_accuracy(np.ones(50), np.ones(50)) is None


def test_matches_of_the_same_and_of_other_states_are_told_apart(tmp_path, known):
    right, wrong = tmp_path / "matches.csv", tmp_path / "crossed.csv"
    write_csv(right, pd.DataFrame({"cluster_even": [1, 2], "cluster_odd": [2, 1]}))
    write_csv(wrong, pd.DataFrame({"cluster_even": [1, 2], "cluster_odd": [1, 2]}))
    for name, order in (("even", (1, 2)), ("odd", (2, 1))):
        rows = known[known.index % 2 == (name == "odd")]
        table = pd.DataFrame({"particle": rows.index, "cluster": np.where(rows["occupied"] == 1, *order)})
        write_csv(tmp_path / name / "latent" / "clusters.csv", table)
    halves = tmp_path / "even", tmp_path / "odd"
    options = Options(swing_tolerance=0.5)  # 48 particles each: means of swings differ by chance
    found = match_scores(known, right, halves, options)
    assert [match["same_states"] for match in found] == [True, True]
    assert (found[0]["occupied_even"], found[0]["occupied_odd"]) == (1, 1)
    assert [match["same_states"] for match in match_scores(known, wrong, halves, options)] == [False, False]


@pytest.fixture
def analysed(folder, known, states, tmp_path) -> dict[str, Path]:
    """An analysis that found the truth: latents are the states, clusters the occupancies, maps the true means."""
    latent = pd.DataFrame({"particle": known.index, "z1": known["swing"], "z2": 30.0 * known["occupied"]})
    write_csv(tmp_path / "domains/heterogeneity/latent.csv", latent.assign(sd1=1.0, sd2=1.0))
    clusters = pd.DataFrame({"particle": known.index, "cluster": known["occupied"] + 1})
    write_csv(tmp_path / "domains/latent/clusters.csv", clusters)
    state = nearest(states, known)
    for cluster in (1, 2):
        own = state[torch.tensor((clusters["cluster"] == cluster).to_numpy())]
        write_map(tmp_path / f"domains/volumes/cluster_{cluster}/map.mrc", simulation.mean_map(states, own, BOX, 4.0))
    consensus = tmp_path / "consensus"
    write_map(consensus / "mask.mrc", Map(torch.ones(BOX, BOX, BOX), 4.0))
    rings = pd.DataFrame(
        {"optics_group": 0, "ring": range(BOX // 2 + 1), "frequency": 0.0, "power": white()[0].numpy()}
    )
    write_csv(consensus / "noise.csv", rings)
    return {
        "truth": folder / "simulated" / "truth.csv",
        "states": folder / "simulated" / "states.npz",
        "particles": folder / "particles",
        "consensus": consensus,
        "analysis": tmp_path / "domains",
        "out": tmp_path / "truth" / "domains.json",
    }


def test_the_stage_scores_a_perfect_analysis_as_perfect(analysed, capsys):
    truth(**analysed, options=Options(neighbours=3))
    scores = json.loads(analysed["out"].read_text())
    assert scores["particles"] == COUNT
    assert scores["analysis"]["swing_r2"] > 0.95  # 96 particles over 60 degrees and two occupancies
    assert scores["analysis"]["occupancy_clusters"] == scores["analysis"]["occupancy_linear_probe"] == 1
    assert scores["oracle"]["swing_r2"] > 0.99
    assert scores["swing_r2_of_oracle"] == pytest.approx(scores["analysis"]["swing_r2"] / scores["oracle"]["swing_r2"])
    assert [one["occupied"] for one in scores["clusters"]] == [0, 1]
    for one in scores["clusters"]:
        assert one["resolution_0.5"] == pytest.approx(8.0)  # Nyquist: the same map
    assert "Bayes-optimal" in capsys.readouterr().err


def test_a_map_of_the_other_class_agrees_less(analysed):
    volumes = analysed["analysis"] / "volumes"
    first, second = (volumes / f"cluster_{cluster}" / "map.mrc" for cluster in (1, 2))
    first.write_bytes(second.read_bytes())
    truth(**analysed, options=Options(neighbours=3))
    wrong, right = json.loads(analysed["out"].read_text())["clusters"]
    assert min(right["fsc"][1:]) > 0.999
    assert min(wrong["fsc"][1:]) < 0.97


def test_particles_without_a_truth_are_refused(analysed):
    path = analysed["analysis"] / "latent" / "clusters.csv"
    write_csv(path, pd.DataFrame({"particle": [0, 1, 5000], "cluster": 1}))
    with pytest.raises(InputError, match=r"clusters\.csv: particle 5000 has no row in truth\.csv"):
        truth(**analysed, options=Options(neighbours=3))
