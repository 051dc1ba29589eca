"""Rounds of the population: what learns in them, that unseen particles gain, and when they end."""

import itertools
import re

import pytest
import torch

from gaussemble.fit.population import compared
from gaussemble.fit.rounds import Round, population_rounds
from gaussemble.fit.training import TrainingOptions, rises, train, unseen_evidence
from gaussemble.io.store import write_store
from made_training import RESOLUTION, SMALL, make_model, make_study_of
from tiny import PIXEL, images, make_store, molecule, particles

FIRST = [Round(None, 3.0, 2 * RESOLUTION), Round(None, 3.0)]
NOISE = 0.35  # SNR 0.02: posteriors are nearly as wide as the motion


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("noisy")
    make_store(path, 1200, NOISE, torch.Generator().manual_seed(0))
    return path


def said(text: str) -> list[float]:
    """The evidence that rounds began with."""
    return [float(value) for value in re.findall(r"round \d+, (-?[0-9.]+) nats", text)]


def test_unseen_particles_gain_and_the_encoder_rests(folder, capsys):
    study = make_study_of(folder, NOISE)
    model = make_model(study)
    train(model, study, TrainingOptions(**SMALL), FIRST)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rounds = population_rounds(FIRST[-1], 4, 3, SMALL["learning_rate"])
    history = train(model, study, TrainingOptions(**SMALL), rounds)
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith("encoder."))
    assert any(not torch.equal(after[name], before[name]) for name in after if name.startswith("decoders."))
    assert float(model.landmark_share.sum()) == pytest.approx(1, abs=1e-5)
    nats = said(capsys.readouterr().err)
    assert len(nats) >= 3
    assert nats[-1] > nats[0]
    assert all(later > earlier for earlier, later in itertools.pairwise(nats[:-1]))
    assert (history["learning_rate"] <= SMALL["learning_rate"] / 2).all()
    # what is left in the model is what the evidence was taken of
    held = unseen_evidence(model, study, compared(model, study.band))
    assert len(held) == study.held_out.sum()
    assert float(held.mean()) > nats[0]


def test_where_nothing_varies_they_end_at_once(tmp_path, generator, capsys):
    known = particles(600, generator)
    write_store(tmp_path, known, images(known, molecule(), NOISE, generator), PIXEL)
    study = make_study_of(tmp_path, NOISE)
    model = make_model(study)
    history = train(model, study, TrainingOptions(**SMALL), FIRST + population_rounds(FIRST[-1], 8, 2, 4e-3))
    nats = said(capsys.readouterr().err)
    assert len(nats) <= 4
    assert max(nats) < 0.1
    assert history["round"].max() < 2 + 4


def test_a_round_that_harms_is_undone(folder):
    study = make_study_of(folder, NOISE)
    model = make_model(study)
    train(model, study, TrainingOptions(**SMALL), FIRST)
    before = {name: value.clone() for name, value in model.decoders.state_dict().items()}
    train(model, study, TrainingOptions(**SMALL), [Round(None, 1.0, None, 0.5, population=True)])
    assert all(torch.equal(value, before[name]) for name, value in model.decoders.state_dict().items())


def test_without_held_out_particles_all_of_them_decide(folder, capsys):
    study = make_study_of(folder, NOISE, held_out=0.0)
    history = train(
        make_model(study), study, TrainingOptions(**SMALL), FIRST + population_rounds(FIRST[-1], 2, 1, 4e-3)
    )
    assert len(said(capsys.readouterr().err)) == 2
    assert history["round"].tolist()[-1] in (3, 4)
    assert history["held_out_loss"].isna().all()


def test_a_rise_must_be_more_than_chance(generator):
    before = 3 * torch.randn(400, generator=generator)
    noise = 0.2 * torch.randn(400, generator=generator)
    noise = (noise - noise.mean()) / noise.std()  # the standard error of its mean is 0.05
    assert rises(before, before + noise + 0.11)
    assert not rises(before, before + noise + 0.09)
    assert not rises(before, before - 1)
    assert not rises(before, before)
    assert not rises(torch.zeros(1), torch.ones(1))  # of one particle nothing is sure


def test_rounds_take_up_what_the_last_one_trained():
    last = Round(("main",), 4.0, 20.0, 1e-3, "trainable")
    found = population_rounds(last, 2, 3, 5e-3)
    assert found == [Round(("main",), 3.0, None, 5e-4, "trainable", population=True)] * 2
    assert population_rounds(Round(), 1, 3, 5e-3)[0].learning_rate == 2.5e-3
    assert population_rounds(Round(), 0, 3, 5e-3) == []
