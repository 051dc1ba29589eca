"""Clusters through the stage `latent`: decoded classes and a user's own, from the files that the stages leave."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from gaussemble.analysis.latent import Options, latent
from gaussemble.errors import InputError
from gaussemble.io.files import write_csv, write_json
from gaussemble.io.store import write_store
from gaussemble.model.heterogeneity import Compared, build_model, save_model, single_design
from tiny import BOX, PIXEL, images, molecule, particles, white_noise_power

NOISE, COUNT = 0.25, 400
STATES = torch.tensor([[-2.0, 0.0], [2.0, 0.5]])
ASKED = {"umap": False, "clusters": 2}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """Particles of two of a model's structures, whose latents are known only roughly; the folder and their states."""
    folder, generator = tmp_path_factory.mktemp("stages"), torch.Generator().manual_seed(8)
    design = single_design(
        gaussians=24, latent_dim=2, inputs=8, hidden=16, layers=2, dropout=0.0, field=BOX * PIXEL, length=8.0
    )
    design = replace(design, compared=Compared(15.0))
    model = build_model(design, molecule(), [torch.ones(24, dtype=torch.bool)], seed=0)
    with torch.no_grad():
        for parameter in model.decoders.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        spread = torch.Generator().manual_seed(9)  # over latent space, as training leaves them
        model.landmark.copy_(2 * torch.randn(model.landmark.shape, generator=spread))
        model.landmark_share.fill_(1 / len(model.landmark))
    save_model(folder / "model.pt", model)
    known = particles(COUNT, generator)
    state = torch.randint(0, 2, (COUNT,), generator=generator)
    with torch.no_grad():
        drawn = images(known, model.decode(STATES[state]), NOISE, generator)
    write_store(folder / "particles", known, drawn, PIXEL)
    power = white_noise_power(NOISE)
    rows = [(group, ring, float(power[group, ring])) for group in range(2) for ring in range(BOX // 2 + 1)]
    write_csv(folder / "consensus" / "noise.csv", pd.DataFrame(rows, columns=["optics_group", "ring", "power"]))
    z = STATES[state] + torch.randn(COUNT, 2, generator=generator) * torch.tensor([2.0, 1.0])
    table = pd.DataFrame(z.numpy(), columns=["z1", "z2"]).assign(sd1=2.0, sd2=1.0)
    table.insert(0, "particle", known.particle.numpy())
    write_csv(folder / "latent.csv", table)
    return folder, state.numpy()


def given(folder: Path) -> dict[str, Path]:
    """What decoded classes read."""
    return {
        "latent": folder / "latent.csv",
        "particles": folder / "particles",
        "consensus": folder / "consensus",
        "model": folder / "model.pt",
    }


def test_structures_tell_apart_what_latents_leave_mixed(files, tmp_path):
    folder, state = files
    found = {}
    for method in ("kmeans", "decoded"):
        latent(**given(folder), out=tmp_path / method, options=Options(method=method, **ASKED))
        found[method] = pd.read_csv(tmp_path / method / "clusters.csv")
    score = {method: adjusted_rand_score(state, table["cluster"]) for method, table in found.items()}
    assert score["kmeans"] < 0.6 and score["decoded"] > 0.9
    decoded = found["decoded"]
    assert list(decoded) == ["particle", "cluster", "probability"] and list(found["kmeans"]) == ["particle", "cluster"]
    assert decoded["probability"].between(0.5, 1).all()  # of the more probable of two
    embedding = pd.read_csv(tmp_path / "decoded" / "embedding.csv")
    assert list(embedding["particle"]) == list(decoded["particle"])
    means = embedding["pc1"].groupby(decoded["cluster"]).mean()
    assert means[1] < means[2]


def test_one_class_needs_no_structures(files, tmp_path):
    folder, _ = files
    latent(**given(folder), out=tmp_path, options=Options(method="decoded", **(ASKED | {"clusters": 1})))
    assert (pd.read_csv(tmp_path / "clusters.csv")["cluster"] == 1).all()


def test_no_more_classes_than_landmarks(files, tmp_path):
    folder, _ = files
    message = "option clusters is 40, but .*few.pt has 32 landmarks"
    content = torch.load(folder / "model.pt", weights_only=True)
    content["design"]["landmarks"] = 32
    for name in ("landmark", "landmark_share"):
        content["state"][name] = content["state"][name][:32].clone()
    torch.save(content, folder / "few.pt")
    options = Options(method="decoded", **(ASKED | {"clusters": 40}))
    with pytest.raises(InputError, match=message):
        latent(**given(folder) | {"model": folder / "few.pt"}, out=tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder, paths: paths | {"model": folder / "none.pt"}, "none.pt: no such file"),
        (lambda folder, paths: paths | {"latent": shortened(folder)}, "not the particles of .*short.csv"),
        (lambda folder, paths: paths | {"model": older(folder)}, "older.pt: not the model of .*; train it again"),
        (lambda folder, paths: {key: path for key, path in paths.items() if key != "model"}, "give --model too"),
    ],
)
def test_files_that_do_not_belong_together_are_told(files, tmp_path, spoil, message):
    folder, _ = files
    with pytest.raises(InputError, match=message) as error:
        latent(**spoil(folder, given(folder)), out=tmp_path / "out", options=Options(method="decoded", **ASKED))
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def shortened(folder: Path) -> Path:
    """A table without the last particle."""
    pd.read_csv(folder / "latent.csv").iloc[:-1].to_csv(folder / "short.csv", index=False)
    return folder / "short.csv"


def older(folder: Path) -> Path:
    """A model that does not say what its training compared."""
    content = torch.load(folder / "model.pt", weights_only=True)
    content["design"].pop("compared")
    torch.save(content, folder / "older.pt")
    return folder / "older.pt"


def test_a_users_labels_take_the_place_of_any_method(files, tmp_path):
    folder, state = files
    particle = pd.read_csv(folder / "latent.csv")["particle"]
    write_json(tmp_path / "report.json", {"particles_in_file": int(particle.max()) + 1})
    own = pd.DataFrame({"particle": particle, "cluster": np.where(np.arange(COUNT) < 10, 0, 3 - 2 * state)})
    write_csv(tmp_path / "own.csv", own.sample(frac=1, random_state=1))
    paths = {"latent": folder / "latent.csv", "labels": tmp_path / "own.csv", "report": tmp_path / "report.json"}
    latent(**paths, out=tmp_path, options=Options(method="decoded", **ASKED))
    found = pd.read_csv(tmp_path / "clusters.csv")
    pd.testing.assert_frame_equal(found, own)  # numbers as they were given: 1 and 3, 0 for none
    write_json(tmp_path / "report.json", {"particles_in_file": 5})
    with pytest.raises(InputError, match="the input's last row"):
        latent(**paths, out=tmp_path, options=Options(**ASKED))
