"""Back-projection: adjoint of extraction, Hermitian symmetry, absolute scale, hand, centre, CTF, classes."""

from dataclasses import replace

import pytest
import torch

from gaussemble.physics.backprojection import (
    IMAGES,
    _disc,
    _reach,
    divide,
    empty_sums,
    extract,
    half_disc,
    insert,
    project_map,
    reconstruct,
    sample,
    sums_bytes,
    volume_grid,
    volume_grids,
    weighted_slices,
    wiener_snr,
    with_mates,
)
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import to_real
from gaussemble.physics.masks import within_sphere
from gaussemble.physics.projection import mixture_to_map, project, shift_phases
from gaussemble.physics.rings import ring_multiplicity
from gaussemble.physics.rotations import random_rotations
from gaussemble.quantities import ContrastTransfer, Mixture, Particles

PIXEL = 4.0


def make_particles(count: int, generator: torch.Generator) -> Particles:
    def same(value: float) -> torch.Tensor:
        return torch.full((count,), value)

    defocus = 12000 + 10000 * torch.rand(count, generator=generator)
    ctf = ContrastTransfer(
        defocus, defocus - 400, same(0.6), same(300e3), same(2.7e7), same(0.1), same(0.0), same(0.0), same(1.0)
    )
    shift = 5 * torch.randn(count, 2, generator=generator)
    rotation = random_rotations(count, generator).float()
    return Particles(torch.arange(count), rotation, shift, ctf, torch.zeros(count, dtype=torch.long))


def make_images(mixture: Mixture, particles: Particles, box: int) -> torch.Tensor:
    transform = project(mixture, particles.rotation, box, PIXEL) * evaluate(particles.ctf, box, PIXEL)
    return to_real(transform * shift_phases(particles.shift, box, PIXEL), box)


@pytest.fixture
def mixture() -> Mixture:
    """Lopsided, without symmetry or hand of its own, Gaussians 1.5 voxels wide (nothing beyond Nyquist)."""
    center = torch.tensor([[30.0, 5, -12], [-18, 25, 14], [4, -33, 18], [-10, -7, -31], [12, 18, 26], [0, 0, 0]])
    return Mixture(center, torch.tensor([50.0, 80, 60, 90, 40, 70]), torch.full((6,), 6.0))


