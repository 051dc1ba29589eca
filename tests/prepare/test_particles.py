"""The stage particles: the right images with the right rows, at the right place and scale, and nothing half-written."""

import json

import numpy as np
import pytest
import torch

from gaussemble.errors import InputError
from gaussemble.io.images import ParticleImages
from gaussemble.io.mrc import open_stack, write_map
from gaussemble.io.star import numbers, read_star
from gaussemble.io.store import ImageWriter, open_store
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import frequencies, to_fourier, to_real
from gaussemble.physics.projection import mixture_to_map, project, shift_phases
from gaussemble.physics.rotations import euler_to_matrix, matrix_to_euler
from gaussemble.prepare.particles import Options, particles
from gaussemble.prepare.pixels import background, described, normalised
from gaussemble.prepare.whitening import background_power, soft_background
from gaussemble.quantities import Map, Particles
from made_particles import OPTICS, rows, write_mrc, write_star_text
from made_store import BOX, PIXEL, lopsided, make_particles

SIZE, COUNT = 16, 9
SAME_POSE = {
    name: "7.5" for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")
}
AS_IS = {"normalise": False, "contrast": "white"}


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


@pytest.mark.parametrize("offset", [0.0, 3.0, 30.0, 1e4])
def test_images_are_described_whatever_their_mean(offset):
    images = (offset + _noise()).astype("f4")
    statistics, finite, constant = described(torch.from_numpy(images), images)
    assert np.allclose(statistics[:, 0], images.mean((1, 2), dtype=np.float64), rtol=1e-5)
    assert np.allclose(statistics[:, 1], images.std((1, 2), dtype=np.float64), rtol=1e-3)
    assert finite.all()
    assert not constant.any()
    images[1], images[2, 0, 3], images[3, 0, 5], images[4, 0, 7], images[5] = offset, np.nan, np.inf, 1e30, 0
    statistics, finite, constant = described(torch.from_numpy(images), images)
    assert np.flatnonzero(~finite).tolist() == [2, 3]
    assert np.flatnonzero(constant).tolist() == [1, 5]
    assert statistics[4, 1] == pytest.approx(1e30 / SIZE, rel=0.01)


def test_background_is_outside_a_circle_round_the_origin():
    outside = background(8, 0.75)  # radius 3
    assert not outside[4, 1:8].any()
    assert not outside[1:8, 4].any()
    assert outside[4, 0]
    assert outside[2, 1]  # distance sqrt(13)


def test_dark_protein_becomes_bright(make):
    assert np.array_equal(open_store(make(**AS_IS | {"contrast": "black"})).read(slice(None)), -_noise())


def test_the_halves_are_every_row_once(make):
    stores = {split: open_store(make(split=split, **AS_IS)) for split in ("even", "odd")}
    assert stores["even"].particles.particle.tolist() == [0, 2, 4, 6, 8]
    assert stores["odd"].particles.particle.tolist() == [1, 3, 5, 7]
    for offset, store in enumerate(stores.values()):
        assert np.array_equal(store.read(slice(None)), _noise()[offset::2])
        assert store.half.tolist() == [0, 1, 0, 1, 0][: len(store)]
    assert open_store(make(**AS_IS)).half.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]


def test_the_halves_of_the_refinement_may_be_kept(make):
    subset = {"rlnRandomSubset": ["2", "1", "1", "2", "2", "1", "2", "2", "1"]}
    options = {"columns": subset, "halves": "random_subset", **AS_IS}
    assert open_store(make(split="even", **options)).particles.particle.tolist() == [1, 2, 5, 8]
    assert open_store(make(split="odd", **options)).particles.particle.tolist() == [0, 3, 4, 6, 7]
    full = open_store(make(split="full", **options))
    assert full.half.tolist() == [1, 0, 0, 1, 1, 0, 1, 1, 0]
    with pytest.raises(InputError, match=r"no particle is in the odd half .*set particles\.halves to rows"):
        make(columns={"rlnRandomSubset": "1"}, halves="random_subset")
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
    monkeypatch.setattr("gaussemble.prepare.storing.BLOCK_BYTES", 2 * 4 * SIZE**2)  # two images
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
    with pytest.raises(InputError, match=r"b\.star: the optics table says images of 32 pixels, .*stack\.mrcs .*has 16"):
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
    with pytest.raises(InputError, match=r"rows 2 and 8 \(from 0\) are the same image 3@.*stack\.mrcs in the same"):
        make(columns={"rlnImageName": names} | SAME_POSE, split=split)


