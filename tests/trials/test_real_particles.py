"""Import of real particles and of STAR files from the wild."""

import gzip
import json

import numpy as np
import pytest
import torch
from gemmi import cif

from gaussemble.errors import InputError
from gaussemble.io.cryosparc import join, read_cs, to_star
from gaussemble.io.refinement import read_refinement, read_written
from gaussemble.io.relion import contrast_transfer, interpret
from gaussemble.io.star import numbers, read_star, write_star
from gaussemble.io.store import open_store
from gaussemble.physics.fourier import to_fourier, to_real
from gaussemble.physics.projection import shift_phases
from gaussemble.prepare.particles import Options, particles

BETAGAL = {"count": 6496, "pixel_size": 3.54, "voltage": 300e3, "spherical_aberration": 2.0e7}

# What becomes of each file: rows with poses and CTF, rows with poses alone, or why it is refused.
STAR_FILES = {
    "ASPIRE-Python__rln_proj_64.star": "no pixel size",
    "ASPIRE-Python__rln_proj_64_shifted.star": "no column rlnDefocusU",
    "ASPIRE-Python__sample_data_model.star": "the model of a refinement",
    "ASPIRE-Python__sample_particles_relion31.star": 17,
    "ASPIRE-Python__sample_relion_one_image.star": 1,
    "CryoBoost__PositionLabel_12.star": "the tilts of a tomogram",
    "CryoLike__particle_data.star": "a list of coordinates or particles.*no column rlnImageName",
    "MiRP__AppleDouble_resourcefork.star": "not a text file",
    "MiRPv2__protofilament_references.star": "class averages or references",
    "PyTom__relion_with_optics_group.star": "no column rlnAngleRot, rlnAngleTilt",
    "PyTom__subtomo_format.star": "rlnCoordinateZ: subtomograms",
    "SOD-cryoem__model.star": "the model of a refinement",
    "SOD-cryoem__model_single.star": "the model of a refinement",
    "cets-relion__particles_removed.star": r"2D stacks of tilt series \(rlnTomoVisibleFrames\)",
    "cets-relion__run_it025_model.star": "the model of a refinement",
    "cets-relion__run_it025_optimiser.star": "run_optimiser.star",
    "cets-relion__tomograms.star": "a list of tomograms",
    "cryoCAT__bin1_1deg_500.star": "rlnCoordinateZ: subtomograms",
    "cryoCAT__bin1_1deg_500_2.star": "rlnCoordinateZ: subtomograms",
    "cryoCAT__relion5_TS_01_tilt.star": "the tilts of a tomogram",
    "cryoCAT__relion_3.0.star": "rlnCoordinateZ: subtomograms",
    "cryoCAT__relion_3.1_optics.star": "subtomograms",
    "cryoCAT__relion_3.1_optics2.star": "subtomograms",
    "cryoCAT__relion_4.0.star": "subtomograms",
    "cryoCAT__relion_test.star": "rlnOriginZ: subtomograms",
    "cryoCAT__wedge_list.star": "a wedge list of STOPGAP",
    "cryodrgn__empiar_10076_7.star": "no poses",
    "cryodrgn__relion31.star": 5,
    "cryodrgn__relion31.v2.star": 5,
    "cryodrgn__relion5.star": 17,
    "cryodrgn__sta_testing_bin8.star": 219,
    "cryodrgn__toy_projections_13.star": "no poses",
    "cryodrgn__toy_projections_dir.star": "no poses",
    "cryoet-data-portal-backend__relion_3_star.star": "rlnOriginZ: subtomograms",
    "cryoet-data-portal-backend__relion_4_star.star": "subtomograms",
    "cryoet-data-portal-backend__stopgap_star.star": "a motive list of STOPGAP",
    "cryoet-data-portal-backend__tomoman_relion_star.star": "a list of particles in tomograms",
    "cryojax__ribosome_4ug0_particles.star": "no poses",
    "cryojax__test_starfile.star": 3,
    "cylindra__run_it025_data.star": "2D stacks of tilt series",
    "cylindra__run_it050_data.star": "subtomograms",
    "drgnai__M_particles_sub10.star": 10,
    "dynamo2m__example.star": "rlnCoordinateZ: subtomograms",
    "dynamo2m__relion3.1.star": "subtomograms",
    "himena-relion__DynaMight_job001_job.star": "the settings of a job",
    "himena-relion__full.star": "the pipeline of a project",
    "ioSPI__test.star": 452,
    "isecc__test.star": 1,
    "localrec__micrographs.star": "a list of micrographs",
    "localrec__particles.star": "no poses",
    "negative/recovar_bad_noat.star": "no poses",
    "negative/recovar_bad_non_integer.star": "no poses",
    "negative/recovar_col_mismatch.star": "line 6, of data_: 3 values for 2 labels",
    "negative/recovar_comments.star": "no poses",
    "negative/recovar_dup.star": "data_particles stands twice",
    "opusDSD__toy.star": "no poses",
    "oracle.tsv": "no data_ block",
    "pycrest__test_2018filt_rejected.star": "subtomograms",
    "relion__Schemes_proc_scheme.star": "a scheme of jobs",
    "relion__proc_class2d_job.star": "the settings of a job",
    "scipion-em-esrf__input_particles.star": "no poses",
    "shintarohkubo__example_helical.star": "no poses",
    "shintarohkubo__output.star": "no poses",
    "starfile__basic_double_quote.star": "no column rlnImageName",
    "starfile__empty_loop.star": "a list of coordinates",
    "starfile__loop_single_quote.star": "no column rlnImageName",
    "starfile__one_loop.star": "rlnCoordinateZ: subtomograms",
    "starfile__run_it025_optimiser_2D.star": "run_optimiser.star",
    "starfile__run_it025_sampling_3D.star": "run_sampling.star",
    "starfile__single_line_middle_of_multiblock.star": "data_block_3 stands twice",
}

