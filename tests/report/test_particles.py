"""Figures of the particles: the numbers they show, and images that agree with a map only where all is right."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from gaussemble.io.mrc import write_map
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import to_fourier, to_real
from gaussemble.physics.projection import mixture_to_map, project, shift_phases
from gaussemble.quantities import Map
from gaussemble.report import particles as figures
from gaussemble.report.matching import (
    AS_GIVEN,
    Sample,
    compare,
    correlation,
    pictures,
    without_spherical_mean,
)
from made_results import BOX, PIXEL, make_particles
from made_store import PIXEL as STORE_PIXEL
from made_store import lopsided, make_store
from made_store import make_particles as random_particles

COUNT = 200
SNR = 0.3  # of a pixel: the mean correlation of right images is near sqrt(SNR / (1 + SNR)), that of wrong ones near 0


@pytest.fixture
def sample(generator) -> Sample:
    """Images of a known mixture with noise, and its map twice."""
    known, mixture = random_particles(COUNT, generator), lopsided()
    clean = project(mixture, known.rotation, BOX, PIXEL) * shift_phases(known.shift, BOX, PIXEL)
    images = to_real(clean * evaluate(known.ctf, BOX, PIXEL), BOX)
    images = images + float(images.std()) / SNR**0.5 * torch.randn(images.shape, generator=generator)
    voxels = mixture_to_map(mixture, BOX, PIXEL)
    return Sample(images, known, torch.stack([voxels, voxels]), torch.arange(COUNT) % 2, PIXEL)


def compared(sample: Sample) -> pd.Series:
    return compare(sample).set_index("comparison")["correlation"]


def test_right_particles_agree_with_the_map_and_the_others_less(sample):
    table = compare(sample).set_index("comparison")
    right = table.loc[AS_GIVEN, "correlation"]
    assert right > 0.3
    others = table.drop(index=AS_GIVEN)["correlation"]
    assert others.max() < right
    # little of this mixture lies beyond the first zero of the CTF, so that flipped phases are nearly as good
    assert others.drop(index="as if phase-flipped").max() < right - 5 * table.loc[AS_GIVEN, "error"]
    shuffled = table.loc["views and shifts of other particles"]
    assert abs(shuffled["correlation"]) < 4 * shuffled["error"]
    assert shuffled["error"] < 0.03


def test_inverted_contrast_is_negative(sample):
    assert compared(dataclasses.replace(sample, images=-sample.images))[AS_GIVEN] == pytest.approx(
        -compared(sample)[AS_GIVEN]
    )


def test_shuffled_poses_agree_as_little_as_those_of_other_particles(sample):
    other = torch.arange(COUNT).roll(7)
    known = dataclasses.replace(
        sample.particles, rotation=sample.particles.rotation[other], shift=sample.particles.shift[other]
    )
    assert abs(compared(dataclasses.replace(sample, particles=known))[AS_GIVEN]) < 0.05


def test_reversed_shifts_and_phase_flipped_images_are_told(sample):
    known = dataclasses.replace(sample.particles, shift=-sample.particles.shift)
    found = compared(dataclasses.replace(sample, particles=known))
    assert found.idxmax() == "shifts reversed"
    sign = evaluate(sample.particles.ctf, BOX, PIXEL).sign()
    flipped = to_real(to_fourier(sample.images) * sign, BOX)
    assert compared(dataclasses.replace(sample, images=flipped)).idxmax() == "as if phase-flipped"


def test_each_image_is_held_against_its_own_map(sample):
    right = compared(sample)[AS_GIVEN]
    one_wrong = torch.stack([sample.maps[0], -sample.maps[0]])
    half = dataclasses.replace(sample, maps=one_wrong)
    assert abs(compared(half)[AS_GIVEN]) < 0.1 * right
    assert compared(dataclasses.replace(half, which=torch.zeros(COUNT, dtype=torch.long)))[AS_GIVEN] == pytest.approx(
        right
    )


def test_pictures_put_the_particle_where_the_image_has_it(sample):
    """Without noise the expectation is the image; the corrected image is the projection at the middle."""
    transform = sample.projections(sample.particles.rotation) * sample.ctf
    transform = transform * shift_phases(sample.particles.shift, BOX, PIXEL)
    shown = pictures(dataclasses.replace(sample, images=to_real(transform, BOX)), 20.0)
    torch.testing.assert_close(shown["image"], shown["expectation"], rtol=0, atol=1e-4 * float(shown["image"].max()))
    # the corrected image lacks what the CTF has taken away, but it is best where it is: a pixel off in any way is worse
    corrected, projection = to_fourier(shown["corrected"]), to_fourier(shown["projection"])
    alike = correlation(corrected, projection)
    assert alike.median() > 0.8
    for step in torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]) * PIXEL:
        moved = corrected * shift_phases(step.expand(COUNT, 2), BOX, PIXEL)
        assert (correlation(moved, projection) < alike).float().mean() > 0.95


def test_a_sample_is_read_with_the_other_half_map_at_any_box(generator, tmp_path):
    """A smaller box has less noise and the same signal; half a pixel between images and maps would cost a third."""
    folder = tmp_path / "full"
    make_store(folder / "particles", generator, COUNT, SNR, absent=torch.zeros(COUNT, dtype=torch.bool))
    frame = Map(mixture_to_map(lopsided(), BOX, STORE_PIXEL), STORE_PIXEL)
    for name, voxels in {"half1": frame.voxels, "half2": frame.voxels, "mask": torch.ones(BOX, BOX, BOX)}.items():
        write_map(folder / "consensus" / f"{name}.mrc", frame.with_voxels(voxels))
    rows, which = np.arange(COUNT)[::-1].copy(), np.arange(COUNT) % 2
    found = {box: compared(figures.read_sample(tmp_path, rows, ["half1", "half2"], which, box)) for box in (32, 25, 24)}
    right = pd.Series({box: values[AS_GIVEN] for box, values in found.items()})
    assert right[32] > 0.3
    assert right[25] > right[32]
    assert right[24] == pytest.approx(right[25], rel=0.1)
    assert all(values.idxmax() == AS_GIVEN for values in found.values())


def test_the_spherical_mean_is_taken_away(generator):
    voxels = torch.rand(12, 12, 12, generator=generator)
    rest = without_spherical_mean(voxels)
    assert rest[6, 6, 6].abs() < 1e-6  # the shell of one voxel
    torch.testing.assert_close(rest[6, 6, 8] - rest[6, 8, 6], voxels[6, 6, 8] - voxels[6, 8, 6])
    axis = torch.arange(12) - 6
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt().round()
    assert without_spherical_mean(torch.cos(radius)).abs().max() < 1e-5


# ---- The figures


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The particles alone."""
    folder = tmp_path_factory.mktemp("results")
    make_particles(folder / "full" / "particles", "full", np.arange(300), 300)
    return folder


