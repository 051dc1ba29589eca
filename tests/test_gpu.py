"""On a GPU everything is what it is on a CPU: projections, losses, gradients and the two stages that use one.

    python -m pytest -m gpu

Float32 sums in another order differ by some 1e-7 of the largest; TF32 would by 1e-5 and more (physics/test_precision),
so these tests also tell where a machine has it switched on from outside.
"""

import numpy as np
import pandas as pd
import pytest
import torch

from gaussemble.fit import heterogeneity, neutral
from gaussemble.fit.band import open_band
from gaussemble.fit.losses import LOSSES
from gaussemble.io.files import write_csv
from gaussemble.io.mixtures import read_mixture, write_mixture
from gaussemble.io.mrc import write_map
from gaussemble.physics.band_limited import band_limited_map
from gaussemble.physics.projection import mixture_to_map, project, project_tangents
from gaussemble.physics.rotations import random_rotations
from gaussemble.quantities import Map, Mixture
from tiny import BOX, PIXEL, make_store, molecule, white_noise_power

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")]

NOISE, GPU = 0.05, "cuda"


def many(images: int, box: int, dtype: torch.dtype = torch.float32) -> tuple[Mixture, torch.Tensor]:
    """A batch of mixtures of 256 Gaussians in pixels, and their views."""
    generator = torch.Generator().manual_seed(1)
    center = torch.randn(images, 256, 3, generator=generator) * box / 10
    amplitude = 0.5 + torch.rand(images, 256, generator=generator)
    width = 1.2 + 0.5 * torch.rand(images, 256, generator=generator)
    return Mixture(center, amplitude, width).to(dtype), random_rotations(images, generator).to(dtype)