CS_FILES = {
    "cs/cryodrgn_cryosparc_J2_particles_exported.cs": r"no poses \(it has alignments2D\)",
    "cs/cryodrgn_cryosparc_P12_J24_001_particles.cs": 2019,
    "cs/cryodrgn_empiar_10076_7.cs": "no poses",
    "cs/cryosparc_P9_J209_000_volume_map.cs": "no particles: it describes map",
    "cs/cryosparc_P9_J209_000_volume_mask_refine.cs": "no particles: it describes mask_refine",
}


@pytest.fixture
def run(shared_data, tmp_path):
    """Imports a particle set, returns its store and its report."""

    def importing(star: str, split: str = "full", **options):
        path = shared_data / "particles" / star
        particles(star=path, out=tmp_path / split, split=split, options=Options(**options))
        return open_store(tmp_path / split), json.loads((tmp_path / split / "report.json").read_text())

    return importing


def test_every_file_from_the_wild_is_listed_here(shared_data):
    folder = shared_data / "star"
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {*STAR_FILES, *CS_FILES}


@pytest.mark.parametrize("name", STAR_FILES)
def test_files_from_the_wild_are_read_or_refused_in_one_line(shared_data, tmp_path, name):
    path, expected = shared_data / "star" / name, STAR_FILES[name]
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected) as refusal:
            interpret(read_star(path))
        assert str(path) in str(refusal.value)
        assert "\n" not in str(refusal.value)
        return
    star = read_star(path)
    assert len(interpret(star).angles) == len(star) == expected
    write_star(tmp_path / "again.star", star)
    assert read_star(tmp_path / "again.star").particles.equals(star.particles)


@pytest.mark.parametrize("name", CS_FILES)
def test_cs_files_from_the_wild_are_read_or_refused_in_one_line(shared_data, tmp_path, name):
    path, expected = shared_data / "star" / name, CS_FILES[name]
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected) as refusal:
            read_refinement(path)
        assert str(path) in str(refusal.value)
        assert "\n" not in str(refusal.value)
        return
    refinement = read_refinement(path)
    found = interpret(refinement.star)
    assert len(found.angles) == len(refinement) == expected
    refinement.write(tmp_path)
    again = interpret(read_written(tmp_path).star)
    assert np.allclose(again.angles, found.angles, atol=2e-8)
    assert np.allclose(again.shift, found.shift, atol=1e-6)
    before, after = np.load(path), np.load(tmp_path / "particles.cs")
    assert before.dtype == after.dtype
    assert np.array_equal(before, after)


def test_the_particles_of_a_real_homogeneous_refinement(shared_data):
    """What the file must show if its fields are understood: views all over the sphere, halves, a sign, shifts in Å."""
    refinement = read_refinement(shared_data / "star/cs/cryodrgn_cryosparc_P12_J24_001_particles.cs")
    found = interpret(refinement.star)
    view = np.stack([np.sin(found.angles[:, 1]) * np.cos(found.angles[:, 0]), np.cos(found.angles[:, 1])])
    assert np.abs(view.mean(axis=1)).max() < 0.2
    assert np.bincount(refinement.star.particles["rlnRandomSubset"]).tolist() == [0, 1010, 1009]
    assert refinement.sign == -1
    assert np.allclose(found.shift[0], np.array([11.334375, -1.828125]) * 2.95, atol=1e-4)
    assert (found.ctf.voltage == 200e3).all()


def test_the_same_particles_as_star_and_as_cs_have_the_same_ctf(shared_data):
    """EMPIAR-10076: the .cs is cryoSPARC's import of the STAR file."""
    folder = shared_data / "star"
    star = read_star(folder / "cryodrgn__empiar_10076_7.star")
    cs, _ = to_star(join(read_cs(folder / "cs/cryodrgn_empiar_10076_7.cs")), poses=False)
    ours, theirs = contrast_transfer(cs, []), contrast_transfer(star, [])
    for name in vars(ours):
        assert torch.allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-6), name
    assert cs.particles["rlnImageName"].str.lstrip("0").tolist() == star.particles["rlnImageName"].tolist()
    sizes = numbers(cs, "rlnImagePixelSize")
    assert sizes is not None
    assert np.allclose(sizes, 5e4 / 38168, rtol=1e-5)


