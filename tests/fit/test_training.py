"""The training loop: its schedule, what it keeps, what it names, and that a kill changes no number."""

import math
import random
import time

import numpy as np
import pandas as pd
import pytest
import torch

from gaussemble.errors import InputError
from gaussemble.fit.checkpoints import remove_checkpoint
from gaussemble.fit.losses import likelihood
from gaussemble.fit.rounds import Round
from gaussemble.fit.training import TrainingOptions, held_out_loss, train
from made_training import ROUNDS, SMALL, make_model, make_study_of, processes_of, start, trained
from tiny import make_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store of 260 bent molecules."""
    path = tmp_path_factory.mktemp("store")
    make_store(path, 260, 0.3, torch.Generator().manual_seed(0))
    return path


@pytest.fixture(scope="module")
def alone(folder):
    """What a training that nothing disturbs ends with."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield trained(folder)
    torch.set_num_threads(threads)


def same(found, expected, tolerance: float = 0.0) -> None:
    """Histories and weights agree; to the bit by default."""
    history, weights, latent = expected
    table = pd.DataFrame(found["history"])
    assert list(table.columns) == list(history.columns)
    np.testing.assert_allclose(table.to_numpy(), history.to_numpy(), rtol=tolerance, atol=tolerance)
    for name, value in weights.items():
        torch.testing.assert_close(found["weights"][name], value, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found["latent"], latent, rtol=10 * tolerance, atol=10 * tolerance)


def test_history_has_a_row_an_epoch_and_each_round_its_own_schedule(alone):
    history, _, _ = alone
    assert history["round"].tolist() == [1, 1, 2, 2, 3]
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5]
    # 7 steps an epoch; the first round stays up, the second falls from its own rate: 14 steps, 1 of them up
    assert history["learning_rate"][:2].tolist() == [4e-3, 4e-3]
    assert history["learning_rate"][3] == pytest.approx(2e-3 * 0.5 * (1 + math.cos(math.pi * 12 / 13)))


def test_training_explains_held_out_particles(alone):
    history, _, _ = alone
    assert history["held_out_loss"].iloc[-1] < min(-1.0, history["held_out_loss"].iloc[0])


def test_the_best_weights_are_kept(folder):
    """At a rate that destroys the model in the second round, the weights of the first are what remains."""
    study = make_study_of(folder)
    model = make_model(study)
    rounds = [Round(epochs=3.0), Round(epochs=2.0, learning_rate=0.3)]
    history = train(model, study, TrainingOptions(**SMALL), rounds)
    losses = history["held_out_loss"].to_numpy()
    assert losses[3:].min() > losses[:3].min() + 1
    assert held_out_loss(model, study, rounds[0], [], None)[0] == pytest.approx(losses.min(), abs=1e-4)


def test_a_round_ends_when_patience_does(folder):
    study = make_study_of(folder)
    rounds = [Round(epochs=20.0, learning_rate=0.02), Round(epochs=1.0, learning_rate=1e-9)]
    history = train(make_model(study), study, TrainingOptions(**SMALL, patience=2), rounds)
    first = history[history["round"] == 1]["held_out_loss"].to_numpy()
    assert len(first) < 20
    assert first.argmin() == len(first) - 3
    assert history["round"].tolist()[-1] == 2
    assert history["epoch"].tolist()[-1] == 21


def test_without_held_out_particles_the_last_weights_stay(folder):
    study = make_study_of(folder, held_out=0.0)
    model = make_model(study)
    history = train(model, study, TrainingOptions(**SMALL, patience=1), [Round(epochs=2.0)])
    assert len(history) == 2
    assert history["held_out_loss"].isna().all()
    assert history["loss"][1] < history["loss"][0]


