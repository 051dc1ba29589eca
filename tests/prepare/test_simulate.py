"""Simulated particles are what their STAR file says, at the SNR asked for, with the truth written beside them."""

import gemmi
import numpy as np
import pandas as pd
import pytest
import torch

from conftest import ROOT
from gaussemble.errors import InputError
from gaussemble.io.mrc import open_stack, read_map
from gaussemble.io.relion import interpret
from gaussemble.io.star import numbers, read_star
from gaussemble.io.states import read_states
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import to_fourier, to_real
from gaussemble.physics.projection import project, shift_phases
from gaussemble.physics.rings import ring_means
from gaussemble.physics.rotations import euler_to_matrix
from gaussemble.prepare.simulate import Options, read_molecule, simulate
from gaussemble.quantities import Mixture

MODEL = ROOT / "resources" / "demo_molecule.cif"
FILES = ("particles.star", "particles.mrcs", "truth.csv", "states.npz", "map.mrc")
STILL = {"swing": 0.0, "occupancy": 1.0}


def run(folder, star=None, model=MODEL, **options):
    """Simulate into a folder; 64 particles unless told."""
    simulate(model=model, out=folder, options=Options(**{"particles": 64, **options}), star=star)
    return folder


def predicted(folder) -> torch.Tensor:
    """Images of the only state of a simulation without heterogeneity, from what the STAR file says alone."""
    states, said = read_states(folder / "states.npz"), interpret(read_star(folder / "particles.star"))
    assert len(states) == 1
    mixture = Mixture(states.mixture.center[0], states.mixture.amplitude[0], states.mixture.width[0])
    rotation = euler_to_matrix(torch.from_numpy(said.angles)).float()
    transform = project(mixture, rotation, states.box, said.pixel_size)
    transform = transform * evaluate(said.ctf, states.box, said.pixel_size)
    transform = transform * shift_phases(torch.from_numpy(said.shift).float(), states.box, said.pixel_size)
    return to_real(transform, states.box)


@pytest.fixture(scope="module")
def null(tmp_path_factory):
    """One structure, 200 particles, as much signal as noise."""
    return run(tmp_path_factory.mktemp("null"), particles=200, snr=1.0, **STILL)


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """The default heterogeneity, 500 particles at a small box."""
    return run(tmp_path_factory.mktemp("moving"), particles=500, box=32, pixel_size=8.0, shift=0.5)


def test_signal_and_noise_have_the_absolute_variances_that_were_asked_for(null):
    images, signal = torch.from_numpy(np.array(open_stack(null / "particles.mrcs"))), predicted(null)
    assert float(signal.var((1, 2), correction=0).mean()) == pytest.approx(1.0, rel=1e-4)  # snr, as noise has 1
    noise = images - signal
    # 819,200 values: the standard error of a variance of 1 is sqrt(2 / n) = 0.0016
    assert float(noise.var()) == pytest.approx(1.0, abs=0.008)
    assert abs(float((noise * signal).mean())) < 0.006


def test_the_noise_is_white(null):
    noise = torch.from_numpy(np.array(open_stack(null / "particles.mrcs"))) - predicted(null)
    power = ring_means(to_fourier(noise).abs().square(), 64).mean(0) / 64**2
    # ring 1 has 8 coefficients in each of 200 images, so about 4 independent: 1 / sqrt(800) = 0.035
    torch.testing.assert_close(power[1:], torch.ones(32), rtol=0, atol=0.15)


def test_a_noiseless_image_is_the_projection_at_its_written_pose_ctf_and_shift(tmp_path):
    folder = run(tmp_path, particles=16, snr=1e10, **STILL)
    images, expected = torch.from_numpy(np.array(open_stack(folder / "particles.mrcs"))), predicted(folder)
    error = (images - expected).square().mean((1, 2)) / expected.square().mean((1, 2))
    assert float(error.max()) < 1e-6  # a sign, an axis or half a pixel wrong gives more than 1e-2


def test_the_written_shift_centres_the_image(tmp_path):
    """Without a CTF an image's centre of mass is the molecule's, which stands at minus the shift (RELION)."""
    no_ctf = {"defocus_low": 0, "defocus_high": 0, "astigmatism": 0, "spherical_aberration": 0, "amplitude_contrast": 1}
    folder = run(tmp_path, particles=16, snr=1e10, **STILL, **no_ctf)
    images, said = (
        np.array(open_stack(folder / "particles.mrcs"), float),
        interpret(read_star(folder / "particles.star")),
    )
    grid = np.arange(64) - 32
    total = images.sum((1, 2))
    seen = np.stack([(images * grid).sum((1, 2)), (images * grid[:, None]).sum((1, 2))], axis=1) / total[:, None] * 4.0
    states = read_states(folder / "states.npz")
    mass = states.mixture.amplitude[0].double()
    centroid = (states.mixture.center[0].double() * mass[:, None]).sum(0) / mass.sum()
    view = euler_to_matrix(torch.from_numpy(said.angles)) @ centroid
    assert np.abs(said.shift).mean() > 3  # the test would not see much otherwise
    np.testing.assert_allclose(seen + said.shift, view[:, :2].numpy(), atol=0.05)


