"""Two halves of a tiny molecule that bends, and of one that does not, under each other's networks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gaussemble.analysis import null
from gaussemble.analysis.chance import gain
from gaussemble.analysis.crossing import crossing
from gaussemble.analysis.following import motion_scores
from gaussemble.analysis.shared import read_latents
from gaussemble.errors import InputError
from gaussemble.fit.heterogeneity import Options
from gaussemble.fit.population import most_likely
from gaussemble.fit.scratch import make_table
from gaussemble.io.files import write_csv
from gaussemble.io.store import open_store, write_particles
from gaussemble.quantities import Map
from made_heterogeneity import make_inputs, run

COUNT = 256
SMALL = {"latent_dim": 1, "epochs": 12, "batch": 32, "hidden": 48, "inputs": 12, "learning_rate": 5e-3}
SMALL |= {"resolution": 16.0, "amplitude": False, "landmarks": 64, "em_rounds": 1}
OTHER = {"even": "odd", "odd": "even"}


def renumber(folder: Path, first: int) -> None:
    """Particles first, first + 2, ... as halves have them."""
    store = open_store(folder)
    known = replace(store.particles, particle=first + 2 * torch.arange(len(store)))
    write_particles(folder, known, store.box, store.pixel_size)


def cross(root: Path) -> pd.DataFrame:
    """Train both halves of a data set and cross them; returns latents.csv."""
    for half in OTHER:
        run(root / half, "main/heterogeneity", **SMALL)
    for half, other in OTHER.items():
        network = root / other / "main/heterogeneity"
        crossing(
            particles=root / half / "particles",
            consensus=root / half / "consensus",
            network=network / "model.pt",
            posteriors=network / "posterior.npz",
            out=root / half / "main/crossed",
            options=Options(**SMALL),
        )
    return read_latents(root / "even/main", root / "odd/main")[0]


@pytest.fixture(scope="module")
def bending(tmp_path_factory) -> tuple[Path, pd.DataFrame, np.ndarray]:
    """The halves of particles that bend: folder, latents.csv, and the angles."""
    root, angles = tmp_path_factory.mktemp("bending"), []
    for seed, half in enumerate(OTHER):
        angles.append(make_inputs(root / half, COUNT, torch.Generator().manual_seed(seed)).numpy())
        renumber(root / half / "particles", seed)
    return root, cross(root), np.concatenate(angles)


def test_both_networks_read_the_angle_of_particles_that_one_never_saw(bending):
    _, table, angle = bending
    for half, other in OTHER.items():
        unseen = (table["half"] == half).to_numpy()
        assert abs(np.corrcoef(table[f"z_{other}1"][unseen], angle[unseen])[0, 1]) > 0.85
        found = gain(table["gain"].to_numpy()[unseen])
        assert found.beyond_chance
        assert found.mean > 1


def test_rigid_is_the_best_single_structure_for_all_together():
    """The neutral mixture, which gains nothing, or the landmark of the highest sum."""
    gains = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 0.0, 0.5], [0.5, -1.0, -0.5]], dtype=torch.float64)
    table = make_table(3, (3,), float)
    table.write(0, gains)
    assert most_likely(table) == 2
    table.write(0, gains - 1)
    assert most_likely(table) is None


def test_the_bend_is_the_same_motion_in_both_halves(bending):
    root, table, angle = bending
    low, high = angle < -0.35, angle > 0.35
    for half in OTHER:
        z = table[f"z_{half}1"].to_numpy()
        ends = pd.DataFrame({"z1": [z[low].mean(), z[high].mean()]})
        write_csv(root / half / "main/latent/trajectories/pc1.csv", ends)
    store = open_store(root / "even/particles")
    whole = Map(torch.ones(store.box, store.box, store.box), store.pixel_size)
    (row,), _ = motion_scores(root / "even/main", root / "odd/main", (whole, whole))
    assert row["cosine"] > 0.6  # 0.72: of 230 particles, with all Gaussians free
    assert row["kind"] == "motion"
    assert row["difference"] < 0.7 * np.mean(row["displacement"])
    assert row["displacement"][0] > 8  # Å; the arm, out to 52 Å, swings through 60 degrees
    assert row["gain"] > 5 * row["gain_error"]
    assert row["structure"] > 0.3
    assert row["followed"]["cosine"] > 0.6


def test_of_particles_that_do_not_bend_unseen_ones_are_no_likelier(bending, tmp_path):
    root = bending[0]
    for half in OTHER:
        (root / half / "particles/particles.star").touch()
        null.null(
            particles=root / half / "particles",
            consensus=root / half / "consensus",
            neutral=root / half / "mixture.npz",
            out=tmp_path / half / "particles",
            options=null.Options(),
        )
        for name in ("consensus", "mixture.npz"):
            (tmp_path / half / name).symlink_to(root / half / name)
    found = gain(cross(tmp_path)["gain"].to_numpy())
    assert not found.beyond_chance
    assert found.mean < 0.1


def test_particles_of_the_networks_own_half_are_refused(bending, tmp_path):
    root, network = bending[0], bending[0] / "even/main/heterogeneity"
    with pytest.raises(InputError, match="give the other half's"):
        crossing(
            particles=root / "even/particles",
            consensus=root / "even/consensus",
            network=network / "model.pt",
            posteriors=network / "posterior.npz",
            out=tmp_path / "crossed",
            options=Options(**SMALL),
        )
