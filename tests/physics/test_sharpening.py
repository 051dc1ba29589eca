"""Filters of finished maps: what a B-factor does, what Guinier's plot finds."""

import shutil
import subprocess

import pytest
import starfile
import torch

from gaussemble.io.mrc import write_map
from gaussemble.physics.masks import soft_mask
from gaussemble.physics.projection import mixture_to_map
from gaussemble.physics.rings import ring_frequencies, shell_power
from gaussemble.physics.sharpening import (
    b_factor_gain,
    correlation_gain,
    filtered,
    guinier,
    low_pass_gain,
)
from gaussemble.prepare.fsc import curve_resolution, half_map_table
from gaussemble.quantities import Map, Mixture

BOX, PIXEL = 64, 1.5


def white(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(BOX, BOX, BOX, generator=generator)


def test_a_filter_multiplies_each_shell(generator):
    gain = torch.rand(BOX // 2 + 1, generator=generator)
    voxels = white(generator)
    ratio = shell_power(filtered(voxels, gain)) / shell_power(voxels)
    assert torch.allclose(ratio, gain.square(), rtol=1e-3)
    assert torch.allclose(filtered(3 * voxels, gain), 3 * filtered(voxels, gain), atol=1e-4)


def test_low_pass_ends_two_rings_after_the_resolution():
    gain = low_pass_gain(BOX, PIXEL, BOX * PIXEL / 20)
    assert (gain[:21] == 1).all()
    assert gain[21] == pytest.approx(0.5)
    assert gain[22:].abs().max() < 1e-6


def test_correlation_gain():
    """Two half-maps that correlate by 1/7 have a mean that correlates with the truth by a half."""
    assert torch.allclose(correlation_gain(torch.tensor([1.0, 1 / 7, -0.2])), torch.tensor([1.0, 0.5, 0.0]))


@pytest.mark.parametrize("b_factor", [40.0, 150.0])
def test_guinier_finds_the_decay_and_its_b_factor_takes_it_out(b_factor, generator):
    """exp(-B k² / 4) on white noise: a decay of B is sharpened by -B."""
    decayed = filtered(white(generator), b_factor_gain(BOX, PIXEL, b_factor))
    found = guinier(decayed, PIXEL, 3.2)
    assert found is not None
    assert found.b_factor == pytest.approx(-b_factor, abs=4)
    power = shell_power(filtered(decayed, b_factor_gain(BOX, PIXEL, found.b_factor)))
    assert float(power[10:30].std() / power[10:30].mean()) < 0.1


def test_no_line_through_few_shells(generator):
    assert guinier(white(generator), PIXEL, 9.0) is None


@pytest.mark.skipif(shutil.which("relion_postprocess") is None, reason="relion_postprocess is not installed")
def test_same_b_factor_as_relion(tmp_path, generator):
    """relion_postprocess's automatic B-factor of the same half-maps and mask."""
    atoms = Mixture(12 * torch.randn(300, 3, generator=generator), torch.ones(300), torch.full((300,), 1.2))
    signal = filtered(mixture_to_map(atoms, BOX, PIXEL), b_factor_gain(BOX, PIXEL, 60.0))
    pair = [signal + 0.01 * signal.max() * white(generator) for _ in range(2)]
    mask = soft_mask(signal, PIXEL, 10.0)
    for name, voxels in {"half1": pair[0], "half2": pair[1], "mask": mask}.items():
        write_map(tmp_path / f"{name}.mrc", Map(voxels, PIXEL))
    command = ["relion_postprocess", "--i", "half1.mrc", "--mask", "mask.mrc", "--angpix", str(PIXEL), "--o", "out"]
    subprocess.run([*command, "--auto_bfac"], cwd=tmp_path, capture_output=True, check=False)
    theirs = starfile.read(tmp_path / "out.star")["general"]
    table = half_map_table(*pair, mask, PIXEL)
    weighted = filtered((pair[0] + pair[1]) / 2, correlation_gain(torch.tensor(table["fsc_corrected"].to_numpy())))
    limit = curve_resolution(table)
    assert limit == pytest.approx(theirs["rlnFinalResolution"], abs=2 * limit**2 / (BOX * PIXEL))  # two rings
    found = guinier(weighted, PIXEL, theirs["rlnFinalResolution"])
    assert found is not None
    assert found.b_factor == pytest.approx(theirs["rlnBfactorUsedForSharpening"], abs=8)
    assert float(ring_frequencies(BOX, PIXEL)[-1]) > 1 / limit
