"""The neutral fit: a known mixture is found again from its map, in absolute scale and place."""

import numpy as np
import pandas as pd
import pytest
import torch

from gaussemble.errors import InputError
from gaussemble.fit.neutral import MixtureParameters, Options, consensus_resolution, fit_mixture, neutral
from gaussemble.io.files import write_csv
from gaussemble.io.mixtures import read_mixture, write_mixture
from gaussemble.io.mrc import read_map, write_map
from gaussemble.physics.projection import mixture_to_map
from gaussemble.physics.rings import shell_correlation
from gaussemble.quantities import Map, Mixture
from tiny import BOX, PIXEL, molecule


@pytest.fixture
def density() -> Map:
    return Map(mixture_to_map(molecule(), BOX, PIXEL), PIXEL, (10.0, -20.0, 30.0))


def rough(shift: float = 3.0) -> Mixture:
    """Seeds that stand a few Å off, with wrong amplitudes and widths."""
    truth, generator = molecule(), torch.Generator().manual_seed(1)
    center = truth.center + shift * torch.randn(24, 3, generator=generator)
    return Mixture(center, torch.full((24,), float(truth.amplitude.mean())), torch.full((24,), 8.0))


def test_parameters_start_at_the_seed():
    seed = rough()
    with torch.no_grad():
        start = MixtureParameters(seed, max_move=8.0, smallest_width=2.0)()
    assert torch.allclose(start.center, seed.center)
    assert torch.allclose(start.amplitude, seed.amplitude, rtol=1e-5)
    assert torch.allclose(start.width, seed.width, rtol=1e-5)


def test_the_map_is_explained_in_absolute_terms(density):
    options = Options(rounds=2, steps=150)
    parameters, errors = fit_mixture(density, rough(), [24.0, 12.0], options)
    with torch.no_grad():
        fitted = parameters()
    assert errors[-1] < 0.02
    # rings of equal weight: the total mass is one ring of many, hence the per cent
    assert float(fitted.amplitude.sum()) == pytest.approx(float(molecule().amplitude.sum()), rel=0.02)
    voxels = mixture_to_map(fitted, BOX, PIXEL)
    assert float((voxels - density.voxels).norm() / density.voxels.norm()) < 0.1
    assert float(shell_correlation(voxels, density.voxels)[:16].min()) > 0.97
    # a shift of half a voxel, or a swapped axis, would be far outside
    center = (fitted.amplitude[:, None] * fitted.center).sum(0) / fitted.amplitude.sum()
    truth = (molecule().amplitude[:, None] * molecule().center).sum(0) / molecule().amplitude.sum()
    assert float((center - truth).norm()) < 0.3


def test_no_gaussian_leaves_its_seed_farther_than_allowed(density):
    seed = rough()
    parameters, _ = fit_mixture(density, seed, [24.0], Options(steps=40, max_move=1.0))
    with torch.no_grad():
        assert float((parameters().center - seed.center).abs().max()) <= 1.0


def test_same_seed_same_mixture(density):
    options = Options(steps=10)
    first, second = (fit_mixture(density, rough(), [24.0], options)[0] for _ in range(2))
    assert torch.equal(first.move, second.move)


def consensus_folder(folder, density: Map) -> None:
    """map.mrc, mask.mrc and fsc.csv as the stage consensus leaves them."""
    write_map(folder / "map.mrc", density)
    write_map(folder / "mask.mrc", density.with_voxels(torch.ones(BOX, BOX, BOX)))
    frequency = np.arange(BOX // 2 + 1) / (BOX * PIXEL)
    fsc = np.where(frequency < 1 / 14, 1.0, 0.0)
    columns = {"ring": range(BOX // 2 + 1), "frequency": frequency, "resolution": 0.0, "fsc": fsc, "fsc_masked": fsc}
    write_csv(folder / "fsc.csv", pd.DataFrame(columns))


def test_stage_writes_files_in_the_map_frame(tmp_path, density):
    consensus_folder(tmp_path / "consensus", density)
    write_mixture(tmp_path / "seeds.npz", rough(), density)
    neutral(
        consensus=tmp_path / "consensus",
        seeds=tmp_path / "seeds.npz",
        out=tmp_path / "out",
        options=Options(steps=40),
    )
    stored = np.load(tmp_path / "out/mixture.npz")["center"]
    mixture = read_mixture(tmp_path / "out/mixture.npz")
    # voxel 16 of 6 Å behind an origin at (10, -20, 30)
    assert np.allclose(stored - mixture.center.numpy(), [106, 76, 126], atol=1e-4)
    fitted = read_map(tmp_path / "out/map.mrc")
    assert fitted.origin == pytest.approx(density.origin)
    assert fitted.pixel_size == pytest.approx(PIXEL)
    table = pd.read_csv(tmp_path / "out/fsc.csv")
    assert list(table.columns) == ["ring", "frequency", "resolution", "fsc", "fsc_masked"]
    assert table["fsc"][1:8].min() > 0.9
    assert torch.load(tmp_path / "out/decoder.pt", weights_only=True)["move"].shape == (24, 3)


def test_resolution_comes_from_the_masked_curve(tmp_path, density):
    consensus_folder(tmp_path, density)
    # ring 13 (14.8 Å) is the last at 1, ring 14 (13.7 Å) at 0; 0.143 lies between
    assert 13.7 < consensus_resolution(tmp_path / "fsc.csv") < 14.8


def test_a_mask_of_another_box_is_refused(tmp_path, density):
    consensus_folder(tmp_path, density)
    write_map(tmp_path / "mask.mrc", Map(torch.ones(8, 8, 8), PIXEL))
    with pytest.raises(InputError, match=r"mask\.mrc: box 8, but the map's is 32"):
        neutral(consensus=tmp_path, seeds=tmp_path / "seeds.npz", out=tmp_path / "out", options=Options())