@pytest.mark.parametrize("box", [12, 13])
@pytest.mark.parametrize("padding", [1, 2])
def test_insert_is_the_adjoint_of_extract(box, padding, generator):
    rotation = random_rotations(7, generator).float()
    reach = _reach(box, padding)
    shape = (2 * reach + 1, 2 * reach + 1, reach + 1)
    grid = torch.complex(torch.randn(shape, generator=generator), torch.randn(shape, generator=generator))
    images = torch.complex(*torch.randn(2, 7, box, box // 2 + 1, generator=generator))
    images[:, 0, 0].imag.zero_()  # of a real image
    images[:, -torch.arange(1, (box + 1) // 2), 0] = images[:, torch.arange(1, (box + 1) // 2), 0].conj()

    sums = empty_sums(1, box, padding)
    pairs = torch.stack([torch.arange(7), torch.zeros(7, dtype=torch.long)], dim=-1)
    insert(sums, images, torch.ones(images.shape), rotation, pairs)
    inserted = torch.complex(sums.cells[0, ..., 0], sums.cells[0, ..., 1])

    # inner product of whole transforms: both of each Friedel pair, of which insert takes one
    slices = extract(grid, rotation, box, padding)
    in_images = (ring_multiplicity(box) * (images.conj() * slices).real).sum() / 2
    in_grid = (inserted.conj() * grid).real.sum()
    assert in_images.item() == pytest.approx(in_grid.item(), rel=1e-4)


@pytest.mark.parametrize("threads", [1, 3])
def test_slices_of_several_volumes_are_those_of_each_alone(threads, generator, monkeypatch):
    """Times the factor, and for more images than a thread takes."""
    box, padding, images = 12, 2, 3 * IMAGES + 2
    maps, rotation = torch.randn(3, box, box, box, generator=generator), random_rotations(images, generator).float()
    index, frequency = half_disc(box)
    factor = torch.randn(images, len(index), generator=generator)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = sample(volume_grids(maps, padding), rotation, padding * frequency, factor)
    for number, voxels in enumerate(maps):
        alone = factor * extract(volume_grid(voxels, padding), rotation, box, padding).flatten(start_dim=1)[:, index]
        each = torch.complex(found[:, :, 0, number], found[:, :, 1, number])
        assert float((each - alone).abs().max()) < 1e-5 * float(alone.abs().max())


@pytest.mark.parametrize(("box", "narrow"), [(13, 9), (12, 7), (9, 9)])
def test_a_smaller_boxs_slices_are_the_inner_part_of_them(box, narrow, generator):
    """And slices beyond the grid are refused: the loop would read what is not there."""
    maps, rotation = torch.randn(1, box, box, box, generator=generator), random_rotations(5, generator).float()
    grids = volume_grids(maps)
    inner, outer = half_disc(narrow)[1], half_disc(box)[1]
    place = [int((outer == each).all(1).nonzero()) for each in inner]
    whole = sample(grids, rotation, 2 * outer)
    assert torch.equal(sample(grids, rotation, 2 * inner), whole[:, place])
    with pytest.raises(ValueError, match="do not reach"):
        sample(grids, rotation, 2 * half_disc(box + 3)[1])


@pytest.mark.parametrize("padding", [1, 2])
def test_half_grid_holds_what_inserting_both_of_each_friedel_pair_gives(padding, generator):
    """Slow twin: every coefficient and its mate, into a whole grid."""
    box, reach = 10, _reach(10, padding)
    rotation = random_rotations(3, generator).float()
    images = torch.randn(3, box, box, generator=generator)
    transform = torch.fft.rfft2(images)
    sums = empty_sums(1, box, padding)
    pairs = torch.stack([torch.arange(3), torch.zeros(3, dtype=torch.long)], dim=-1)
    insert(sums, transform, torch.ones(transform.shape), rotation, pairs)
    half = with_mates(sums.cells[0])

    whole = torch.zeros(2 * reach + 1, 2 * reach + 1, 2 * reach + 1, dtype=torch.complex64)
    full = torch.fft.fft2(images)
    for image, matrix in zip(full, rotation, strict=True):
        for ky in range(-4, 5):
            for kx in range(-4, 5):
                if kx**2 + ky**2 >= 25:
                    continue
                at = padding * (torch.tensor([float(kx), ky, 0]) @ matrix)
                low = at.floor()
                for corner in torch.cartesian_prod(*[torch.arange(2)] * 3):
                    cell = (low + corner).long() + reach
                    share = (1 - (low + corner - at).abs()).prod()
                    whole[cell[2], cell[1], cell[0]] += share * image[ky, kx]
    expected = whole[:, :, reach:]
    assert torch.allclose(torch.complex(half[..., 0], half[..., 1]), expected, atol=1e-4)


@pytest.mark.parametrize("box", [48, 49])
def test_reconstruction_has_the_densitys_absolute_values(box, mixture, generator):
    """Scale, hand, centre and sub-voxel position at once; a mirrored or shifted map has an error above 1."""
    particles = make_particles(2500, generator)
    sphere = torch.from_numpy(within_sphere(box))
    truth = mixture_to_map(mixture, box, PIXEL)[sphere]
    found = reconstruct(make_images(mixture, particles, box), particles, PIXEL)[sphere]
    # trilinear interpolation at padding 2: 1 % of scale and 2.5 % of error
    assert (found @ truth / (truth @ truth)).item() == pytest.approx(1, abs=0.015)
    assert (found - truth).norm() / truth.norm() < 0.035


def test_position_to_a_hundredth_of_a_voxel(generator):
    """The centre of mass of one Gaussian: interpolation blurs symmetrically, so it must not move."""
    box = 32
    mixture = Mixture(torch.tensor([[9.0, -14.0, 5.0]]), torch.ones(1) * 1000, torch.full((1,), 7.0))
    particles = make_particles(1500, generator)
    found = reconstruct(make_images(mixture, particles, box), particles, PIXEL).double()
    axis = (torch.arange(box) - box // 2).double() * PIXEL
    near = mixture_to_map(mixture, box, PIXEL).double()
    weights = found * near
    position = (
        torch.stack([weights.sum((0, 1)) @ axis, weights.sum((0, 2)) @ axis, weights.sum((1, 2)) @ axis])
        / weights.sum()
    )
    assert torch.allclose(position, torch.tensor([9.0, -14.0, 5.0]).double(), atol=0.04)


def test_inverted_poses_do_not_give_the_map(mixture, generator):
    """The reconstruction does see the direction of the rotations."""
    box, particles = 32, make_particles(600, generator)
    images = make_images(mixture, particles, box)
    wrong = replace(particles, rotation=particles.rotation.mT.contiguous())
    truth = mixture_to_map(mixture, box, PIXEL)
    right = reconstruct(images, particles, PIXEL)
    assert torch.corrcoef(torch.stack([right.flatten(), truth.flatten()]))[0, 1] > 0.98
    wrong = reconstruct(images, wrong, PIXEL)
    assert torch.corrcoef(torch.stack([wrong.flatten(), truth.flatten()]))[0, 1] < 0.7


@pytest.mark.parametrize("box", [40, 41])
def test_projection_of_the_map_is_that_of_the_mixture(box, mixture, generator):
    rotation = random_rotations(20, generator).float()
    voxels = mixture_to_map(mixture, box, PIXEL)
    found = project_map(voxels, rotation)
    assert torch.allclose(found[:, 0, 0].real, voxels.sum(), rtol=1e-4), "a sum is a sum, in every view"
    expected = project(mixture, rotation, box, PIXEL)
    inside = torch.zeros(box * (box // 2 + 1), dtype=torch.bool)
    inside[_disc(box)[0]] = True
    inside = inside.view(box, -1)
    # trilinear at padding 2; the density reaches 36 of 80 Å from the centre
    assert (found - expected)[:, inside].norm() / expected[:, inside].norm() < 0.04
    # both of each Friedel pair on the column kx = 0
    mates = torch.arange(1, box // 2)
    assert torch.equal(found[:, -mates, 0], found[:, mates, 0].conj())


def test_several_volumes_in_one_pass_equal_each_alone(mixture, generator):
    box, particles = 24, make_particles(30, generator)
    images = make_images(mixture, particles, box)
    data, weights = weighted_slices(images, particles, PIXEL)
    members = [torch.arange(0, 20), torch.arange(10, 30)]  # some particles are in both
    pairs = torch.cat([torch.stack([rows, torch.full_like(rows, v)], -1) for v, rows in enumerate(members)])
    sums = empty_sums(2, box, 2)
    insert(sums, data, weights, particles.rotation, pairs)
    for volume, rows in enumerate(members):
        alone = reconstruct(images[rows], particles[rows], PIXEL)
        assert torch.allclose(divide(sums, volume), alone, atol=1e-4 * float(alone.abs().max()))
    together = divide(sums.merged([0, 1]))
    assert not torch.allclose(together, divide(sums, 0), rtol=0.05)


def test_an_image_that_counts_n_times_is_as_n_images(mixture, generator):
    """And what it adds is linear in how often it counts."""
    box, particles = 16, make_particles(6, generator)
    data, weights = weighted_slices(make_images(mixture, particles, box), particles, PIXEL)

    def inserted(rows: list[int], count: list[float] | None = None) -> torch.Tensor:
        sums = empty_sums(1, box, 2)
        pairs = torch.stack([torch.tensor(rows), torch.zeros(len(rows), dtype=torch.long)], dim=-1)
        insert(sums, data, weights, particles.rotation, pairs, None if count is None else torch.tensor(count))
        return sums.cells

    often = inserted([0, 3, 3, 3, 5])
    tolerance = 1e-5 * float(often.abs().max())
    assert torch.allclose(inserted([0, 3, 5], [1.0, 3.0, 1.0]), often, atol=tolerance)
    mixed = 0.25 * inserted([1]) + 0.5 * inserted([2])
    assert torch.allclose(inserted([1, 2], [0.25, 0.5]), mixed, atol=tolerance)


def test_nothing_is_written_to_the_arguments(mixture, generator):
    box, particles = 16, make_particles(10, generator)
    images = make_images(mixture, particles, box)
    before = images.clone(), particles.rotation.clone()
    first = reconstruct(images, particles, PIXEL)
    assert torch.equal(first, reconstruct(images, particles, PIXEL))
    assert torch.equal(images, before[0])
    assert torch.equal(particles.rotation, before[1])


def test_wiener_damps_by_snr(mixture, generator):
    """With the same SNR in every ring and even weights, V = N / D * snr / (1 + snr)."""
    box = 24
    particles = make_particles(4000, generator)
    zero, one = torch.zeros(4000), torch.ones(4000)
    flat = ContrastTransfer(zero, zero, zero, particles.ctf.voltage, zero, one, zero, zero, one)
    particles = replace(particles, ctf=flat)
    sums = empty_sums(1, box, 1)
    data, weights = weighted_slices(make_images(mixture, particles, box), particles, PIXEL)
    insert(sums, data, weights, particles.rotation, torch.stack([torch.arange(4000), torch.zeros(4000).long()], -1))
    plain, damped = divide(sums), divide(sums, snr=torch.full((box // 2 + 1,), 3.0))
    assert (plain.flatten() @ damped.flatten() / plain.norm() ** 2).item() == pytest.approx(0.75, abs=0.02)


def test_wiener_snr_is_that_of_the_mean_and_does_not_rise_again():
    snr = wiener_snr(torch.tensor([1.0, 0.5, 0.1, 0.4, -0.2, 0.9]))
    assert snr[1].item() == pytest.approx(2.0)
    assert snr[2].item() == pytest.approx(0.2 / 0.9)
    assert snr[3] == snr[2]
    assert snr[4] == snr[5] == pytest.approx(0.002, rel=0.01)
    assert torch.isfinite(snr).all()


def test_a_single_image_gives_a_finite_map(mixture, generator):
    particles = make_particles(1, generator)
    found = reconstruct(make_images(mixture, particles, 16), particles, PIXEL)
    assert torch.isfinite(found).all()
    assert found.abs().max() > 0


def test_what_is_not_a_rotation_is_refused(mixture, generator):
    """The loops write where the matrices say."""
    particles = make_particles(2, generator)
    images = make_images(mixture, particles, 16)
    for wrong in (2 * particles.rotation, particles.rotation * torch.nan):
        with pytest.raises(ValueError, match="not a rotation"):
            reconstruct(images, replace(particles, rotation=wrong), PIXEL)


def test_memory_is_as_announced():
    assert empty_sums(1, 20, 2).cells.nbytes == sums_bytes(20, 2)