def test_a_damaged_particle_is_named(folder):
    study = make_study_of(folder)
    row = int(torch.nonzero(~study.held_out)[40])
    broken = study.read(torch.tensor([row])).image
    broken[0, 3, 2] = math.nan
    study.band.transforms.write(row, broken)
    number = int(study.band.particles.particle[row])
    with pytest.raises(InputError, match=rf"^particle {number}: its loss is nan in epoch 1, step \d of 7"):
        train(make_model(study), study, TrainingOptions(**SMALL), ROUNDS)


def test_a_particle_without_a_finite_gradient_is_named(folder):
    """Its loss is finite: the square root of 0 times something that the decoder moves."""
    study = make_study_of(folder)
    row = int(torch.nonzero(~study.held_out)[70])
    marked = study.read(torch.tensor([row])).image
    marked[0, 0, 0] = 1e-6
    study.band.transforms.write(row, marked)

    def loss(batch, predicted):
        nothing = 0 * predicted.real.sum((-2, -1))
        return likelihood(batch, predicted) + torch.where(batch.image[:, 0, 0].real > 0, nothing, nothing + 1).sqrt()

    study = type(study)(study.band, study.gradients, study.held_out, study.baselines, loss, study.device)
    number = int(study.band.particles.particle[row])
    with pytest.raises(InputError, match=rf"^particle {number}: its loss has no finite gradient in epoch 1, step \d"):
        train(make_model(study), study, TrainingOptions(**SMALL), ROUNDS)


def test_a_rate_beyond_reason_is_told_from_a_bad_particle(folder):
    study = make_study_of(folder)
    with pytest.raises(InputError, match="lower the option learning_rate"):
        train(make_model(study), study, TrainingOptions(**(SMALL | {"learning_rate": 1e12})), ROUNDS)


def test_the_gradient_is_cut(folder):
    """A limit near 0 with plain steps of Adam's size changes hardly a weight of zero-mean gradient history."""
    study = make_study_of(folder)
    norms = []
    step = torch.optim.AdamW.step

    def watched(self, *arguments):
        parts = [each.grad.norm() for group in self.param_groups for each in group["params"] if each.grad is not None]
        norms.append(float(torch.stack(parts).norm()))
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", watched)
        train(make_model(study), study, TrainingOptions(**SMALL, gradient_limit=0.5), [Round(epochs=1.0)])
    assert max(norms) <= 0.5 * (1 + 1e-5)
    assert len(norms) == 7


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_numbers(folder, tmp_path, alone):
    """Real SIGKILLs of a process that writes a checkpoint after every step, so some hit the writing itself."""
    checkpoint, results, moments = tmp_path / "run" / "training.pt", tmp_path / "results.pt", random.Random(1)
    for delay in (0.0, 0.03, 0.08, 0.2):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        child = start(folder, results, checkpoint=checkpoint)
        while child.is_alive() and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before):
            time.sleep(0.002)
        time.sleep(delay * moments.random())
        child.kill()
        child.join()
        assert child.exitcode in (-9, 0)
    child = start(folder, results, checkpoint=checkpoint)
    child.join()
    assert child.exitcode == 0
    same(torch.load(results), alone)
    said = results.with_suffix(".txt").read_text()
    assert said.count("going on after epoch") >= 3
    remove_checkpoint(checkpoint)
    assert not checkpoint.parent.exists()


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_and_143(folder, tmp_path, alone):
    checkpoint, results = tmp_path / "training.pt", tmp_path / "results.pt"
    said = results.with_suffix(".txt")
    child = start(folder, results, checkpoint=checkpoint, checkpoint_seconds=1e6)
    while child.is_alive() and "epoch 1," not in (said.read_text() if said.exists() else ""):
        time.sleep(0.002)
    assert not checkpoint.exists()
    child.terminate()
    child.join()
    assert child.exitcode == 128 + 15
    assert torch.load(checkpoint, weights_only=True)["course"]["epoch"] >= 1
    child = start(folder, results, checkpoint=checkpoint)
    child.join()
    assert child.exitcode == 0
    assert "going on after epoch" in said.read_text()
    same(torch.load(results), alone)


