"""Every kind of decoder, several in rounds, and regions by atoms, on the tiny molecule whose arm swings."""

import numpy as np
import pandas as pd
import pytest
import torch

from gaussemble.errors import InputError
from gaussemble.io.mixtures import write_mixture
from gaussemble.model.heterogeneity import DeformableMixture, load_model
from gaussemble.quantities import Mixture
from made_heterogeneity import FRAME, make_inputs, run, write_arm_mask
from made_models import write_points
from tiny import bent, molecule

RIGID = {"decoder": "rigid", "amplitude": False}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The stage's folder, with a mask of the arm, and the true angles."""
    folder = tmp_path_factory.mktemp("study")
    angle = make_inputs(folder, 400, torch.Generator().manual_seed(0))
    write_arm_mask(folder / "arm.mrc")
    return folder, angle


@pytest.fixture
def with_atoms(study, tmp_path):
    """seeds.npz and model.cif: an atom at each Gaussian, residues 1 to 24 of chain A, the arm is 17 to 24."""
    folder, _ = study
    bonds = np.stack([np.arange(16, 23), np.arange(17, 24)], axis=1)
    angles = np.stack([np.arange(16, 22), np.arange(17, 23), np.arange(18, 24)], axis=1)
    write_mixture(tmp_path / "seeds.npz", molecule(), FRAME, grow=np.array(False), bonds=bonds, angles=angles)
    model = write_points(tmp_path / "model.cif", molecule().center.double().numpy() + FRAME.center)
    return folder, {"seeds": tmp_path / "seeds.npz", "model": model}


@torch.no_grad()
def decoded(folder, table: pd.DataFrame, out: str = "out") -> tuple[DeformableMixture, torch.Tensor, Mixture]:
    """The model, the latents, and what it makes of them."""
    model = load_model(folder / out / "model.pt")
    latent = torch.tensor(table[["z1", "z2"]].to_numpy(), dtype=torch.float32)
    return model, latent, model.decode(latent)


def tip_error(mixture: Mixture, angle: torch.Tensor) -> float:
    """Mean error of the arm's outer half over what the neutral mixture leaves: sign, axis and scale at once."""
    tip, truth = mixture.center[:, 20:].mean(1), bent(molecule(), angle).center[:, 20:].mean(1)
    still = (molecule().center[20:].mean(0) - truth).norm(dim=-1)
    return float((tip - truth).norm(dim=-1).mean() / still.mean())


@pytest.mark.parametrize("vectors", ["learned", "encoded"])
def test_features_find_the_arm(study, vectors):
    folder, angle = study
    table = run(folder, decoder="features", vectors=vectors, hidden=128, epochs=15)
    assert tip_error(decoded(folder, table)[2], angle) < 0.35
    assert table["loss"].mean() < 0


@pytest.mark.parametrize("encoder", ["image", "both"])
def test_encoders_of_images_reach_the_stage_and_its_file(study, encoder):
    folder, _ = study
    table = run(folder, encoder=encoder, epochs=4)
    model = load_model(folder / "out/model.pt")
    assert model.design.encoder.kind == encoder
    assert model.encoder.reads_images
    assert model.encoder.sampler is not None
    assert float(model.encoder.sampler.points.abs().max()) > 20  # Å, round the molecule
    assert table["loss"].mean() < 0


def test_rigid_domain_turns_by_the_true_angle(study):
    folder, angle = study
    # the arm is a rod along x: half a turn leaves it as it was, and with little noise some latents go there
    table = run(folder, **RIGID, domains=[{"mask": folder / "arm.mrc"}], epochs=20, noise=0.3)
    model, latent, mixture = decoded(folder, table)
    assert torch.equal(model.varies, torch.arange(24) >= 16)
    turn = model.decoders[0].network.motion(latent)[0][:, 0].detach()
    error = (turn[:, 2] - angle).abs().rad2deg()
    # an arm without sign, or about another axis, would be off by the angles' own mean, 17 degrees, or more
    assert float(error.mean()) < 6
    assert float(turn[:, 1].abs().mean().rad2deg()) < 6  # about x, its own axis, a rod's turns are not seen
    assert tip_error(mixture, angle) < 0.35
    inside = mixture.center[:, 16:]
    assert torch.allclose(torch.cdist(inside, inside), torch.cdist(*2 * [molecule().center[16:]])[None], atol=0.02)


def test_two_decoders_in_rounds_find_the_arm(study):
    folder, angle = study
    arm = {"name": "arm", "kind": "rigid", "domains": [{"mask": folder / "arm.mrc"}]}
    rest = {"name": "rest", "kind": "hierarchical", "anchors": 6}
    rounds = [{"decoders": ["arm"], "epochs": 8, "resolution": 30}, {"epochs": 8, "transition": "trainable"}]
    table = run(folder, decoders=[arm, rest], rounds=rounds)
    model, latent, mixture = decoded(folder, table)
    assert model.names == ["arm", "rest"]
    assert tip_error(mixture, angle) < 0.35
    history = pd.read_csv(folder / "out/history.csv")
    assert history["round"].tolist() == [1] * 8 + [2] * 8 + [3] * 3  # the third is one of the population
    transition = model.decoders[1].network.transition
    assert not torch.allclose(transition.sum(-1), torch.ones(24), atol=1e-4), "it was trained"
    with torch.no_grad():
        alone = model.decode(latent, ("rest",))
    assert float((alone.center - molecule().center).abs().max()) > 0.01


