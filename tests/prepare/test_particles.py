"""The stage particles: the right images with the right rows, at the right place and scale, and nothing half-written."""

import json

import numpy as np
import pytest
import torch

from gaussemble.errors import InputError
from gaussemble.io.star import read_star
from gaussemble.io.store import open_store
from gaussemble.prepare.particles import Options, background, normalised, particles, prepared
from gaussemble.quantities import Particles
from made_particles import OPTICS, rows, write_mrc, write_star_text

SIZE, COUNT = 16, 9
AS_IS = {"normalise": False}


def _noise(count: int = COUNT, size: int = SIZE) -> np.ndarray:
    """Images of noise with a mean, brighter in the middle, each with its own scale."""
    source = np.random.default_rng(0)
    scale = np.arange(1, count + 1)[:, None, None]
    return (scale * (source.standard_normal((count, size, size)) + 3)).astype("f4")


@pytest.fixture
def make(tmp_path):
    """Makes a data set and imports it into a folder of its own."""

    def run(images: np.ndarray | None = None, split: str = "full", columns: dict | None = None, **options):
        images = _noise() if images is None else images
        write_mrc(tmp_path / "stack.mrcs", images, 1.5)
        optics = OPTICS | {"rlnImageSize": [str(images.shape[-1])]}
        star = write_star_text(tmp_path / "in.star", rows(len(images), **(columns or {})), optics)
        out = tmp_path / split
        particles(star=star, out=out, split=split, options=Options(**options))
        return out

    return run


def test_images_are_stored_as_they_are_in_the_order_of_rows(make):
    store = open_store(make(**AS_IS))
    assert np.array_equal(store.read(slice(None)), _noise())
    assert store.pixel_size == 1.5


def test_what_is_known_of_each_particle_is_stored(make):
    known: Particles = open_store(make(**AS_IS)).particles
    assert known.particle.tolist() == list(range(COUNT))
    assert torch.allclose(known.shift[2], torch.tensor([1.0, -0.5]))
    assert known.ctf.defocus_u.tolist() == [10000 + i for i in range(COUNT)]
    # row 2: rot 20, tilt 10, psi -40 degrees. The view's z axis, in the volume, is (sin t cos r, sin t sin r, cos t).
    rot, tilt = np.deg2rad([20, 10])
    axis = [np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)]
    assert torch.allclose(known.rotation[2, 2], torch.tensor(axis).float(), atol=1e-6)