@pytest.mark.slow
def test_dropout_too_is_the_same_after_a_restart(folder, tmp_path, alone):
    expected = trained(folder, dropout=0.3)
    assert not np.allclose(expected[0]["loss"][:5], alone[0]["loss"][:5])
    checkpoint, results = tmp_path / "training.pt", tmp_path / "results.pt"
    child = start(folder, results, checkpoint=checkpoint, dropout=0.3)
    while child.is_alive() and not checkpoint.exists():
        time.sleep(0.002)
    child.kill()
    child.join()
    child = start(folder, results, checkpoint=checkpoint, dropout=0.3)
    child.join()
    same(torch.load(results), expected)


def test_a_checkpoint_of_other_settings_is_not_taken_up(folder, tmp_path, capsys):
    checkpoint = tmp_path / "training.pt"
    first, _, _ = trained(folder, checkpoint=checkpoint)
    assert checkpoint.exists()
    again, _, _ = trained(folder, checkpoint=checkpoint)
    assert "going on after epoch 6, step 0" in capsys.readouterr().err
    pd.testing.assert_frame_equal(first, again)
    other, _, _ = trained(folder, checkpoint=checkpoint, noise=0.1)
    assert "a checkpoint of other options, particles or code; training begins anew" in capsys.readouterr().err
    assert not np.allclose(other["loss"][:5], first["loss"][:5])
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    trained(folder, [Round(epochs=0.2)], checkpoint=checkpoint)
    assert "the checkpoint cannot be read" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_give_what_one_gives(folder, tmp_path, alone):
    """The same batches and noise, whose gradients are summed in another order: equal to rounding."""
    results = tmp_path / "results.pt"
    children = [start(folder, results, environment) for environment in processes_of(2)]
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    same(torch.load(results), alone, 2e-3)
    found = pd.DataFrame(torch.load(results)["history"])
    # of losses of some tens of nats, to six digits
    np.testing.assert_allclose(found["loss"], alone[0]["loss"], atol=1e-3)


def test_only_a_round_s_decoders_learn(folder):
    """Those that do not take part keep their weights to the bit: neither steps nor weight decay reach them."""
    study = make_study_of(folder)
    model = make_model(study, second=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, study, TrainingOptions(**SMALL), [Round(("main",), epochs=1.0)])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("decoders.0.") for name in changed)
    assert any(name.startswith("encoder.") for name in changed)
    assert not any(name.startswith("decoders.1.") for name in changed)


@pytest.mark.slow
def test_two_processes_and_a_kill_where_decoders_join(folder, tmp_path):
    rounds = [Round(("main",), 1.0, 32.0), Round(None, 1.5)]
    expected = trained(folder, rounds, second=True)
    results, checkpoint = tmp_path / "results.pt", tmp_path / "training.pt"
    settings = {"rounds": rounds, "second": True, "checkpoint": checkpoint}
    children = [start(folder, results, environment, **settings) for environment in processes_of(2)]
    while children[0].is_alive() and "epoch 1," not in results.with_suffix(".txt").read_text():
        time.sleep(0.01)
    for child in children:
        child.kill()
        child.join()
    assert not results.exists()
    children = [start(folder, results, environment, **settings) for environment in processes_of(2)]
    for child in children:
        child.join()
    assert "going on after epoch" in results.with_suffix(".txt").read_text()
    same(torch.load(results), expected, 2e-3)


@pytest.mark.slow
def test_two_processes_go_on_from_what_one_wrote(folder, tmp_path, alone):
    checkpoint, results = tmp_path / "training.pt", tmp_path / "results.pt"
    child = start(folder, results, checkpoint=checkpoint)
    while child.is_alive() and not checkpoint.exists():
        time.sleep(0.002)
    child.kill()
    child.join()
    children = [start(folder, results, environment, checkpoint=checkpoint) for environment in processes_of(2)]
    for child in children:
        child.join()
    assert results.with_suffix(".txt").read_text().count("going on after epoch") == 1  # the first process speaks
    same(torch.load(results), alone, 2e-3)
