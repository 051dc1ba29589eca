"""Poses of the tiny molecule's arm, found from the one at rest: where they are, how many particles have each."""

import numpy as np
import pandas as pd
import pytest
import torch

from gaussemble.analysis.chance import gain
from gaussemble.analysis.recovery import predicted_by_neighbours, variance_explained
from gaussemble.errors import InputError
from gaussemble.fit import pose_mixture
from gaussemble.fit.band import open_band
from gaussemble.fit.pose_mixture import one_pose, shared
from gaussemble.fit.pose_search import Wanted, prepare_search
from gaussemble.fit.poses import at_rest, compared_poses, domain_of
from gaussemble.io.mixtures import write_mixture
from gaussemble.io.posteriors import read_posteriors
from gaussemble.io.store import open_store, write_store
from gaussemble.model.heterogeneity import load_model
from gaussemble.quantities import Mixture
from made_heterogeneity import FRAME, write_arm_mask
from made_poses import crossed, found, found_though_killed, make_bent, pose_model
from tiny import PIXEL, bent, molecule, white_noise_power

ANGLES = (-1.9, 0.2, 1.4)  # radians; at rest the arm is in none of them, and the first is 80 Å away
SHARES = (0.5, 0.3, 0.2)
COUNT = 500


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Fewer tries than real particles want."""
    monkeypatch.setattr(pose_mixture, "TRIED", 300)
    monkeypatch.setattr(pose_mixture, "ROUNDS", 12)


def make_states(folder, generator, angle: torch.Tensor, noise: float = 0.1) -> None:
    """The stage's inputs, with particles whose arms are at these angles; the arm is marked as moving."""
    make_bent(folder, generator, angle, noise)
    write_mixture(folder / "mixture.npz", molecule(), FRAME, moving=(torch.arange(24) >= 16).numpy())
    write_arm_mask(folder / "arm.mrc")


@pytest.fixture
def three(tmp_path, generator):
    """Particles in three states, and the state of each."""
    state = torch.multinomial(torch.tensor(SHARES), COUNT, replacement=True, generator=generator)
    make_states(tmp_path, generator, torch.tensor(ANGLES)[state])
    return tmp_path, state.numpy()


def test_far_states_are_found_from_rest(three):
    folder, state = three
    table = found(folder)
    model = load_model(folder / "out/model.pt")
    with torch.no_grad():
        landmark = model.decode(model.landmark).center[:, 16:]
    truth = bent(molecule(), torch.tensor(ANGLES)).center[:, 16:]
    landmark, share = landmark[:-1], model.landmark_share[:-1]  # the last is a rigid molecule's
    assert float(model.landmark_share[-1]) == 0
    away = (landmark[:, None] - truth[None]).square().sum(-1).mean(-1).sqrt()  # (landmark, state)
    nearest = away.argmin(1)
    assert float((share * away.amin(1)).sum()) < 3.0  # Å, half a pixel; the states are 38 to 118 Å apart
    counts = np.bincount(state, minlength=3) / COUNT
    for number in range(3):
        assert float(share[nearest == number].sum()) == pytest.approx(counts[number], abs=0.03)
    latent = table[[f"z{axis}" for axis in range(1, 13)]].to_numpy()
    turned = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)[state]
    assert variance_explained(turned, predicted_by_neighbours(latent, turned)) > 0.95
    assert "z13" not in table and table["loss"].mean() < -1
    held_out = table["held_out"].to_numpy() == 1
    told = gain(table["gain"].to_numpy()[held_out])
    # of an image that tells its state, the entropy of the states; and beside it what one state for all costs
    assert told.beyond_chance and told.mean > 1.0