def test_files_are_what_a_user_of_relion_has(moving):
    star = read_star(moving / "particles.star")
    assert star.optics is not None and len(star) == 500
    assert star.particles["rlnImageName"][6] == f"000007@{moving / 'particles.mrcs'}"
    assert open_stack(moving / "particles.mrcs").shape == (500, 32, 32)
    defocus = np.stack([numbers(star, "rlnDefocusU"), numbers(star, "rlnDefocusV")])
    assert 7850 < defocus.min() < 9000 and 24000 < defocus.max() < 25150
    assert (defocus[0] - defocus[1]).min() > 0 and 250 < (defocus[0] - defocus[1]).max() <= 300
    assert np.bincount(numbers(star, "rlnRandomSubset").astype(int)).tolist() == [0, 250, 250]
    said = interpret(star)
    assert float(said.ctf.voltage[0]) == 300e3 and float(said.ctf.spherical_aberration[0]) == pytest.approx(2.7e7)
    assert said.shift.std() == pytest.approx(0.5 * 8.0, rel=0.1)


def test_views_are_uniform(moving):
    angles = interpret(read_star(moving / "particles.star")).angles
    # the third axis is uniform on the sphere: its z is uniform in [-1, 1], with mean 0 and variance 1/3
    height = np.cos(angles[:, 1])
    assert abs(height.mean()) < 4 / np.sqrt(3 * 500)
    assert height.var() == pytest.approx(1 / 3, abs=4 * np.sqrt(4 / 45 / 500))


def test_the_truth_has_the_swing_the_occupancy_and_the_written_pose(moving):
    truth, star = pd.read_csv(moving / "truth.csv"), read_star(moving / "particles.star")
    assert truth["particle"].tolist() == list(range(500))
    assert truth["swing"].between(-30, 30).all()
    assert truth["swing"].std() == pytest.approx(60 / np.sqrt(12), rel=0.1)
    assert abs(truth["occupied"].mean() - 0.5) < 4 * 0.5 / np.sqrt(500)
    assert set(truth["occupied"]) == {0, 1}
    assert abs(np.corrcoef(truth["swing"], truth["occupied"])[0, 1]) < 4 / np.sqrt(500)
    np.testing.assert_allclose(truth["tilt"], numbers(star, "rlnAngleTilt"), atol=1e-4)
    np.testing.assert_allclose(truth["origin_y"], numbers(star, "rlnOriginYAngst"), atol=1e-4)


def test_images_show_their_own_state_better_than_any_other(tmp_path):
    """Nearly without noise, the nearest state of the grid explains each image best: swing and occupancy are right."""
    folder = run(tmp_path, particles=24, snr=1e6, states=7)
    states, said = read_states(folder / "states.npz"), interpret(read_star(folder / "particles.star"))
    truth = pd.read_csv(folder / "truth.csv")
    transform = to_fourier(torch.from_numpy(np.array(open_stack(folder / "particles.mrcs"))))
    optics = evaluate(said.ctf, 64, 4.0) * shift_phases(torch.from_numpy(said.shift).float(), 64, 4.0)
    rotation = euler_to_matrix(torch.from_numpy(said.angles)).float()
    residuals = []
    for state in range(len(states)):
        mixture = Mixture(states.mixture.center[state], states.mixture.amplitude[state], states.mixture.width[state])
        residuals.append((transform - optics * project(mixture, rotation, 64, 4.0)).abs().square().sum((1, 2)))
    best = torch.stack(residuals).argmin(0)
    assert torch.equal(states.occupied[best], torch.tensor(truth["occupied"], dtype=torch.float32))
    # half of the grid's 10 degrees, and a little as the residual is no parabola
    assert np.abs(states.swing[best].numpy() - truth["swing"].to_numpy()).max() < 6


def test_the_arm_swings_as_a_rigid_body_about_the_hinge_and_the_rest_stands():
    molecule = read_molecule(MODEL, Options())
    swung = molecule.at(torch.tensor([-30.0, 0.0, 30.0]), torch.tensor([1.0, 0.0, 1.0]))
    rest = molecule.beads.center
    assert torch.equal(swung.center[:, ~molecule.moving], rest[~molecule.moving].expand(3, -1, -1))
    torch.testing.assert_close(swung.center[1], rest)
    arm = swung.center[:, molecule.moving] - molecule.hinge
    torch.testing.assert_close(arm.norm(dim=-1), arm[1].norm(dim=-1).expand(3, -1))
    assert float((rest[molecule.moving] - molecule.hinge).norm(dim=-1).min()) < 1e-9  # the hinge is a bead of the arm
    # seen along the axis the arm turns from -30 to 30 degrees, right-handed
    first, last = arm[0].mean(0), arm[2].mean(0)
    assert abs(float(first @ molecule.axis)) < 1e-6
    sine = torch.linalg.cross(first, last) @ molecule.axis / (first.norm() * last.norm())
    assert float(sine) == pytest.approx(np.sin(np.deg2rad(60)), abs=1e-6)
    assert (arm[2] - arm[0]).norm(dim=-1).max() > 60  # Å: the tip goes far
    torch.testing.assert_close(swung.amplitude[0], molecule.beads.amplitude)
    assert torch.equal(swung.amplitude[1] == 0, molecule.optional)


