"""The stage volumes on particles of a user: a cluster's particles.star by relion_reconstruct, maps of original images.

RELION is Debian's package `relion` (3.1); without it its test is skipped.
"""

import json
import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch

from gaussemble.analysis.volumes import Options, volumes
from gaussemble.io.mrc import read_map, write_map, write_stack
from gaussemble.io.star import read_star
from gaussemble.io.store import open_store
from gaussemble.model.heterogeneity import build_model, save_model, single_design
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import fourier_crop, to_real
from gaussemble.physics.masks import soft_mask, within_sphere
from gaussemble.physics.projection import mixture_to_map, project, shift_phases
from gaussemble.physics.rings import shell_correlation
from gaussemble.physics.rotations import matrix_to_euler
from gaussemble.prepare.given import crop_map
from gaussemble.prepare.originals import open_originals
from gaussemble.prepare.particles import Options as ParticlesOptions
from gaussemble.prepare.particles import particles as particles_stage
from gaussemble.quantities import Map, Mixture, Particles
from made_particles import rows, write_star_text
from made_store import lopsided, make_particles

COUNT, FULL, WORKING, PIXEL = 900, 48, 32, 10 / 3  # a working pixel is 5 Å
ABSENT = torch.arange(COUNT) % 3 == 0


def write_inputs(folder: Path, particles: Particles, generator: torch.Generator) -> None:
    """run_data.star and two stacks as micrographs have them; dark molecules on a bright, sloping scale."""
    whole = lopsided()
    lacking = whole.select(torch.arange(6))
    transform = torch.empty(COUNT, FULL, FULL // 2 + 1, dtype=torch.complex64)
    for mixture, chosen in ((whole, ~ABSENT), (lacking, ABSENT)):
        transform[chosen] = project(mixture, particles.rotation[chosen], FULL, PIXEL)
    transform = transform * evaluate(particles.ctf, FULL, PIXEL) * shift_phases(particles.shift, FULL, PIXEL)
    images = to_real(transform, FULL)
    images = images + 0.5 * images.std() * torch.randn(images.shape, generator=generator)
    for stack in (0, 1):
        write_stack(folder / f"mic{stack}.mrcs", images[stack::2], PIXEL)
    angles = torch.rad2deg(matrix_to_euler(particles.rotation)).numpy()
    columns = {f"rlnAngle{name}": angles[:, i] for i, name in enumerate(("Rot", "Tilt", "Psi"))}
    columns |= {f"rlnOrigin{name}Angst": particles.shift[:, i].numpy() for i, name in enumerate("XY")}
    columns |= {"rlnDefocusU": particles.ctf.defocus_u.numpy(), "rlnDefocusV": particles.ctf.defocus_v.numpy()}
    columns |= {"rlnDefocusAngle": torch.rad2deg(particles.ctf.defocus_angle).numpy()}
    text: dict = {name: [f"{value:.6f}" for value in values] for name, values in columns.items()}
    text["rlnImageName"] = [f"{i // 2 + 1:06d}@mic{i % 2}.mrcs" for i in range(COUNT)]
    text["rlnMyOwnColumn"] = [f"mine{i}" for i in range(COUNT)]
    optics = {
        "rlnOpticsGroup": ["1"], "rlnOpticsGroupName": ["one"], "rlnVoltage": ["300"],
        "rlnSphericalAberration": ["2.7"], "rlnAmplitudeContrast": ["0.1"], "rlnImagePixelSize": [f"{PIXEL:.6f}"],
        "rlnImageSize": [str(FULL)], "rlnImageDimensionality": ["2"],
    }  # fmt: skip
    write_star_text(folder / "run_data.star", rows(COUNT, **text), optics)


def write_analysis(folder: Path, mixture: Mixture) -> None:
    """Two clusters and one trajectory of one point."""
    z = np.where(ABSENT.numpy(), -1.0, 1.0)
    table = pd.DataFrame({"particle": np.arange(COUNT), "z1": z, "sd1": 1.0, "pc1": z})
    for name in ("heterogeneity/latent.csv", "latent/embedding.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(folder / name, index=False)
    clusters = pd.DataFrame({"particle": np.arange(COUNT), "cluster": np.where(ABSENT.numpy(), 1, 2)})
    clusters.to_csv(folder / "latent/clusters.csv", index=False)
    (folder / "latent/trajectories").mkdir()
    design = single_design(
        gaussians=len(mixture), latent_dim=1, inputs=4, hidden=4, layers=1, dropout=0.0, length=1.0, field=160.0
    )
    model = build_model(design, mixture, [torch.ones(len(mixture), dtype=torch.bool)], seed=0)
    save_model(folder / "heterogeneity/model.pt", model)


def run(folder: Path, out: str, **options) -> Path:
    names = {name: folder / name for name in ("particles", "consensus", "analysis")}
    volumes(**names, out=folder / out, options=Options(**options))
    return folder / out


@pytest.fixture(scope="module")
def project_folder(tmp_path_factory):
    """Particles in 48 pixels, a store of 32, and the volumes of both."""
    folder = tmp_path_factory.mktemp("user")
    generator = torch.Generator().manual_seed(5)
    write_inputs(folder, make_particles(COUNT, generator), generator)
    options = ParticlesOptions(box=WORKING, contrast="white")
    particles_stage(star=folder / "run_data.star", out=folder / "particles", split="full", options=options)
    mask = soft_mask(mixture_to_map(lopsided(), WORKING, 5.0), 5.0)
    write_map(folder / "consensus/mask.mrc", Map(mask, 5.0))
    write_analysis(folder / "analysis", lopsided())
    run(folder, "working")
    run(folder, "original", box="original")
    return folder


def test_maps_of_the_original_images_hold_those_of_the_stored_ones(project_folder):
    """Same grey scale, same place: cropped to the working box the one is the other."""
    for cluster in ("cluster_1", "cluster_2"):
        fine, coarse = (read_map(project_folder / box / cluster / "unfiltered.mrc") for box in ("original", "working"))
        assert (fine.box, coarse.box) == (FULL, WORKING)
        assert np.allclose(fine.center, coarse.center, atol=0.01)
        assert fine.pixel_size == pytest.approx(PIXEL, rel=1e-4)
        sphere = torch.from_numpy(within_sphere(WORKING))
        first, second = crop_map(fine.voxels, WORKING)[sphere], coarse.voxels[sphere]
        assert (first @ second / (second @ second)).item() == pytest.approx(1, abs=0.01)
        assert (first - second).norm() / second.norm() < 0.1
    drawn, stored = (read_map(project_folder / box / "cluster_1/decoded.mrc").voxels for box in ("original", "working"))
    assert (crop_map(drawn, WORKING) - stored).norm() < 0.01 * stored.norm()
    mask = read_map(project_folder / "original/mask.mrc")
    assert mask.box == FULL
    assert 0 <= float(mask.voxels.min()) <= float(mask.voxels.max()) <= 1


@pytest.mark.parametrize(
    "options", [{}, {"contrast": "black"}, {"normalise": False}, {"expand": "C2"}, {"whiten": True}], ids=str
)
def test_original_images_cropped_are_the_stored_ones(project_folder, tmp_path, options):
    """Whatever the stage particles did to them; copies that symmetry expansion made share their image."""
    given = ParticlesOptions(**({"box": WORKING, "contrast": "white"} | options))
    particles_stage(star=project_folder / "run_data.star", out=tmp_path, split="odd", options=given)
    store = open_store(tmp_path)
    source = open_originals(store, read_star(tmp_path / "particles.star"))
    block = torch.arange(3, 23)
    found, stored = fourier_crop(source.read(block), WORKING) * WORKING / FULL, store.read(block)
    # each box has a whitening filter of its own, measured through its own window
    tolerance = 0.1 if options.get("whiten") else 1e-3
    assert (found - stored).norm() / stored.norm() < tolerance
    if "expand" in options:
        assert torch.equal(source.read(block)[1], source.read(block)[2]), "rows 4 and 5 are copies"


def test_subsets_keep_columns_and_paths(project_folder):
    subset, whole = (read_star(project_folder / name) for name in ("working/cluster_1/particles.star", "run_data.star"))
    assert subset.particles["rlnMyOwnColumn"].tolist() == [f"mine{i}" for i in np.flatnonzero(ABSENT)]
    assert list(subset.particles.columns) == list(whole.particles.columns)
    assert subset.optics is not None


@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="relion_reconstruct is not installed")
def test_relion_reconstructs_a_clusters_particles_as_they_are(project_folder):
    """From the working directory of the run, as a user would; our map of the original images is RELION's."""
    star = project_folder / "original/cluster_1/particles.star"
    command = ["relion_reconstruct", "--i", str(star), "--o", str(project_folder / "relion.mrc"), "--ctf"]
    done = subprocess.run(command, cwd=Path.cwd(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with mrcfile.open(project_folder / "relion.mrc") as file:
        theirs = torch.from_numpy(np.array(file.data))
        assert float(file.voxel_size["x"]) == pytest.approx(PIXEL, rel=1e-3)
    ours = read_map(project_folder / "original/cluster_1/unfiltered.mrc").voxels
    assert shell_correlation(ours, theirs)[1:10].min() > 0.99
    other = read_map(project_folder / "original/cluster_2/unfiltered.mrc").voxels
    sphere = torch.from_numpy(within_sphere(FULL))
    apart = [1 - torch.corrcoef(torch.stack([each[sphere], theirs[sphere]]))[0, 1] for each in (ours, other)]
    assert apart[0] < 0.02
    assert apart[1] > 5 * apart[0], "the other cluster has a domain more"


def test_report_is_of_the_original_box(project_folder):
    report = json.loads((project_folder / "original/report.json").read_text())
    assert report["box"] == FULL
    assert {each["name"] for each in report["states"]} == {"cluster_1", "cluster_2"}