def test_the_files_are_those_of_a_training(three, monkeypatch):
    folder, _ = three
    monkeypatch.setattr(pose_mixture, "ROUNDS", 4)
    table = found(folder)
    assert len(read_posteriors(folder / "out/posterior.npz").prior_mean) == 12
    history = pd.read_csv(folder / "out/history.csv")
    assert list(history) == ["epoch", "loss", "held_out_loss", "poses", "seconds"]
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] < 0 > history["held_out_loss"].iloc[-1]
    assert table["held_out"].sum() == COUNT // 10
    pd.testing.assert_frame_equal(table, found(folder, "again"))
    assert not np.allclose(table["z1"], found(folder, "other", seed=1)["z1"])


def test_killed_after_any_round_it_ends_the_same(three, monkeypatch):
    folder, _ = three
    monkeypatch.setattr(pose_mixture, "ROUNDS", 5)
    whole = found(folder, "whole")
    path = folder / "checkpoints/poses.pt"
    pd.testing.assert_frame_equal(whole, found_though_killed(folder, path, 4), rtol=1e-6)
    assert not path.exists()


def test_a_checkpoint_of_another_seed_is_not_taken_up(three, capsys, monkeypatch):
    folder, _ = three
    path = folder / "checkpoints/poses.pt"
    monkeypatch.setattr(pose_mixture, "ROUNDS", 2)
    monkeypatch.setattr("gaussemble.fit.heterogeneity.remove_checkpoint", lambda path: None)
    found(folder, checkpoint=path)
    capsys.readouterr()
    found(folder, checkpoint=path, seed=1)
    assert "a checkpoint of other options, particles or code" in capsys.readouterr().err


def test_where_nothing_moves_poses_stay_and_structure_is_chance(tmp_path, generator):
    """The arm where it is at rest in all particles: the mean pose is that, and what they spread is their noise."""
    make_states(tmp_path, generator, torch.zeros(COUNT), noise=0.2)
    table = found(tmp_path)
    model = load_model(tmp_path / "out/model.pt")
    with torch.no_grad():
        away = (model.decode(model.landmark).center - molecule().center).norm(dim=-1).mean(1)
    assert float(model.landmark_share @ away) < 1.0  # Å
    held_out = table["held_out"].to_numpy() == 1
    assert not gain(table["gain"].to_numpy()[held_out]).beyond_chance


@pytest.mark.parametrize(("heavier", "wider"), [(1.3, 0.0), (1.0, -3.0)])
def test_a_model_that_is_too_strong_or_too_sharp_is_no_motion(tmp_path, generator, heavier, wider):
    """Poses spread to blur it; one pose with a factor in each ring does as well."""
    make_states(tmp_path, generator, torch.zeros(COUNT))
    arm = torch.arange(24) >= 16
    amplitude = torch.where(arm, heavier, 1.0) * molecule().amplitude
    wrong = Mixture(molecule().center, amplitude, molecule().width + torch.where(arm, wider, 0.0))
    write_mixture(tmp_path / "mixture.npz", wrong, FRAME, moving=arm.numpy())
    table = found(tmp_path)
    held_out = table["held_out"].to_numpy() == 1
    assert not gain(table["gain"].to_numpy()[held_out]).beyond_chance


def test_without_particles_that_only_watch_the_last_round_stays(three, monkeypatch):
    monkeypatch.setattr(pose_mixture, "ROUNDS", 3)
    table = found(three[0], held_out=0.0)
    assert (table["held_out"] == 0).all()
    assert len(load_model(three[0] / "out/model.pt").landmark) > 3


def test_particles_of_inverted_contrast_show_nothing(three):
    """Their factors are zero, and so is what any pose would change."""
    folder, _ = three
    store = open_store(folder / "particles")
    write_store(folder / "particles", store.particles, -store.read(slice(0, COUNT)).clone(), PIXEL)
    with pytest.raises(InputError, match="option domains: the particles show nothing of the domain; is their contrast"):
        found(folder)