@pytest.mark.parametrize(("size", "box"), [(16, 9), (16, 10), (17, 9), (17, 10)])
def test_cropping_keeps_scale_and_place(size, box):
    """A Gaussian that both samplings resolve: its values at the new pixels, at the same distance from pixel D//2."""
    width, place = 2.0, (1.7, -2.3)  # in pixels of the stack, (y, x) from the origin

    def gaussian(count: int, pixel: float) -> torch.Tensor:
        axis = (torch.arange(count) - count // 2) * pixel
        y, x = axis[:, None] - place[0], axis[None, :] - place[1]
        return torch.exp(-(x**2 + y**2) / (2 * width**2))

    stored, _ = prepared(gaussian(size, 1.0)[None], box, Options(**AS_IS))
    # at the new Nyquist the Gaussian's transform is down to 2e-3, at the box's edge the Gaussian itself to 1e-2;
    # half a pixel off would be 0.2
    assert (stored[0] - gaussian(box, size / box)).abs().max() < 0.02


def test_the_stored_pixel_size_keeps_the_field_of_view(make):
    out = make(box=10)
    store = open_store(out)
    assert store.images.shape == (COUNT, 10, 10)
    assert store.box * store.pixel_size == pytest.approx(SIZE * 1.5)
    report = json.loads((out / "report.json").read_text())
    assert (report["box"], report["image_size"], report["image_pixel_size"]) == (10, SIZE, 1.5)
    assert report["pixel_size"] == pytest.approx(2.4)


def test_background_has_mean_0_and_deviation_1_at_the_working_box(make):
    images = _noise(size=32) + 100 * (~background(32, 0.9)).numpy()  # what is inside must not count
    stored = open_store(make(images.astype("f4"), box=20)).read(slice(None))
    outside = stored[:, background(20, 0.9)]
    assert torch.allclose(outside.mean(1), torch.zeros(COUNT), atol=1e-5)
    assert torch.allclose(outside.std(1, correction=0), torch.ones(COUNT), atol=1e-5)


def test_normalising_does_not_depend_on_scale_and_offset():
    images = torch.from_numpy(_noise())
    outside = background(SIZE, 0.8)
    assert torch.allclose(normalised(images, outside), normalised(5 * images - 7, outside), atol=1e-4)


def test_background_is_outside_a_circle_round_the_origin():
    outside = background(8, 0.75)  # radius 3
    assert not outside[4, 1:8].any()
    assert not outside[1:8, 4].any()
    assert outside[4, 0]
    assert outside[2, 1]  # distance sqrt(13)


def test_invert_changes_the_sign(make):
    assert np.array_equal(open_store(make(invert=True, **AS_IS)).read(slice(None)), -_noise())


def test_the_halves_are_every_row_once(make):
    stores = {split: open_store(make(split=split, **AS_IS)) for split in ("even", "odd")}
    assert stores["even"].particles.particle.tolist() == [0, 2, 4, 6, 8]
    assert stores["odd"].particles.particle.tolist() == [1, 3, 5, 7]
    for offset, store in enumerate(stores.values()):
        assert np.array_equal(store.read(slice(None)), _noise()[offset::2])


def test_the_halves_of_the_refinement_may_be_kept(make):
    subset = {"rlnRandomSubset": ["2", "1", "1", "2", "2", "1", "2", "2", "1"]}
    options = {"columns": subset, "halves": "random_subset", **AS_IS}
    assert open_store(make(split="even", **options)).particles.particle.tolist() == [1, 2, 5, 8]
    assert open_store(make(split="odd", **options)).particles.particle.tolist() == [0, 3, 4, 6, 7]
    with pytest.raises(InputError, match=r"row 3 .*rlnRandomSubset is 0, expected 1 or 2"):
        make(split="even", halves="random_subset", columns={"rlnRandomSubset": [1, 2, 1, 0, 1, 2, 1, 2, 1]})
    with pytest.raises(InputError, match=r"no column rlnRandomSubset; set particles\.halves to rows"):
        make(split="even", halves="random_subset")


def test_the_written_star_is_the_split_s_rows_with_all_columns(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = read_star(make(split="odd", columns={"rlnGroupName": "001"}).parent / "in.star")
    after = read_star(tmp_path / "odd" / "particles.star")
    assert after.particles.equals(before.particles.iloc[1::2].reset_index(drop=True))
    assert after.optics.equals(before.optics)


def test_the_written_star_leads_to_the_same_images(make, tmp_path):
    """Paths resolved from the STAR file's folder become ones that resolve from anywhere."""
    out = make(split="odd", **AS_IS)
    particles(star=out / "particles.star", out=tmp_path / "again", split="full", options=Options(**AS_IS))
    assert np.array_equal(open_store(tmp_path / "again").images, open_store(out).images)


def test_blocks_do_not_show(make, monkeypatch):
    whole = open_store(make(box=10)).read(slice(None))
    monkeypatch.setattr("gaussemble.prepare.particles.BLOCK_BYTES", 2 * 4 * SIZE**2)  # two images
    assert torch.allclose(open_store(make(box=10)).read(slice(None)), whole, atol=1e-6)


def _damaged(**rows_of: int) -> np.ndarray:
    """Noise with an unusable image of each kind."""
    images = _noise()
    for kind, row in rows_of.items():
        if kind == "nan":
            images[row, 3, 3] = np.nan
        elif kind == "constant":
            images[row] = 5
        else:
            images[row][background(SIZE, 0.9).numpy()] = 0
    return images


@pytest.mark.parametrize(
    ("kind", "message"), [("nan", "NaN"), ("constant", "all pixels are equal"), ("masked", "background is constant")]
)
def test_an_unusable_image_stops_the_run_and_leaves_nothing(make, tmp_path, kind, message):
    with pytest.raises(InputError, match=rf"5@.*stack\.mrcs \(row 4 from 0\): .*{message}.*particles.max_bad allows 0"):
        make(_damaged(**{kind: 4}))
    assert not list((tmp_path / "full").iterdir())


def test_left_out_particles_are_listed_and_keep_no_row(make):
    out = make(_damaged(nan=4, constant=7), max_bad=2, **AS_IS)
    left = [0, 1, 2, 3, 5, 6, 8]
    store = open_store(out)
    assert store.particles.particle.tolist() == left
    assert np.array_equal(store.read(slice(None)), _noise()[left])
    assert len(read_star(out / "particles.star")) == 7
    report = json.loads((out / "report.json").read_text())
    assert [(one["row"], one["reason"]) for one in report["left_out"]] == [
        (4, "a pixel is NaN or infinite"),
        (7, "all pixels are equal"),
    ]
    assert (report["particles"], report["particles_in_file"]) == (7, 9)
    with pytest.raises(InputError, match=r"2 unusable images so far, particles\.max_bad allows 1"):
        make(_damaged(nan=4, constant=7), max_bad=1)


def test_an_unusable_image_of_the_other_half_does_not_matter(make):
    assert len(open_store(make(_damaged(nan=4), split="odd"))) == 4


def test_wrong_sizes_are_refused(make, tmp_path):
    with pytest.raises(InputError, match=r"particles\.box, 17, is larger.*at most 16"):
        make(box=17)
    star = write_star_text(tmp_path / "b.star", rows(3), OPTICS | {"rlnImageSize": ["32"]})
    with pytest.raises(InputError, match=r"b\.star: the optics table says images of 32 pixels, .*stack\.mrcs has 16"):
        particles(star=star, out=tmp_path / "out", split="full", options=Options())
    assert not (tmp_path / "out").exists()


def test_a_half_without_particles_is_refused(make):
    with pytest.raises(InputError, match="no particle is in the odd half"):
        make(_noise(1), split="odd")


def test_a_header_of_another_pixel_size_is_said(make, capsys):
    report = json.loads((make(pixel_size=2.0) / "report.json").read_text())
    assert report["pixel_size"] == 2.0
    assert any("header" in sentence and "1.5 Å" in sentence for sentence in report["assumed"])
    assert "2 Å is used" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["full", "even"])
def test_the_same_image_in_two_rows_is_refused(make, split):
    """It would stand in both halves, which then agree by its noise."""
    names = [f"{number:06d}@stack.mrcs" for number in range(1, COUNT)] + ["3@stack.mrcs"]
    with pytest.raises(InputError, match=r"rows 2 and 8 \(from 0\) are the same image 3@stack\.mrcs"):
        make(columns={"rlnImageName": names}, split=split)