def _shared(times: int = 3, count: int = 4) -> dict:
    """Image names of a file in which each image stands in several rows; every row has its own pose."""
    return {"rlnImageName": [f"{number // times + 1}@stack.mrcs" for number in range(times * count)]}


def _import_shared(tmp_path, split: str, columns: dict, **options):
    """Four images in twelve rows."""
    write_mrc(tmp_path / "stack.mrcs", _noise(4), 1.5)
    star = write_star_text(tmp_path / "in.star", rows(12, **columns))
    particles(star=star, out=tmp_path / split, split=split, options=Options(**AS_IS, **options))
    return open_store(tmp_path / split)


def test_a_symmetry_expanded_file_is_one_particle_an_image(tmp_path, capsys):
    store = _import_shared(tmp_path, "full", _shared())
    assert store.particles.particle.tolist() == [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9]
    assert store.half.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1]
    assert store.images.shape[0] == 4
    assert np.array_equal(store.read(slice(None)), np.repeat(_noise(4), 3, axis=0))
    assert "12 rows of 4 images, in different poses: taken as symmetry-expanded\n" in capsys.readouterr().err
    report = json.loads((tmp_path / "full" / "report.json").read_text())
    assert (report["particles"], report["rows"], report["particles_in_file"]) == (4, 12, 12)


def test_copies_of_an_image_never_part(tmp_path):
    for split, expected in (("even", [0, 0, 0, 6, 6, 6]), ("odd", [3, 3, 3, 9, 9, 9])):
        store = _import_shared(tmp_path, split, _shared())
        assert store.particles.particle.tolist() == expected
        assert store.half.tolist() == [0, 0, 0, 1, 1, 1]
        assert store.image.tolist() == [0, 0, 0, 1, 1, 1]
    subset = [2, 2, 2, 1, 1, 1, 1, 1, 1, 2, 2, 2]
    store = _import_shared(tmp_path, "even", _shared() | {"rlnRandomSubset": subset}, halves="random_subset")
    assert store.particles.particle.tolist() == [3, 3, 3, 6, 6, 6]
    subset[1] = 1
    with pytest.raises(InputError, match=r"row 1 .*rlnRandomSubset is 1, but another one in row 0 of the same image"):
        _import_shared(tmp_path, "even", _shared() | {"rlnRandomSubset": subset}, halves="random_subset")


def test_copies_need_not_stand_together(tmp_path):
    names = {"rlnImageName": [f"{number % 4 + 1}@stack.mrcs" for number in range(12)]}
    store = _import_shared(tmp_path, "odd", names)
    assert store.particles.particle.tolist() == [1, 3, 1, 3, 1, 3]
    assert np.array_equal(store.read(slice(None)), _noise(4)[[1, 3, 1, 3, 1, 3]])


def test_duplicates_are_suspected_where_some_images_stand_more_often(tmp_path, capsys):
    names = {"rlnImageName": [f"{number}@stack.mrcs" for number in (1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 3)]}
    store = _import_shared(tmp_path, "full", names)
    assert store.particles.particle.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 2]
    assert "taken as symmetry-expanded; they have 2 to 4 rows each, are there duplicates?" in capsys.readouterr().err


def test_one_row_twice_in_an_expanded_file_is_refused(tmp_path):
    columns = rows(12, **_shared())
    for name in columns:
        columns[name][10] = columns[name][9]
    with pytest.raises(InputError, match=r"rows 9 and 10 .*in the same pose, and so are 1 rows in all"):
        _import_shared(tmp_path, "full", columns)


