"""The whole chain on beta-galactosidase: real metadata, real map and model, *simulated* images.

The poses, shifts, CTFs and half-sets are those of every fourth particle of EMPIAR-10017, `full` takes the real map as
its consensus, and half of the particles lack residues 13-217 of chain A: one of four copies, far from every axis of the
D2 symmetry, so that a wrong frame, axis, hand or copy puts it elsewhere by more than 20 Å.
"""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile
import torch
from gemmi import cif

from conftest import ROOT
from gaussemble.io.atoms import read_atoms
from gaussemble.io.mrc import read_map
from gaussemble.io.star import read_star
from gaussemble.physics.masks import low_pass
from gaussemble.prepare.simulate import selected
from gaussemble.quantities import Map

MODEL = "models/8bk7_in_betaGal_frame.cif.gz"
DOMAIN = "A/13-217"
PIXEL, BOX = 3.54 * 100 / 64, 64
SPLITS = ["full", "even", "odd"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(shared_data, tmp_path_factory) -> Path:
    """The results of a run that went to its end."""
    folder = tmp_path_factory.mktemp("betagal")
    table = gzip.decompress((shared_data / "particles/betagal/images.star.gz").read_bytes())
    (folder / "images.star").write_bytes(table)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1"]
    command += ["--configfile", str(ROOT / "tests/trials/betagal.yaml")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder / "results/betagal"


@pytest.fixture(scope="module")
def domain(shared_data) -> np.ndarray:
    """Centre of the optional domain, (x, y, z) in Å in the map's frame."""
    atoms = read_atoms(shared_data / MODEL)
    chosen = selected(shared_data / MODEL, atoms, "optional", DOMAIN).numpy()[atoms.residue]
    return np.average(atoms.position[chosen], weights=atoms.electrons[chosen], axis=0)


def difference(results: Path, split: str, kind: str) -> Map:
    """Map of the cluster with the domain less that of the one without, low-passed to 20 Å."""
    known = pd.read_csv(results / "simulated/truth.csv").set_index("particle")["occupied"]
    clusters = pd.read_csv(results / split / "domains/latent/clusters.csv")
    occupied = known.loc[clusters["particle"]].groupby(clusters["cluster"].to_numpy()).mean()
    folders = [results / split / f"domains/volumes/cluster_{k}" for k in (occupied.idxmax(), occupied.idxmin())]
    more, less = (read_map(folder / f"{kind}.mrc") for folder in folders)
    return more.with_voxels(low_pass(more.voxels - less.voxels, more.pixel_size, 20.0))


def center_of_peak(density: Map) -> np.ndarray:
    """Centre of mass of the voxels above half the maximum, (x, y, z) in Å."""
    weight = torch.where(density.voxels > density.voxels.max() / 2, density.voxels, 0).double().numpy()
    z, y, x = np.indices(weight.shape)
    index = np.array([(weight * axis).sum() / weight.sum() for axis in (x, y, z)])
    return index * density.pixel_size + np.array(density.origin)


def test_it_says_that_the_images_are_simulated_with_real_metadata(results, shared_data):
    said = (results / "logs/simulate.txt").read_text()
    assert "simulated with views and CTFs of images.star" in said
    block = cif.read(str(results.parents[1] / "images.star")).sole_block()
    made = read_star(results / "simulated/particles.star").particles
    for name in ("rlnAngleRot", "rlnAngleTilt", "rlnDefocusU", "rlnRandomSubset"):
        real = [float(value) for value in list(block.find_values(f"_{name}"))[::4]]
        np.testing.assert_allclose(made[name].astype(float), real, rtol=1e-5, atol=1e-4)


def test_the_halves_are_those_of_the_refinement(results):
    for split, subset in (("even", 1), ("odd", 2)):
        rows = starfile.read(results / split / "particles/particles.star")["particles"]
        assert set(rows["rlnRandomSubset"]) == {subset}


def test_the_real_map_is_taken_for_full_alone(results):
    said = {split: (results / f"logs/{split}/consensus.txt").read_text() for split in SPLITS}
    assert float(said["full"].split("at 20 Å is ")[1].split()[0]) > 0.9  # it is of the images' own model
    assert "ngl_betaGal" not in said["even"] + said["odd"]
    density = read_map(results / "full/consensus/map.mrc")
    assert (density.box, density.pixel_size) == (BOX, pytest.approx(PIXEL, rel=1e-3))


def test_the_consensus_reaches_its_pixels(results):
    for split in SPLITS:
        curve = pd.read_csv(results / split / "consensus/fsc.csv")
        beyond = curve[curve["fsc_masked"] < 0.143]["resolution"]
        assert beyond.empty or beyond.iloc[0] < (13 if split == "full" else 15), "Å; two pixels are 11.1"


def test_particles_with_and_without_the_domain_are_told_apart(results):
    scores = json.loads((results / "truth/domains.json").read_text())
    best = scores["oracle"]["occupancy_linear_probe"]
    assert best > 0.98, "the images are good enough for the test to mean something; 0.999 of all particles"
    assert scores["analysis"]["occupancy_linear_probe"] > best - 0.05
    assert scores["analysis"]["occupancy_clusters"] > best - 0.05


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", ["map", "decoded"])
def test_the_right_domain_is_missing_in_the_right_place(results, domain, split, kind):
    density = difference(results, split, kind)
    found = center_of_peak(density)
    print(f"{split} {kind}: {np.round(found, 1)}, {np.linalg.norm(found - domain):.1f} Å from the domain's centre")
    assert np.linalg.norm(found - domain) < 6  # Å, a pixel; the other three copies are 29 Å away and more
    assert density.voxels.max() > 2.5 * -density.voxels.min()  # nothing is missing elsewhere


def test_even_and_odd_find_the_same_classes(results):
    verdict = json.loads((results / "agreement/domains/verdict.json").read_text())
    assert [cluster["verdict"] for cluster in verdict["clusters"]] == ["reproduced", "reproduced"]
    scores = json.loads((results / "truth/domains.json").read_text())
    assert [match["same_states"] for match in scores["matches"]] == [True, True]


def test_the_morphed_models_keep_the_real_model_whole(results, shared_data):
    atoms = read_atoms(results / "full/domains/models/pc1.cif")
    real = read_atoms(shared_data / MODEL)
    assert len(atoms) == len(real)
    assert (results / "report.html").stat().st_size > 1e5