def test_nothing_clashes_in_the_whole_swing():
    molecule = read_molecule(MODEL, Options())
    swung = molecule.at(torch.linspace(-30, 30, 13), torch.ones(13)).center
    for center in swung:
        assert torch.cdist(center[molecule.moving], center[~molecule.moving]).min() > 3.5  # Å between residues


def test_the_map_is_the_mean_of_the_particles_structures(moving):
    states, truth = read_states(moving / "states.npz"), pd.read_csv(moving / "truth.csv")
    present = truth["occupied"].mean()
    amplitude = states.mixture.amplitude
    full, without = amplitude[states.occupied == 1][0].sum(), amplitude[states.occupied == 0][0].sum()
    density = read_map(moving / "map.mrc")
    assert density.pixel_size == pytest.approx(8.0)
    # the Gaussians' tails inside the box, sampled at 8 Å: the sum over voxels is within a percent
    assert float(density.voxels.sum()) == pytest.approx(float(present * full + (1 - present) * without), rel=0.01)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    contents = []
    for seed in (3, 3, 4):
        folder = run(tmp_path / "simulated", particles=20, seed=seed)
        contents.append({name: (folder / name).read_bytes() for name in FILES})
    assert contents[0] == contents[1]
    assert all(contents[0][name] != contents[2][name] for name in FILES)
    assert "000001@simulated/particles.mrcs" in contents[0]["particles.star"].decode()
    assert sorted(path.name for path in (tmp_path / "simulated").iterdir()) == sorted(FILES)


def test_poses_ctf_and_half_sets_can_be_those_of_a_star_file(moving, tmp_path):
    folder = run(tmp_path, star=moving / "particles.star", particles=20, seed=9)
    before, after = read_star(moving / "particles.star"), read_star(folder / "particles.star")
    assert len(after) == 20  # every 25th of 500: a file may be sorted by view
    for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnDefocusV", "rlnRandomSubset"):
        np.testing.assert_allclose(numbers(after, name), numbers(before, name)[::25], rtol=1e-5, atol=1e-4)


def test_without_motion_the_chains_need_not_exist(tmp_path):
    folder = run(tmp_path, particles=8, moving="X", optional="Y", **STILL)
    states = read_states(folder / "states.npz")
    assert len(states) == 1 and states.swing.tolist() == [0] and states.occupied.tolist() == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"moving": "Q"}, r"demo_molecule\.cif: --moving Q finds no residue; the chains are A/1-\d+, B/1-\d+, C/1-\d+"),
        ({"optional": "Q"}, r"demo_molecule\.cif: --optional Q finds no residue"),
        ({"optional": "C/9001-9002"}, r"--optional C/9001-9002 finds no residue"),
        ({"optional": "C/x"}, r"--optional C/x: no selection such as A or A/220-334"),
    ],
)
def test_a_part_that_is_not_there_is_refused(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        run(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_domain_of_a_chain_can_be_what_is_optional():
    molecule = read_molecule(MODEL, Options(optional="C/11-20"))
    chains = [(chain.name, residue.seqid.num) for chain in gemmi.read_structure(str(MODEL))[0] for residue in chain]
    assert molecule.optional.tolist() == [chain == "C" and 11 <= number <= 20 for chain, number in chains]
    assert int(molecule.optional.sum()) == 10
    with_and_without = molecule.at(torch.zeros(2), torch.tensor([1.0, 0.0])).amplitude
    assert torch.equal(with_and_without[0] != with_and_without[1], molecule.optional)


def test_a_model_outside_the_box_is_refused(tmp_path):
    with pytest.raises(InputError, match="beyond its half edge of 64 Å"):
        run(tmp_path / "out", box=32)
    structure = gemmi.read_structure(str(MODEL))
    for site in structure[0].all():
        site.atom.pos += gemmi.Position(200, 0, 0)
    structure.make_mmcif_document().write_file(str(tmp_path / "far.cif"))
    with pytest.raises(InputError, match=r"far\.cif: residues lie up to"):
        run(tmp_path / "out", model=tmp_path / "far.cif")
    assert not (tmp_path / "out").exists()