def test_the_real_images_of_aspire(run):
    store, report = run("aspire/sample_relion_data.star")
    assert store.images.shape == (17, 200, 200)
    assert store.pixel_size == pytest.approx(5e4 / 37369.207031)  # detector pixel over magnification
    assert report["assumed"] == []
    assert torch.allclose(store.particles.shift[0], torch.tensor([0.1996, 0.1996]) * store.pixel_size, atol=1e-4)
    halves = [run("aspire/sample_relion_data.star", split, halves="random_subset")[0] for split in ("even", "odd")]
    assert sum(map(len, halves)) == 17
    assert not set(halves[0].particles.particle.tolist()) & set(halves[1].particles.particle.tolist())


def test_the_ribosome_tilt_images(run):
    """The stack has one image more than the table; its STAR file has the pixel size of the unbinned images."""
    store, report = run("cryodrgn/sta_testing_bin8.star", pixel_size=14.56)
    assert store.images.shape == (219, 64, 64)
    assert report["pixel_size"] == 14.56
    said = " ".join(report["assumed"])
    for words in ("says 1.96 Å", "header", "centred", "negative rlnCtfBfactor"):
        assert words in said
    assert (store.particles.ctf.b_factor > 0).all()
    assert torch.isfinite(store.read(slice(None))).all()


def test_the_shift_centres_the_image_of_relion(run, shared_data):
    """The same views, once shifted by known pixels and once centred, of a map at 64 and at 65 pixels.

    relion_project puts the centre of an odd box at pixel D//2 + 1 (and of an even one at D//2): so the last 64 of 65
    pixels are compared. Right, the correlation is 0.994; one pixel off 0.95, swapped or reversed below 0.2.
    """
    plain = {"normalise": False, "ctf": False}
    shifted, _ = run("aspire/rln_proj_64_shifted.star", **plain)
    moved = to_fourier(shifted.read(slice(None))) * shift_phases(shifted.particles.shift, 64, 1.0).conj()
    images = to_real(moved, 64)
    centred = run("aspire/rln_proj_65_centered.star", **plain)[0].read(slice(None))[:, 1:, 1:]
    for one, other in zip(images, centred, strict=True):
        inner = (slice(12, 52), slice(12, 52))
        assert torch.corrcoef(torch.stack([one[inner].flatten(), other[inner].flatten()]))[0, 1] > 0.99


@pytest.mark.parametrize(
    ("star", "shape", "options"),
    [
        ("aspire/rln_proj_64.star", (5, 64, 64), {"ctf": False, "pixel_size": 1.0}),
        ("aspire/rln_proj_65_centered.star", (4, 65, 65), {"ctf": False}),
        ("aspire/rln_proj_65_centered.star", (4, 32, 32), {"ctf": False, "box": 32}),
        ("simplecryoem/relion_proj_batch.star", (24, 64, 64), {}),
        ("cryodrgn/relion31.star", (5, 96, 96), {"box": 96}),
    ],
)
def test_other_sets_are_imported(run, star, shape, options):
    assert run(star, **options)[0].images.shape == shape


@pytest.mark.parametrize(
    ("star", "message"),
    [
        ("simplecryoem/pyem.star", r"missing: row 0 .*pyem\.mrc"),
        ("cryodrgn/empiar_10076_7.star", "no poses"),
    ],
)
def test_sets_that_cannot_be_used_are_refused(run, star, message):
    with pytest.raises(InputError, match=message):
        run(star)


def test_the_poses_and_ctfs_of_beta_galactosidase(shared_data):
    """EMPIAR-10017 without its images: every column against gemmi's reading of the file."""
    path = shared_data / "particles/betagal/images.star.gz"
    star = read_star(path)
    found = interpret(star)
    assert len(star) == BETAGAL["count"]
    assert found.pixel_sizes == pytest.approx(BETAGAL["pixel_size"], rel=1e-3)
    assert (found.ctf.voltage == BETAGAL["voltage"]).all()
    assert (found.ctf.spherical_aberration == BETAGAL["spherical_aberration"]).all()

    block = cif.read_string(gzip.decompress(path.read_bytes())).sole_block()

    def column(name: str) -> np.ndarray:
        return np.array([float(value) for value in block.find_values(f"_{name}")])

    angles = np.stack([column(f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")], axis=1)
    assert np.allclose(np.rad2deg(found.angles), angles)
    shift = np.stack([column("rlnOriginX"), column("rlnOriginY")], axis=1)
    assert np.allclose(found.shift, found.pixel_sizes[:, None] * shift)
    assert np.allclose(found.ctf.defocus_u, column("rlnDefocusU"))
    assert np.allclose(found.ctf.defocus_v, column("rlnDefocusV"))
    subset = numbers(star, "rlnRandomSubset")
    assert subset is not None
    assert sorted(set(subset)) == [1, 2]
    for name in star.particles:
        assert list(block.find_values(f"_{name}")) == list(star.particles[name])