@pytest.mark.parametrize("split", ["full", "odd"])
def test_expansion_copies_each_row_under_the_group(make, split):
    plain = open_store(make(split=split, **AS_IS))
    out = make(split=split, expand="c3", columns={"rlnGroupName": [f"g{i}" for i in range(COUNT)]}, **AS_IS)
    store, star = open_store(out), read_star(out / "particles.star")
    assert store.particles.particle.tolist() == plain.particles.particle.repeat_interleave(3).tolist()
    assert torch.equal(store.half, plain.half.repeat_interleave(3))
    assert np.array_equal(store.images, plain.images)
    assert np.array_equal(store.read(slice(None)), np.repeat(plain.images, 3, axis=0))
    seen = store.particles.rotation.view(-1, 3, 3, 3)
    assert torch.allclose(seen[:, 0], plain.particles.rotation, atol=1e-6)
    turns = plain.particles.rotation.mT[:, None] @ seen  # R^T R S: the operators, of 0 and 120 degrees about z
    assert torch.allclose(turns[:, 1:, 2, 2], torch.ones(len(plain), 2), atol=1e-5)
    assert torch.allclose(turns[:, 1:, 0, 0], torch.full((len(plain), 2), -0.5), atol=1e-5)
    assert star.particles["rlnGroupName"].tolist() == [f"g{i}" for i in plain.particles.particle for _ in range(3)]
    angles = torch.tensor(np.array([numbers(star, f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")])).deg2rad().T
    assert torch.allclose(euler_to_matrix(angles).float(), store.particles.rotation, atol=1e-5)  # row for row


def test_a_group_that_is_none_is_refused_before_anything_is_read(make):
    with pytest.raises(InputError, match="symmetry 'Q7' is not known"):
        make(expand="Q7")


def test_float16_halves_the_file_and_says_its_error(make):
    single, half = open_store(make(box=10)), make(box=10, precision="float16")
    store = open_store(half)
    assert store.images.dtype == np.float16
    found = store.read(slice(None))
    assert found.dtype == torch.float32
    difference = found - single.read(slice(None))
    # numbers of 11 bits are rounded by at most 2^-11 of themselves, and by 0.29 of that in the mean square
    assert (difference.abs() <= 2**-11 * single.read(slice(None)).abs() + 1e-7).all()
    stated = json.loads((half / "report.json").read_text())["storage_error"]
    assert stated == pytest.approx(
        float(difference.square().mean().sqrt() / found.std(dim=(1, 2)).square().mean().sqrt()), rel=0.05
    )
    assert 0 < stated < 2**-11
    with pytest.raises(InputError, match="float16 holds numbers up to 65504, an image has"):
        make(_noise() * 1e5, precision="float16", **AS_IS)


def _coloured(count: int, size: int) -> np.ndarray:
    """Noise whose power falls by 9 from the middle to the corners, with a bright disc in the middle."""
    white = torch.randn(count, size, size, generator=torch.Generator().manual_seed(0))
    radius = frequencies(size, 1.0).norm(dim=-1)
    disc = 3 * (~background(size, 0.5)).float()
    return (to_real(to_fourier(white) * torch.exp(-1.56 * radius), size) + disc).numpy()


@pytest.mark.parametrize("normalise", [True, False])
def test_whitening_makes_the_noise_flat(make, normalise):
    """The rings of the background's spectrum agree within 10 %: 40 images of 2,000 background pixels give 3 %, and
    the window smears the slope."""
    size, options = 64, {"contrast": "white", "normalise": normalise, "background_radius": 0.7}
    rings = {}
    for whiten in (False, True):
        out = make(_coloured(40, size), whiten=whiten, **options)
        power = background_power(open_store(out).read(slice(None)), soft_background(size, 0.7))[2:30]
        rings[whiten] = power / power.mean()
        assert json.loads((out / "report.json").read_text())["whitened"] is whiten
    assert rings[False].max() / rings[False].min() > 3
    assert (rings[True] - 1).abs().max() < 0.1


def test_whitening_does_not_go_with_a_map(make, tmp_path):
    star = make().parent / "in.star"
    with pytest.raises(InputError, match=r"particles\.whiten: the consensus map .*m\.mrc"):
        particles(star=star, out=tmp_path, split="full", map=tmp_path / "m.mrc", options=Options(whiten=True))


def _gaussian(size: int, pixel_size: float) -> np.ndarray:
    """Of 6 Å at (x, y) = (5, -3) Å, with enough variance outside to be normalised."""
    axis = (np.arange(size) - size // 2) * pixel_size
    return np.exp(-((axis - 5) ** 2 + (axis[:, None] + 3) ** 2) / (2 * 6.0**2))


def _two_groups(tmp_path, first: tuple[int, float], second: tuple[int, float], **options):
    """Three images of the first size, two of the second, interleaved."""
    sizes = [first, second, first, first, second]
    for name, (size, pixel_size), count in (("a", first, 3), ("b", second, 2)):
        scale = np.arange(1, count + 1)[:, None, None]
        write_mrc(tmp_path / f"{name}.mrcs", (scale * _gaussian(size, pixel_size)).astype("f4"), pixel_size)
    optics = {name: [value[0]] * 2 for name, value in OPTICS.items()} | {
        "rlnOpticsGroup": ["1", "2"],
        "rlnOpticsGroupName": ["fine", "wide"],
        "rlnImagePixelSize": [str(first[1]), str(second[1])],
        "rlnImageSize": [str(first[0]), str(second[0])],
    }
    table = rows(5, rlnImageName=["1@a.mrcs", "1@b.mrcs", "2@a.mrcs", "3@a.mrcs", "2@b.mrcs"])
    table["rlnOpticsGroup"] = ["1" if size == first else "2" for size in sizes]
    star = write_star_text(tmp_path / "in.star", table, optics)
    particles(star=star, out=tmp_path / "full", split="full", options=Options(**AS_IS, **options))
    return open_store(tmp_path / "full")


@pytest.mark.parametrize(("box", "expected"), [(None, 40), (31, 31)])
def test_groups_of_different_pixel_size_come_to_one_grid(tmp_path, capsys, box, expected):
    """The Gaussian's transform at the coarsest Nyquist, 1/5.2 per Å, is 2e-2 ** (6/2.6)² < 1e-5 of its middle."""
    store = _two_groups(tmp_path, (60, 1.5), (45, 2.2), box=box)
    assert (store.box, store.box * store.pixel_size) == (expected, pytest.approx(90))  # the smaller field, 60 x 1.5 Å
    for row, scale in enumerate([1, 1, 2, 3, 2]):
        assert np.abs(store.images[row] - scale * _gaussian(expected, 90 / expected)).max() < 1e-3 * scale
    assert store.particles.optics_group.tolist() == [0, 1, 0, 0, 1]
    report = json.loads((tmp_path / "full" / "report.json").read_text())
    assert (report["image_size"], report["image_pixel_size"]) == (60, 1.5)
    assert "images of 2 sizes (3 of 60 pixels of 1.5 Å" in capsys.readouterr().err


def test_a_larger_box_at_the_same_pixel_size_is_cut(tmp_path):
    store = _two_groups(tmp_path, (60, 1.5), (70, 1.5))
    assert (store.box, store.pixel_size) == (60, 1.5)
    for row, scale in enumerate([1, 1, 2, 3, 2]):
        assert np.abs(store.images[row] - scale * _gaussian(60, 1.5)).max() < 1e-5


def test_groups_that_cannot_be_brought_together_are_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"60 pixels of 1\.5 Å .*show 90 Å, but 100 pixels of 2 Å .*show 200 Å: too diff"
    ):
        _two_groups(tmp_path, (60, 1.5), (100, 2.0))
    with pytest.raises(InputError, match=r"particles\.box, 46, is larger .*45 pixels of 2\.2 Å.* at most 40"):
        _two_groups(tmp_path, (60, 1.5), (45, 2.2), box=46)


def _molecules(folder, generator, sign: int, count: int = 400, snr: float = 0.2):
    """A STAR file with a stack of a known mixture's images, in which molecules are bright (1), dark (-1) or not (0)."""
    known = make_particles(count, generator)
    transform = project(lopsided(), known.rotation, BOX, PIXEL) * evaluate(known.ctf, BOX, PIXEL)
    signal = to_real(transform * shift_phases(known.shift, BOX, PIXEL), BOX)
    images = sign * signal + float(signal.std()) / snr**0.5 * torch.randn(signal.shape, generator=generator)
    write_mrc(folder / "stack.mrcs", images.numpy(), PIXEL)
    angles = matrix_to_euler(known.rotation.double()).rad2deg().numpy()
    columns = {f"rlnAngle{name}": [f"{v:.6f}" for v in angles[:, i]] for i, name in enumerate(("Rot", "Tilt", "Psi"))}
    columns |= {f"rlnOrigin{name}Angst": [f"{v:.6f}" for v in known.shift[:, i]] for i, name in enumerate("XY")}
    columns |= {f"rlnDefocus{n}": [f"{v:.4f}" for v in getattr(known.ctf, f"defocus_{n.lower()}")] for n in "UV"}
    columns["rlnDefocusAngle"] = ["34.377468"] * count
    optics = OPTICS | {"rlnImagePixelSize": [str(PIXEL)], "rlnImageSize": [str(BOX)]}
    return write_star_text(folder / "in.star", rows(count, **columns), optics)


@pytest.mark.parametrize(("sign", "with_map"), [(1, False), (-1, False), (-1, True), (0, False)])
def test_dark_molecules_are_reversed_and_it_is_said(tmp_path, generator, capsys, sign, with_map):
    star = _molecules(tmp_path, generator, sign)
    given = tmp_path / "map.mrc" if with_map else None
    if given:
        write_map(given, Map(mixture_to_map(lopsided(), BOX, PIXEL), PIXEL))
    stored = {}
    for contrast in ("auto", "white"):
        for split in ("full", "even", "odd"):
            out = tmp_path / contrast / split
            particles(star=star, out=out, split=split, map=given, options=Options(contrast=contrast))
            stored[contrast, split] = open_store(out).read(slice(None))
            assert json.loads((out / "report.json").read_text())["contrast"]["sign"] == (
                sign or 1 if contrast == "auto" else 1
            )
    said = capsys.readouterr().err
    assert ("contrast reversed" in said) == (sign == -1)
    assert ("undecided; set particles.contrast" in said) == (sign == 0)
    for split in ("full", "even", "odd"):
        assert torch.equal(stored["auto", split], (sign or 1) * stored["white", split])


@pytest.mark.parametrize("sign", [1, -1])
def test_the_sign_is_found_in_images_whose_background_is_far_from_0(tmp_path, generator, sign):
    star = _molecules(tmp_path, generator, sign)
    raw = open_stack(tmp_path / "stack.mrcs")
    exposure = np.random.default_rng(0).normal(1000, 100, (len(raw), 1, 1)).astype("f4")  # each has its own
    write_mrc(tmp_path / "stack.mrcs", raw + exposure * raw.std(), PIXEL)
    particles(star=star, out=tmp_path / "out", split="full", options=Options(normalise=False))
    assert json.loads((tmp_path / "out/report.json").read_text())["contrast"]["sign"] == sign
    assert np.array_equal(open_store(tmp_path / "out").images, sign * open_stack(tmp_path / "stack.mrcs"))


def test_memory_does_not_grow_with_the_number_of_images(make, monkeypatch):
    """No more than a few blocks are held: with blocks of one image, as many are read as are written plus a few."""
    monkeypatch.setattr("gaussemble.prepare.storing.BLOCK_BYTES", 1)
    monkeypatch.setattr("gaussemble.prepare.storing.MOST_WORKERS", 2)
    counts, most = {"read": 0, "written": 0}, []
    read, append = ParticleImages.read, ImageWriter.append

    def counted_read(self, chosen):
        counts["read"] += len(chosen)
        return read(self, chosen)

    def counted_append(self, images):
        most.append(counts["read"] - counts["written"])
        counts["written"] += len(images)
        append(self, images)

    monkeypatch.setattr(ParticleImages, "read", counted_read)
    monkeypatch.setattr(ImageWriter, "append", counted_append)
    make(_noise(200))
    assert counts == {"read": 200, "written": 200}
    assert max(most) <= 8