def test_one_pose_goes_where_all_particles_pull_it(tmp_path, generator):
    """Turned by 0.25 radians about z from where the mixture has it: Fisher steps alone bring it there."""
    make_states(tmp_path, generator, torch.full((300,), 0.25))
    band = open_band(open_store(tmp_path / "particles"), white_noise_power(0.1), 16.0)
    model = pose_model()
    search = prepare_search(domain_of(model, band), band, torch.arange(300) % 10 == 0, Wanted(8, False, 0))
    turned = search.half_turn  # of the arm: about each of its principal axes
    assert torch.allclose(turned @ turned, torch.eye(3).expand(3, 3, 3), atol=1e-5)
    assert torch.allclose(turned.diagonal(dim1=1, dim2=2).sum(1), -torch.ones(3), atol=1e-5)
    along = torch.tensor([1.0, 0, 0])  # the arm's own, but for its wobble
    assert sorted((turned @ along)[:, 0].sign().tolist()) == [-1, -1, 1]
    pose = one_pose(search, at_rest())
    assert model.poses is not None
    model.landmark.copy_(model.poses.latent(*vars(at_rest().joined(pose)).values()))
    gains = compared_poses(model, band).read(torch.arange(300)).mean(0)
    assert abs(float(gains[0])) < 1e-3 and float(gains[1]) > 1.0  # over the neutral mixture, which is at rest
    there = model.decode(model.poses.latent(pose.rotation, pose.shift)).center[0, 16:]
    truth = bent(molecule(), torch.tensor([0.25])).center[0, 16:]
    assert float((there - truth).norm(dim=1).mean()) < 1.0  # Å; it began at 9.5
    assert float((molecule().center[16:] - truth).norm(dim=1).mean()) > 9


def test_the_other_halfs_poses_tell_particles_apart(three):
    """The stage crossing: as in the stage itself, gains over a rigid molecule and latents of twelve numbers."""
    folder, _ = three
    found(folder)
    angle = torch.tensor(ANGLES)[torch.arange(200) % 3]
    table = crossed(folder, bent(molecule(), angle), 0.1)
    assert gain(table["gain"].to_numpy()).mean > 1.0
    turned = torch.stack([angle.cos(), angle.sin()], dim=1).numpy()
    latent = table[[f"z{axis}" for axis in range(1, 13)]].to_numpy()
    assert variance_explained(turned, predicted_by_neighbours(latent, turned, 10)) > 0.95


def test_shares_are_those_of_the_greatest_likelihood(generator):
    """Two poses that some images tell apart exactly, and others not at all: the latter follow the former."""
    gains = torch.tensor([[30.0, 0.0]] * 30 + [[0.0, 30.0]] * 10 + [[5.0, 5.0]] * 60)
    assert shared(gains, torch.tensor([0.01, 0.99]), 300).tolist() == pytest.approx([0.75, 0.25], abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"domains": []}, "option domains: found none; a pose decoder needs one or more"),
        ({"loss": "frc"}, "option loss: found frc; poses are found by their likelihood"),
        ({"rounds": [{"epochs": 1}]}, "option rounds: a pose decoder is found without training"),
        ({"amplitude": True}, "option amplitude: a pose decoder only moves; set amplitude: false$"),
        ({"restraint": 1.0}, "option restraint: a pose decoder keeps all distances"),
        ({"selection": "A"}, "option selection: the region of a pose decoder is its domains"),
        ({"domains": [{"selection": "A"}, {"selection": "B"}]}, "option domains: found 2; a pose decoder has one"),
        (
            {"decoder": "dense", "decoders": [{"name": "a", "kind": "pose", "domains": [{"selection": "A"}]}]},
            r"option decoders\.0\.kind: a pose decoder is the only one",
        ),
    ],
)
def test_what_does_not_go_together_is_told_first(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        found(tmp_path, **changes)
    assert not (tmp_path / "out").exists()


def test_too_few_particles_for_twelve_numbers(tmp_path, generator):
    make_states(tmp_path, generator, torch.zeros(13))
    with pytest.raises(InputError, match=r"13 particle\(s\); 12 latent dimensions want 14"):
        found(tmp_path)
