"""The order of an epoch, the held-out particles, and what a training holds in memory."""

import math
from functools import partial

import pytest
import torch

from gaussemble.errors import InputError
from gaussemble.fit import study as study_module
from gaussemble.fit.band import open_band
from gaussemble.fit.gradients import gradient_inputs, make_pooling
from gaussemble.fit.losses import likelihood
from gaussemble.fit.rounds import Round
from gaussemble.fit.study import batches, choose_held_out, cut, epoch_order, make_study, shuffled, source
from gaussemble.io.store import open_store
from made_training import RESOLUTION, make_study_of, start
from tiny import make_store, molecule, white_noise_power


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store of 260 bent molecules."""
    path = tmp_path_factory.mktemp("store")
    make_store(path, 260, 0.3, torch.Generator().manual_seed(0))
    return path


def test_an_epoch_has_every_row_once(generator):
    rows = torch.arange(1000) * 2
    portions = epoch_order(rows, 16, 300, generator)
    assert [len(portion) for portion in portions] == [250] * 4
    assert sorted(torch.cat(portions).tolist()) == rows.tolist()
    sizes = [len(part) for portion in portions for part in cut(portion, 32)]
    assert min(sizes) >= 31


def test_a_portion_comes_from_everywhere_in_runs_that_lie_together(generator):
    rows = torch.arange(100_000)
    portions = epoch_order(rows, 100, 10_000, generator)
    for portion in portions:
        ascending = portion.sort().values
        runs = 1 + int((ascending.diff() > 1).sum())
        assert runs <= 101  # blocks of 100, not 10,000 single rows
        # the mean of 100 random blocks: standard deviation 100,000 / sqrt(12 x 100)
        assert abs(float(portion.float().mean()) - 50_000) < 4 * 100_000 / math.sqrt(1200)
        # shuffled inside: neighbours in the order are no neighbours on disk
        assert float((portion.diff().abs() == 1).float().mean()) < 0.01


def test_particles_that_met_in_a_portion_part_in_the_next_epoch():
    first, second = (epoch_order(torch.arange(10_000), 10, 1000, source(0, epoch)) for epoch in (1, 2))
    together = set(first[0].tolist())
    shares = [len(together & set(portion.tolist())) / 1000 for portion in second]
    assert max(shares) < 0.2  # a tenth each, by chance


def test_orders_are_functions_of_their_numbers():
    seeds = ((3, 1), (3, 1), (3, 2))
    one, same, other = (epoch_order(torch.arange(500), 8, 100, source(*numbers)) for numbers in seeds)
    assert torch.equal(torch.cat(one), torch.cat(same))
    assert not torch.equal(torch.cat(one), torch.cat(other))


@pytest.mark.parametrize("first", [0, 1, 4, 6])
def test_batches_go_on_where_they_are_told(folder, first, monkeypatch):
    study = make_study_of(folder)
    size = study.band.transforms.row_bytes + study.gradients.row_bytes
    monkeypatch.setattr(study_module, "PORTION", 100 * size)
    monkeypatch.setattr(study_module, "BLOCK", 8 * size)
    rows = torch.nonzero(~study.held_out).flatten()
    order = shuffled(study, rows, source(0))
    assert len(order) == 3
    whole = list(batches(study, order, 32, 0))
    assert torch.equal(torch.cat([part.rows for _, _, part in whole]), torch.cat(order))
    rest = list(batches(study, order, 32, first))
    assert len(rest) == len(whole) - first
    for (count, own, part), (_, _, expected) in zip(rest, whole[first:], strict=True):
        assert torch.equal(part.rows, expected.rows)
        assert torch.equal(part.image, study.band.transforms.read(part.rows))
        assert torch.equal(part.gradient, study.gradients.read(part.rows))
        assert own == slice(0, count)


def test_baselines_are_losses_of_the_neutral_mixture(folder):
    study = make_study_of(folder)
    rows = torch.tensor([7, 200])
    batch = study.band.batch(rows)
    for resolution, part in ((None, batch), (2 * RESOLUTION, batch.coarser(study.band.resolution / (2 * RESOLUTION)))):
        expected = likelihood(part, part.predict(molecule()))
        torch.testing.assert_close(study.baselines[resolution][rows], expected, rtol=1e-4, atol=1e-3)
    assert part.box < batch.box


def test_a_sample_is_from_everywhere(folder):
    study = make_study_of(folder)
    every, third = list(study.sampled_evidence(1000, False)), list(study.sampled_evidence(100, True))
    assert torch.equal(torch.cat([each.gradient for each in every]), study.gradients.read(torch.arange(260)))
    assert sum(each.image.numel() for each in every) == 0
    rows = torch.arange(0, 260, 3)
    assert torch.equal(torch.cat([each.gradient for each in third]), study.gradients.read(rows))
    assert torch.equal(torch.cat([each.image for each in third]), study.band.transforms.read(rows))


def test_a_particle_without_a_finite_gradient_is_named(folder):
    band = open_band(open_store(folder), white_noise_power(0.3), RESOLUTION)
    broken = band.transforms.read(torch.tensor([90]))
    band.transforms.write(90, broken * math.nan)
    neutral = molecule()
    pooling = make_pooling(neutral, torch.ones(24, dtype=torch.bool), 12, ["position"], 0)
    seen = partial(gradient_inputs, neutral=neutral, loss=likelihood, pooling=pooling, length=RESOLUTION)
    with pytest.raises(InputError, match=r"^particle 271: its loss has no finite gradient"):
        make_study(band, likelihood, neutral, seen, set(), torch.zeros(260, dtype=torch.bool))


def test_held_out_is_a_fixed_share():
    chosen = choose_held_out(torch.arange(50), 0.2, seed=4)
    assert int(chosen.sum()) == 10
    assert torch.equal(chosen, choose_held_out(torch.arange(50), 0.2, seed=4))
    assert not torch.equal(chosen, choose_held_out(torch.arange(50), 0.2, seed=5))


def test_held_out_particles_are_some_and_never_all():
    assert choose_held_out(torch.arange(5), 0.1, 0).sum() == 1
    assert choose_held_out(torch.arange(5), 0.999, 0).sum() == 4
    assert choose_held_out(torch.arange(5), 0.0, 0).sum() == 0


def test_copies_of_a_particle_are_held_out_together():
    particle = torch.arange(20).repeat_interleave(4) * 3
    chosen = choose_held_out(particle, 0.25, seed=1)
    assert chosen.sum() == 20
    assert chosen.view(20, 4).sum(dim=1).unique().tolist() == [0, 4]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_particles(tmp_path, generator):
    """Eight times the particles: 24 MB more of transforms and inputs on disk, 2 MB of poses and CTF in memory."""
    held = []
    for count in (1000, 8000):
        make_store(tmp_path / str(count), count, 0.3, generator)
        results = tmp_path / f"{count}.pt"
        rounds = [Round(epochs=0.1)]
        start(tmp_path / str(count), results, rounds=rounds, portion=1 << 20, checkpoint_seconds=1e6).join()
        held.append(torch.load(results)["megabytes"])
    study = make_study_of(tmp_path / "8000")
    on_disk = 7000 * (study.band.transforms.row_bytes + study.gradients.row_bytes) / 1e6
    assert on_disk > 20
    assert held[1] - held[0] < on_disk / 2.5