def test_histograms_count_every_particle_once_in_its_group(results):
    table = figures.particles_defocus(results, "main").table
    counts = table.groupby(["quantity", "optics_group"])["particles"].sum()
    assert counts.unstack().to_numpy().tolist() == [[210, 90], [210, 90]]
    known = figures.known_particles(results)
    defocus = table[table["quantity"] == "defocus (µm)"]
    assert defocus["from"].min() == pytest.approx((known["defocus_u"] + known["defocus_v"]).min() / 2e4, rel=1e-5)


def test_copies_are_drawn_once(results, tmp_path):
    folder = tmp_path / "full" / "particles"
    folder.mkdir(parents=True)
    with np.load(results / "full" / "particles" / "particles.npz") as arrays:
        twice = {name: np.repeat(array, 2, axis=0) if array.ndim else array for name, array in arrays.items()}
    np.savez(folder / "particles.npz", **twice)
    copies, plain = figures.known_particles(tmp_path), figures.known_particles(results)
    np.testing.assert_array_equal(copies["shift"], plain["shift"])
    np.testing.assert_array_equal(copies["row"], 2 * plain["row"])


def test_shifts_are_counted_where_they_are(results):
    table = figures.particles_offsets(results, "main").table
    shift = figures.known_particles(results)["shift"]
    assert table["particles"].sum() == len(shift)
    for axis, column in enumerate("xy"):
        mean = np.average(table[column], weights=table["particles"])
        assert mean == pytest.approx(shift[:, axis].mean(), abs=0.2)


def test_even_views_have_density_one_and_one_view_stands_where_it_points():
    rng = np.random.default_rng(0)
    axis = rng.normal(size=(20_000, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    density, width = figures.view_density(axis, axis[:500])
    assert density.mean() == pytest.approx(1, abs=0.05)
    assert density.std() < 0.25  # forty views at each point
    assert width == 4
    one = np.tile([[0.0, 0.6, 0.8]], (40, 1))
    at, _ = figures.view_density(one, np.array([[0, 0.6, 0.8], [0, 0.6, -0.8], [0, -0.6, 0.8]]))
    assert at[0] > 15  # 2 / width²: 16.4 at 20 degrees
    assert at[1:].max() < 0.1


def test_density_is_a_density_over_the_sphere(results):
    table = figures.particles_views(results, "main").table
    weight = np.sin(np.deg2rad(table["tilt"]))
    assert np.average(table["density"], weights=weight) == pytest.approx(1, abs=0.03)
    side = table["tilt"].between(80, 100)
    assert table["density"][side].mean() > 1.5  # how they were made
    assert table["density"][table["tilt"] < 30].mean() < 0.7


def test_examples_are_spread_over_defocus(results):
    known = figures.known_particles(results)
    rows = figures.example_rows(known)
    defocus = known["defocus_u"] + known["defocus_v"]
    assert len(set(rows)) == figures.EXAMPLES
    assert (np.diff(defocus[rows]) >= 0).all()
    share = np.array([(defocus < value).mean() for value in defocus[rows]])
    np.testing.assert_allclose(share, (np.arange(6) + 0.5) / 6, atol=0.01)


def test_without_a_ctf_there_is_no_histogram(results, tmp_path):
    folder = tmp_path / "full" / "particles"
    folder.mkdir(parents=True)
    with np.load(results / "full" / "particles" / "particles.npz") as arrays:
        changed = dict(arrays) | {"amplitude_contrast": np.ones(300), "defocus_u": np.zeros(300)}
    np.savez(folder / "particles.npz", **changed)
    assert "without a CTF" in figures.particles_defocus(tmp_path, "main").figure.texts[0].get_text()
