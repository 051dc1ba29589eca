"""Consensus of real metadata and real images.

beta-galactosidase: the poses, shifts and CTFs are those of EMPIAR-10017 and the density is the real map; the images are
*simulated* from them (projections of the map, white noise).
"""

import gzip
from typing import Literal

import pandas as pd
import pytest
import torch

from gaussemble.errors import InputError
from gaussemble.io.mrc import read_map, write_map
from gaussemble.io.relion import interpret
from gaussemble.io.star import read_star
from gaussemble.io.store import write_store
from gaussemble.physics.backprojection import project_map
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import to_real
from gaussemble.physics.masks import masked_correlation, soft_mask
from gaussemble.physics.projection import shift_phases
from gaussemble.physics.rings import resolution, ring_frequencies
from gaussemble.physics.rotations import euler_to_matrix
from gaussemble.prepare.consensus import Options, consensus
from gaussemble.prepare.particles import Options as ParticleOptions
from gaussemble.prepare.particles import particles
from gaussemble.quantities import Particles

COUNT = 1500


@pytest.fixture(scope="module")
def betagal(shared_data, tmp_path_factory):
    """A store of every fourth particle at an SNR of about 0.05, and the map."""
    folder = tmp_path_factory.mktemp("betagal")
    (folder / "images.star").write_bytes(
        gzip.decompress((shared_data / "particles/betagal/images.star.gz").read_bytes())
    )
    star = read_star(folder / "images.star")
    found = interpret(star.rows(range(0, 4 * COUNT, 4)), pixel_size=3.54)
    density = read_map(shared_data / "maps/ngl_betaGal.mrc", pixel_size=3.54)
    rotation = euler_to_matrix(torch.from_numpy(found.angles)).float()
    shift = torch.from_numpy(found.shift).float()
    made = Particles(torch.arange(COUNT), rotation, shift, found.ctf.to(torch.float32), torch.zeros(COUNT).long())
    transform = project_map(density.voxels, rotation) * evaluate(made.ctf, density.box, density.pixel_size)
    images = to_real(transform * shift_phases(shift, density.box, density.pixel_size), density.box)
    generator = torch.Generator().manual_seed(0)
    images += images.std() / 0.05**0.5 * torch.randn(images.shape, generator=generator)
    write_store(folder / "particles", made, images, density.pixel_size)
    return folder, density


def test_betagal_comes_back(betagal, tmp_path):
    folder, density = betagal
    consensus(particles=folder / "particles", out=tmp_path, options=Options())
    found, mask = (read_map(tmp_path / f"{name}.mrc").voxels for name in ("map", "mask"))
    curve = masked_correlation(found, density.voxels, soft_mask(density.voxels, 3.54))
    assert resolution(curve, ring_frequencies(100, 3.54), 0.5) < 11  # Å
    # scale in the band where the map is sure; Wiener's damping takes what lies beyond
    inside = mask > 0.5
    assert (density.voxels * mask).sum() / density.voxels[density.voxels > 0].sum() > 0.7
    slope = (found[inside] @ density.voxels[inside]) / density.voxels[inside].square().sum()
    assert 0.85 < float(slope) < 1.02


def test_betagals_own_map_is_taken(betagal, tmp_path, capsys):
    folder, density = betagal
    path = tmp_path / "given.mrc"
    write_map(path, density)
    consensus(particles=folder / "particles", out=tmp_path / "out", map=path, options=Options())
    said = capsys.readouterr().err
    assert float(said.split("at 20 Å is ")[1].split()[0]) > 0.9
    scale = float(said.split("multiplied by ")[1].split(":")[0])
    assert scale == pytest.approx(1, abs=0.05)


def test_ribosome_tilt_images_give_a_ribosome_sized_body(shared_data, tmp_path):
    """219 real images; 14.56 Å/pixel. A ribosome has a mean radius of some 120 Å."""
    star = shared_data / "particles/cryodrgn/sta_testing_bin8.star"
    import_ = ParticleOptions(pixel_size=14.56, max_bad=10)
    particles(star=star, out=tmp_path / "particles", split="full", datadir=star.parent, options=import_)
    consensus(particles=tmp_path / "particles", out=tmp_path / "out", options=Options())
    mask = read_map(tmp_path / "out/mask.mrc").voxels
    volume = float((mask > 0.99).sum()) * 14.56**3
    assert 90 < (3 * volume / (4 * torch.pi)) ** (1 / 3) < 220
    table = pd.read_csv(tmp_path / "out/fsc.csv")
    assert table["fsc_masked"].iloc[1:4].min() > 0.5


@pytest.fixture
def aspire(shared_data, tmp_path):
    """Imports the 17 real ribosome images of ASPIRE's tutorial at 2.7 Å/pixel, as they are or inverted."""

    def importing(contrast: Literal["white", "black"] = "white"):
        star = shared_data / "particles/aspire/sample_relion_data.star"
        folder = tmp_path / f"particles_{contrast}"
        import_ = ParticleOptions(box=100, contrast=contrast)
        particles(star=star, out=folder, split="full", datadir=star.parent, options=import_)
        return folder

    return importing


def test_seventeen_images_give_a_body_in_the_middle(aspire, tmp_path):
    """Far too few for a structure; enough for its size and place, which wrong shifts or contrast would spoil."""
    consensus(particles=aspire(), out=tmp_path / "out", options=Options())
    table = pd.read_csv(tmp_path / "out/fsc.csv")
    assert table["fsc"].iloc[1] > 0.8
    assert 20 < table[table["fsc_masked"] < 0.143]["resolution"].iloc[0] < 40  # Å
    density, mask = (read_map(tmp_path / f"out/{name}.mrc") for name in ("map", "mask"))
    volume = float((mask.voxels > 0.99).sum()) * density.pixel_size**3
    assert 50 < (3 * volume / (4 * torch.pi)) ** (1 / 3) < 110  # Å; 69 when written
    weight = (density.voxels * mask.voxels).clamp(min=0)
    z, y, x = torch.meshgrid(*[torch.arange(100.0) - 50] * 3, indexing="ij")
    center = torch.stack([(axis * weight).sum() / weight.sum() for axis in (x, y, z)])
    assert center.norm() * density.pixel_size < 20  # Å; 7 when written


def test_seventeen_inverted_images_are_refused(aspire, tmp_path, capsys):
    with pytest.raises(InputError, match="no mask can be made"):
        consensus(particles=aspire("black"), out=tmp_path / "out", options=Options())
    assert "contrast looks inverted: set particles.contrast" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
