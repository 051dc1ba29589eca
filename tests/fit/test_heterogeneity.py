"""The stage as a whole on a tiny swinging molecule: it finds the angle, is reproducible, and refuses wrong input."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import r2_score
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsRegressor

from gaussemble.errors import InputError
from gaussemble.fit.heterogeneity import Options, heterogeneity
from gaussemble.fit.particles import read_noise
from gaussemble.io.files import read_csv, write_csv
from gaussemble.io.mrc import write_map
from gaussemble.io.posteriors import read_posteriors
from gaussemble.io.store import open_store
from gaussemble.model.heterogeneity import load_model
from gaussemble.quantities import Map, Mixture
from made_heterogeneity import make_inputs, run
from tiny import BOX, PIXEL, bent, molecule


@pytest.fixture
def study(tmp_path, generator):
    """A folder with what the earlier stages leave, and the true angles."""
    return tmp_path, make_inputs(tmp_path, 600, generator)


@pytest.mark.parametrize(
    ("decoder", "loss"), [("dense", "likelihood"), ("hierarchical", "likelihood"), ("dense", "frc")]
)
def test_finds_the_angle(study, decoder, loss):
    folder, angle = study
    table = run(folder, decoder=decoder, loss=loss)
    nearest = KNeighborsRegressor(10)
    predicted = cross_val_predict(nearest, table[["z1", "z2"]].to_numpy(), angle.numpy())
    # cross-validated, so that chance is below zero; 0.95 leaves a mean error of 5 degrees of +-34
    assert r2_score(angle.numpy(), predicted) > 0.95
    assert table["loss"].mean() < 0


def test_the_decoded_arm_is_where_the_true_arm_is(study):
    folder, angle = study
    table = run(folder)
    model = load_model(folder / "out/model.pt")
    with torch.no_grad():
        decoded = model.decode(torch.tensor(table[["z1", "z2"]].to_numpy(), dtype=torch.float32))
    tip, truth = decoded.center[:, 20:].mean(1), bent(molecule(), angle).center[:, 20:].mean(1)
    error = (tip - truth).norm(dim=-1)
    still = (molecule().center[20:].mean(0) - truth).norm(dim=-1)
    # sign, axis and scale at once: the mean error is a third of what the neutral leaves
    assert float(error.mean()) < 0.35 * float(still.mean())


def test_files_keep_the_contract(study):
    folder, _ = study
    table = run(folder, epochs=2)
    assert list(table.columns) == ["particle", "z1", "z2", "sd1", "sd2", "loss", "held_out", "observability"]
    assert table["particle"].tolist() == [3 * row + 1 for row in range(600)]
    assert table["held_out"].sum() == 60
    assert np.isfinite(table.to_numpy()).all()
    posteriors = read_posteriors(folder / "out/posterior.npz")
    assert posteriors.particle.tolist() == table["particle"].tolist()
    deviation = np.sqrt(posteriors.covariance[:, [0, 1], [0, 1]])
    assert np.allclose(deviation, table[["sd1", "sd2"]], rtol=1e-5)
    history = pd.read_csv(folder / "out/history.csv")
    assert list(history.columns) == ["epoch", "loss", "held_out_loss", "learning_rate", "seconds", "round"]
    assert not list((folder / "out").glob(".*"))


def test_same_seed_same_result(study):
    folder, _ = study
    first, second = (run(folder, out, epochs=2) for out in ("a", "b"))
    pd.testing.assert_frame_equal(first, second)
    assert not np.allclose(first["z1"], run(folder, "c", epochs=2, seed=1)["z1"])


def test_region_holds_the_rest_still(study):
    """A box off every axis, in a map whose origin is not the consensus map's: no swapped axis selects the same."""
    folder, _ = study
    center = molecule().center
    low, high = torch.tensor([18.0, -9.0, -6.0]), torch.tensor([60.0, 15.0, 9.0])
    inside = ((center > low) & (center < high)).all(-1)
    assert 3 <= int(inside.sum()) <= 12
    grid = (torch.arange(BOX) - BOX // 2) * PIXEL
    x, y, z = ((grid > low[axis]) & (grid < high[axis]) for axis in range(3))
    mask = (z[:, None, None] & y[None, :, None] & x[None, None, :]).float()
    moved = torch.roll(mask, (-1, -2, -3), (0, 1, 2))  # by as much as the origin says
    write_map(folder / "region.mrc", Map(moved, PIXEL, (3 * PIXEL, 2 * PIXEL, PIXEL)))
    paths = {"particles": folder / "particles", "consensus": folder / "consensus", "neutral": folder / "mixture.npz"}
    options = Options(latent_dim=1, epochs=2, hidden=16)
    heterogeneity(**paths, out=folder / "out", region=folder / "region.mrc", options=options)
    model = load_model(folder / "out/model.pt")
    nearest = (center / PIXEL).round() * PIXEL
    assert torch.equal(model.varies, ((nearest > low) & (nearest < high)).all(-1))
    with torch.no_grad():
        distance = (model.decode(torch.ones(1, 1)).center[0] - center).norm(dim=-1)
    assert (distance[~model.varies] < 1e-4).all()


def test_wrong_input_is_refused_by_name(study):
    folder, _ = study
    with pytest.raises(InputError, match="position, amplitude and width are all off"):
        run(folder, position=False, amplitude=False)
    write_map(folder / "small.mrc", Map(torch.ones(16, 16, 16), PIXEL))
    paths = {"particles": folder / "particles", "consensus": folder / "consensus", "neutral": folder / "mixture.npz"}
    with pytest.raises(InputError, match=r"small\.mrc: box 16"):
        heterogeneity(**paths, out=folder / "out", region=folder / "small.mrc", options=Options())
    write_map(folder / "empty.mrc", Map(torch.zeros(BOX, BOX, BOX), PIXEL))
    with pytest.raises(InputError, match=r"empty\.mrc: no Gaussian"):
        heterogeneity(**paths, out=folder / "out", region=folder / "empty.mrc", options=Options())
    with pytest.raises(InputError, match=r"resolution is 3 Å, but pixels of 6 Å .* nothing finer than 12 Å"):
        run(folder, resolution=3)
    with pytest.raises(InputError, match="lowest_resolution: found 20; expected more than resolution, 30"):
        run(folder, resolution=30, lowest_resolution=20)
    with pytest.raises(InputError, match="lower the option learning_rate"):
        run(folder, learning_rate=1e10)


def test_noise_of_other_particles_is_refused(study, tmp_path):
    folder, _ = study
    table = read_csv(folder / "consensus/noise.csv", ["optics_group", "ring", "power"])
    store = open_store(folder / "particles")
    assert read_noise(folder / "consensus/noise.csv", store).shape == (2, BOX // 2 + 1)
    for wrong in (table[table["ring"] < 5], table[table["optics_group"] == 1], table.assign(power=0.0)):
        write_csv(tmp_path / "noise.csv", wrong)
        with pytest.raises(InputError, match=rf"noise\.csv: {len(wrong)} rows; .* 17 rings and 2 optics groups"):
            read_noise(tmp_path / "noise.csv", store)


def test_mixture_of_the_fixture_is_lopsided():
    """A symmetric molecule could not tell a swapped axis from the right one."""
    spread = molecule().center.std(0)
    assert float(spread[0]) > 1.5 * float(spread[1:].max())
    assert isinstance(molecule(), Mixture)
