"""Processes that work together: their shares and sums, and the whole stage with two of them."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from gaussemble.errors import InputError
from gaussemble.fit.devices import choose_device
from gaussemble.fit.distributed import combine, from_first, is_first, parallel, processes, share, workers
from gaussemble.io.files import write_csv
from gaussemble.io.mixtures import write_mixture
from gaussemble.io.mrc import write_map
from gaussemble.physics.projection import mixture_to_map
from gaussemble.quantities import Map
from made_heterogeneity import FRAME, write_arm_mask
from tiny import BOX, PIXEL, make_store, molecule, white_noise_power

ROOT = Path(__file__).resolve().parents[2]
NOISE = 0.1


def test_alone_nothing_changes():
    values, module = torch.randn(3), nn.Linear(2, 2)
    with workers("cpu") as device:
        assert device == torch.device("cpu")
        assert (processes(), is_first(), share(7)) == (1, True, slice(0, 7))
        assert combine(values) is values
        assert parallel(module) is module
        assert from_first("a path") == "a path"


@pytest.mark.parametrize(("things", "workers_of_them"), [(0, 3), (2, 3), (64, 3), (1000, 7)])
def test_shares_cover_everything_once_and_evenly(things, workers_of_them, monkeypatch):
    from gaussemble.fit import distributed

    monkeypatch.setattr(distributed, "processes", lambda: workers_of_them)
    found = []
    for number in range(workers_of_them):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        found.append(list(range(things))[share(things)])
    assert list(itertools.chain(*found)) == list(range(things))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert choose_device("auto", 1) == torch.device("cuda", 1) == chosen[0]
    assert choose_device("cpu", 1) == torch.device("cpu")
    with pytest.raises(InputError, match=r"process 2 of torchrun found 2 GPU\(s\); start at most one process for each"):
        choose_device("auto", 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Particles, consensus and neutral mixture as the earlier stages leave them."""
    path = tmp_path_factory.mktemp("stages")
    make_store(path / "particles", 300, NOISE, torch.Generator().manual_seed(0))
    density = Map(mixture_to_map(molecule(), BOX, PIXEL), PIXEL)
    write_map(path / "consensus/map.mrc", density)
    write_mixture(path / "mixture.npz", molecule(), density)
    frequency, power = np.arange(BOX // 2 + 1) / (BOX * PIXEL), white_noise_power(NOISE)
    noise = [(group, ring, frequency[ring], float(power[group, ring])) for group in (0, 1) for ring in range(17)]
    write_csv(path / "consensus/noise.csv", pd.DataFrame(noise, columns=["optics_group", "ring", "frequency", "power"]))
    fsc = pd.DataFrame({"ring": range(17), "frequency": frequency, "resolution": 0.0, "fsc": 1.0, "fsc_masked": 1.0})
    write_csv(path / "consensus/fsc.csv", fsc)
    return path


def called(folder: Path, out: Path, *options: str) -> tuple[list[str], dict[str, str]]:
    """The stage's command as a user gives it, and its environment."""
    files = ["--particles", folder / "particles", "--consensus", folder / "consensus"]
    files += ["--neutral", folder / "mixture.npz", "--out", out, "--checkpoint", out / "checkpoints" / "a.pt"]
    settings = ["--epochs", "4", "--hidden", "32", "--latent-dim", "2", "--inputs", "12", "--resolution", "16"]
    settings += [
        "--device",
        "cpu",
        "--batch",
        "32",
        "--checkpoint-seconds",
        "0",
        "--landmarks",
        "64",
        "--em-rounds",
        "1",
    ]
    command = [sys.executable, "-m", "gaussemble", "heterogeneity", *map(str, files), *settings, *options]
    return command, os.environ | {"PYTHONPATH": str(ROOT / "workflow"), "OMP_NUM_THREADS": "1"}


def run(*arguments) -> subprocess.CompletedProcess:
    """The stage to its end; see `called`."""
    command, environment = called(*arguments)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    """The folder of a stage that nothing disturbed, and what it said."""
    out = tmp_path_factory.mktemp("alone") / "out"
    ended = run(folder, out)
    assert ended.returncode == 0, ended.stderr
    return out, ended.stderr


TWO = ["--processes", "2"]


def without_seconds(out: Path) -> pd.DataFrame:
    """The curves."""
    return pd.read_csv(out / "history.csv").drop(columns="seconds")


@pytest.mark.slow
def test_two_processes_give_what_one_gives(folder, alone, tmp_path):
    one, two = alone[0], tmp_path / "two"
    ended = run(folder, two, *TWO)
    assert ended.returncode == 0, ended.stderr
    for said in (alone[1], ended.stderr):
        assert said.count("heterogeneity: epoch 4,") == 1  # the first process speaks
    assert {each.name for each in one.iterdir()} == {each.name for each in two.iterdir()}
    assert not (two / "checkpoints").exists()
    # sums in another order, through 40 steps; the losses are some tens of nats
    np.testing.assert_allclose(without_seconds(two), without_seconds(one), rtol=1e-3, atol=1e-2)
    latent, again = (pd.read_csv(out / "latent.csv") for out in (one, two))
    assert latent["particle"].equals(again["particle"])
    assert latent["held_out"].equals(again["held_out"])
    assert np.abs(latent["z1"] - again["z1"]).max() < 0.05 * latent["z1"].std()


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "within"), [([], 0.01), (["--find-shape"], 0.05)], ids=["poses", "shape"])
def test_two_processes_find_the_poses_that_one_finds(folder, tmp_path, shape, within):
    write_mixture(folder / "moving.npz", molecule(), FRAME, moving=(torch.arange(24) >= 16).numpy())
    domains = json.dumps([{"mask": str(write_arm_mask(tmp_path / "arm.mrc"))}])
    options = ["--neutral", folder / "moving.npz", "--decoder", "pose", "--no-amplitude", "--domains", domains, *shape]
    histories, latents = [], []
    for name, together in (("one", []), ("two", TWO)):
        ended = run(folder, tmp_path / name, *map(str, options), *together)
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr.count("round 16 of 16") == 1
        histories.append(without_seconds(tmp_path / name))
        latents.append(pd.read_csv(tmp_path / name / "latent.csv"))
    # Sums in another order, and poses of nearly equal worth may come in another; the losses are some tens of nats. A
    # shape that is found anew is cut into beads by k-means anew too, which rounding sends another way.
    np.testing.assert_allclose(histories[1]["loss"], histories[0]["loss"], rtol=within)
    both = np.concatenate([each[["z1", "z2", "z3"]].to_numpy() for each in latents], axis=1)
    assert np.sqrt(np.square(both[:, :3] - both[:, 3:]).mean()) < 0.1 * both[:, :3].std(0).max()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [[], TWO], ids=["alone", "two"])