def largest(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference over the largest value."""
    return float((found.detach().cpu() - expected.detach()).abs().max() / expected.detach().abs().max())


@pytest.mark.parametrize("box", [64, 65])
@pytest.mark.parametrize(("engine", "limit"), [("auto", 2e-6), ("separable", 2e-6), ("spreading", 5e-5)])
def test_projections(box, engine, limit):
    mixture, rotation = many(4, box)
    exact = project(*many(4, box, torch.float64), box, 1.0, "separable")
    found = project(mixture.to(GPU), rotation.to(GPU), box, 1.0, engine)
    assert found.device.type == GPU
    assert largest(found[:, : box // 2, : box // 2], exact[:, : box // 2, : box // 2]) < limit


def test_gradients_of_spreading():
    results = []
    for engine, device, dtype in (("spreading", GPU, torch.float32), ("separable", "cpu", torch.float64)):
        mixture, rotation = many(4, 64, dtype)
        leaves = [
            part.to(device).requires_grad_() for part in (mixture.center, mixture.amplitude, mixture.width, rotation)
        ]
        transform = project(Mixture(*leaves[:3]), leaves[3], 64, 1.0, engine)[:, :32, :32]
        transform.abs().square().sum().backward()
        results.append([leaf.grad for leaf in leaves])
    for found, exact in zip(*results, strict=True):
        assert largest(found, exact) < 5e-3  # as on a CPU


def test_gradients_and_derivatives_along_tangents():
    generator = torch.Generator().manual_seed(2)
    white = torch.randn(4, 64, 33, generator=generator, dtype=torch.complex128)
    results = []
    for device, dtype in ((GPU, torch.float32), ("cpu", torch.float64)):
        mixture, rotation = many(4, 64, dtype)
        parts = (mixture.center, mixture.amplitude, mixture.width, rotation)
        leaves = [part.to(device).requires_grad_() for part in parts]
        transform = project(Mixture(*leaves[:3]), leaves[3], 64, 1.0, "separable")
        (transform * white.to(transform)).real.sum().backward()
        with torch.no_grad():
            along = project_tangents(Mixture(*leaves[:3]), [Mixture(*leaves[:3])], leaves[3], 64, 1.0)
        results.append([*(leaf.grad for leaf in leaves), along])
    for found, exact in zip(*results, strict=True):
        assert largest(found, exact) < 2e-5  # spreading, on the CPU in float64, is not used


def test_maps():
    mixture, _ = many(1, 32)
    one = Mixture(mixture.center[0], mixture.amplitude[0], mixture.width[0])
    for draw in (mixture_to_map, band_limited_map):
        assert largest(draw(one.to(GPU), 32, 1.0), draw(one.to(torch.float64), 32, 1.0)) < 1e-5


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_particles(tmp_path, generator, name):
    store, _ = make_store(tmp_path / "particles", 24, NOISE, generator)
    band = open_band(store, white_noise_power(NOISE), 16.0)
    rows, results = torch.arange(3, 24, 2), []
    for device in (GPU, "cpu"):
        batch = band.batch(rows, device)
        center = molecule().to(device).center.clone().requires_grad_()
        mixture = Mixture(center, molecule().to(device).amplitude, molecule().to(device).width)
        for part in (batch, batch.coarser(0.5)):
            loss = LOSSES[name](part, part.predict(mixture))
            results.append((loss, *torch.autograd.grad(loss.sum(), center)))
    for found, expected in zip(results[:2], results[2:], strict=True):
        for mine, other in zip(found, expected, strict=True):
            assert mine.device.type == GPU
            assert largest(mine, other) < 1e-4  # sums of thousands of residuals


@pytest.fixture
def folder(tmp_path, generator):
    """Particles, consensus, seeds and a neutral mixture, as the stages before leave them."""
    make_store(tmp_path / "particles", 200, NOISE, generator)
    density = Map(mixture_to_map(molecule(), BOX, PIXEL), PIXEL)
    write_map(tmp_path / "consensus/map.mrc", density)
    write_map(tmp_path / "consensus/mask.mrc", density.with_voxels(torch.ones(BOX, BOX, BOX)))
    frequency, power = np.arange(BOX // 2 + 1) / (BOX * PIXEL), white_noise_power(NOISE)
    fsc = np.where(frequency < 1 / 14, 1.0, 0.0)
    columns = {"ring": range(BOX // 2 + 1), "frequency": frequency, "resolution": 0.0, "fsc": fsc, "fsc_masked": fsc}
    write_csv(tmp_path / "consensus/fsc.csv", pd.DataFrame(columns))
    noise = [(group, ring, frequency[ring], float(value)) for (group, ring), value in np.ndenumerate(power.numpy())]
    names = ["optics_group", "ring", "frequency", "power"]
    write_csv(tmp_path / "consensus/noise.csv", pd.DataFrame(noise, columns=names))
    write_mixture(tmp_path / "mixture.npz", molecule(), density)
    seed = Mixture(molecule().center + 2, molecule().amplitude.mean().expand(24), torch.full((24,), 8.0))
    few = seed.select(torch.arange(0, 24, 4))
    bonds = {"bonds": np.array([[0, 1], [1, 2]]), "angles": np.array([[0, 1, 2]])}
    write_mixture(tmp_path / "seeds.npz", seed, density, **bonds)
    write_mixture(tmp_path / "few.npz", few, density)
    return tmp_path


@pytest.mark.parametrize(
    ("seeds", "changes"),
    [
        ("seeds", {}),
        ("seeds", {"form": "decoder", "restraint": 0.0}),
        ("few", {"grow": "yes", "most": 24, "resolution": 30.0}),
        ("few", {"symmetry": "C3"}),
    ],
    ids=["restrained", "decoder", "grows", "symmetric"],
)
def test_the_neutral_fit(folder, seeds, changes):
    results = []
    for device in (GPU, "cpu"):
        neutral.neutral(
            consensus=folder / "consensus",
            seeds=folder / f"{seeds}.npz",
            out=folder / device,
            options=neutral.Options(device=device, **({"steps": 25, "rounds": 1} | changes)),
        )
        growth = pd.read_csv(folder / device / "growth.csv")
        results.append((read_mixture(folder / device / "mixture.npz"), growth))
    (found, grown), (expected, known) = results
    assert grown["gaussians"].tolist() == known["gaussians"].tolist()
    assert np.allclose(grown["lowest_fsc"], known["lowest_fsc"], atol=1e-3)
    # rounding of 2e-7 of the largest coefficient moves them by 1e-5 Å in these 25 steps
    assert float((found.center - expected.center).norm(dim=-1).median()) < 1e-2


@pytest.mark.parametrize(
    "changes",
    [{}, {"decoder": "hierarchical"}, {"loss": "frc"}, {"width": True, "contrast": True}],
    ids=["dense", "hierarchical", "frc", "width"],
)
def test_the_heterogeneity_analysis(folder, changes):
    results = []
    for device in (GPU, "cpu"):
        settings = {"latent_dim": 2, "epochs": 4, "hidden": 32, "inputs": 12, "resolution": 16.0, "noise": 0.0}
        settings |= {"em_rounds": 0}  # draws from posteriors would turn rounding into other draws
        heterogeneity.heterogeneity(
            particles=folder / "particles",
            consensus=folder / "consensus",
            neutral=folder / "mixture.npz",
            out=folder / device,
            options=heterogeneity.Options(device=device, **(settings | changes)),
        )
        results.append(pd.read_csv(folder / device / "latent.csv"))
    found, expected = results
    assert np.isfinite(found.to_numpy()).all()
    for column in ("z1", "z2", "loss"):  # the same rounding leaves 1 - 1e-10
        assert np.corrcoef(found[column], expected[column])[0, 1] > 0.9999
    assert found["loss"].mean() == pytest.approx(expected["loss"].mean(), rel=1e-3)