def test_a_selection_means_the_gaussians_of_its_atoms(with_atoms):
    folder, files = with_atoms
    table = run(folder, "chosen", files, selection="A/17-24", epochs=1)
    assert torch.equal(decoded(folder, table, "chosen")[0].varies, torch.arange(24) >= 16)
    run(folder, "rigid", files, **RIGID, domains=[{"selection": "A/17-20"}, {"selection": "A/21-24"}], epochs=1)
    rigid = load_model(folder / "rigid/model.pt").decoders[0]
    assert rigid.rows.tolist() == list(range(16, 24))
    assert rigid.network.domain.tolist() == [0] * 4 + [1] * 4


def test_restraints_and_rigidity_keep_the_arm_straight(with_atoms):
    folder, files = with_atoms

    def bending(out: str, **changes) -> float:
        center = decoded(folder, run(folder, out, files, epochs=10, **changes), out)[2].center[:, 16:]
        steps, before = (each.diff(dim=-2).norm(dim=-1) for each in (center, molecule().center[16:]))
        return float((steps - before).square().mean().sqrt())

    free = bending("free")
    assert bending("restrained", restraint=5.0) < 0.5 * free
    assert bending("stiff", rigidity=0.03) < 0.5 * free


WRONG = {
    "a selection that finds nothing": ({"selection": "B"}, r"option selection, 'B', finds no atom .* chains are A"),
    "a selection that cannot be read": ({"selection": "A/(("}, r"option selection, 'A/\(\(': no selection"),
    "a selection in a list": (
        {"decoders": [{"name": "a", "selection": "C"}]},
        r"option decoders\.0\.selection, 'C', finds no atom",
    ),
    "domains that overlap": (
        {**RIGID, "domains": [{"selection": "A/1-18"}, {"selection": "A/17-24"}]},
        r"option domains\.1: 2 of its 8 Gaussians are in domains\.0 too",
    ),
    "domains of two decoders that overlap": (
        {
            "decoders": [
                {"name": "a", "kind": "rigid", "domains": [{"selection": "A/1-18"}]},
                {"name": "b", "kind": "rigid", "domains": [{"selection": "A/17-24"}]},
            ]
        },
        r"rigid domains of a and b share 2 Gaussians",
    ),
    "restraints where nothing follows": (
        {"decoders": [{"name": "core", "selection": "A/1-16", "restraint": 1.0}]},
        r"decoder core: option restraint: .*seeds\.npz holds no consecutive residues in its region",
    ),
    "a round's resolution beyond the store's": (
        {"resolution": None, "rounds": [{"epochs": 1, "resolution": 5}]},
        r"option rounds\.0\.resolution is 5 Å, but pixels of 6 Å .* nothing finer than 12 Å",
    ),
    "a round without a ring": (
        {"rounds": [{"epochs": 1, "resolution": 500}]},
        r"option rounds\.0\.resolution is 500 Å; two rings of .* reach 96 Å",
    ),
    "more latents than particles": ({"latent_dim": 399}, r"400 particle\(s\); 399 latent dimensions want 401"),
    "rigid and fading": ({"decoder": "rigid", "domains": [{"selection": "A"}]}, r"option amplitude: a rigid decoder"),
}


@pytest.mark.parametrize(("changes", "words"), WRONG.values(), ids=list(WRONG))
def test_wrong_input_stops_before_training(with_atoms, changes, words, monkeypatch):
    folder, files = with_atoms
    monkeypatch.setattr("gaussemble.fit.heterogeneity.train", lambda *_: pytest.fail("trained"))
    with pytest.raises(InputError, match=words) as caught:
        run(folder, "wrong", files, **changes)
    assert "\n" not in str(caught.value)
    assert not (folder / "wrong").exists()


def test_atoms_and_restraints_without_their_files_are_refused(study, with_atoms, tmp_path):
    folder, files = with_atoms
    with pytest.raises(InputError, match=r"a selection of atoms needs the model"):
        run(folder, selection="A")
    with pytest.raises(InputError, match=r"option restraint needs the seeds"):
        run(folder, restraint=1.0)
    with pytest.raises(InputError, match=r"option selection: region is given too"):
        run(folder, files=files | {"region": folder / "arm.mrc"}, selection="A")
    other = Mixture(molecule().center.flip(0), molecule().amplitude, molecule().width)
    write_mixture(tmp_path / "other.npz", other, FRAME)
    with pytest.raises(InputError, match=r"other\.npz, as after growth or with symmetry"):
        run(folder, files=files | {"seeds": tmp_path / "other.npz"}, restraint=1.0)