def test_a_stage_that_a_queue_ends_goes_on(folder, alone, tmp_path, processes):
    out = tmp_path / "out"
    command, environment = called(folder, out, "--checkpoint-seconds", "1e6", *processes)
    child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    for line in child.stderr:
        if "epoch 1," in line:
            child.terminate()
            break
    said = child.communicate()[1]
    assert (child.returncode, said.count("Traceback")) == (128 + 15, 0)
    assert [each.name for each in out.iterdir()] == ["checkpoints"]
    ended = run(folder, out, *processes)
    assert ended.returncode == 0, ended.stderr
    assert "going on after epoch" in ended.stderr
    assert not (out / "checkpoints").exists()
    if processes:  # sums in another order
        np.testing.assert_allclose(without_seconds(out), without_seconds(alone[0]), rtol=1e-3, atol=1e-2)
        return
    pd.testing.assert_frame_equal(without_seconds(out), without_seconds(alone[0]), check_exact=True)
    assert (out / "latent.csv").read_bytes() == (alone[0] / "latent.csv").read_bytes()


@pytest.mark.slow
def test_a_mistake_of_two_processes_is_said_and_ends_both(folder, tmp_path):
    ended = run(folder, tmp_path / "out", *TWO, "--batch", "1")
    assert ended.returncode == 2
    assert "batches of 1 particles cannot be shared by 2 processes; start fewer" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out" / "model.pt").exists()
