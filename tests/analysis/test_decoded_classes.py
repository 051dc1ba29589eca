"""Classes as structures: found from a poor start, with their shares, as well as they can be told apart."""

from itertools import combinations

import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from gaussemble.analysis import decoded_classes
from gaussemble.analysis.decoded_classes import (
    Classes,
    all_losses,
    chosen_landmarks,
    class_losses,
    class_probabilities,
    fit_classes,
    left_without,
    memberships,
    most_needed,
    most_probable,
    shares_at_rest,
)
from gaussemble.fit.band import open_band
from gaussemble.fit.losses import likelihood
from gaussemble.io.store import open_store, write_store
from gaussemble.model.heterogeneity import DeformableMixture, single_design
from gaussemble.quantities import Mixture
from known_decoders import SIZES
from tiny import PIXEL, bent, images, molecule, particles, white_noise_power

NOISE, COUNT = 0.5, 1500
ANGLES, SHARES = torch.tensor([-0.5, 0.1, 0.6]), torch.tensor([0.5, 0.2, 0.3])


def decode(latent: torch.Tensor) -> Mixture:
    """The arm's angle is the latent: `tiny.bent`, differentiable."""
    still, cosine, sine = molecule().expand(len(latent)), latent[:, :1].cos(), latent[:, :1].sin()
    x, y, z = still.center[:, 16:].unbind(-1)
    arm = torch.stack([cosine * x - sine * y, sine * x + cosine * y, z], dim=-1)
    return Mixture(torch.cat([still.center[:, :16], arm], dim=1), still.amplitude, still.width)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Particles of three angles: their band and classes."""
    generator = torch.Generator().manual_seed(5)
    known = particles(COUNT, generator)
    label = torch.multinomial(SHARES, COUNT, replacement=True, generator=generator)
    folder = tmp_path_factory.mktemp("classes")
    write_store(folder, known, images(known, bent(molecule(), ANGLES[label]), NOISE, generator), PIXEL)
    return open_band(open_store(folder), white_noise_power(NOISE), 15.0), label


def rigid(latent: torch.Tensor) -> Mixture:
    """A decoder that cannot bend the arm as far as it goes: the angle is at most 0.3."""
    return decode(0.3 * torch.tanh(latent))


TRUE = Classes(decode(ANGLES[:, None]), SHARES)


@pytest.mark.parametrize("passes", [0, 2], ids=["decoded", "freed"])
def test_structures_and_shares_are_found(study, passes):
    band, label = study
    found = fit_classes(decode, band, torch.tensor([[-0.2], [0.0], [0.2]]), passes)
    # an arm's Gaussian that is 20 Å from the hinge is 1.2 Å off where its angle is by 0.06; its standard error is 0.01
    moved = (found.structure.center - TRUE.structure.center).norm(dim=-1)
    assert float(moved.square().mean().sqrt()) < (1.2 if passes == 0 else 2.0)
    assert torch.allclose(found.share, torch.bincount(label) / COUNT, atol=0.06)
    ours, limit = (adjusted_rand_score(label, most_probable(memberships(band, one))) for one in (found, TRUE))
    assert 0.2 < limit < 0.97  # noise through which the classes are not plain
    assert ours > 0.95 * limit


def test_freed_gaussians_go_where_the_decoder_cannot(study):
    """With a decoder that bends too little, classes of their own tell particles apart better than decoded ones."""
    band, label = study
    scores = []
    for passes in (0, 3):
        found = fit_classes(rigid, band, torch.tensor([[-0.8], [0.0], [0.8]]), passes)
        scores.append(adjusted_rand_score(label, most_probable(memberships(band, found))))
    limit = adjusted_rand_score(label, most_probable(memberships(band, TRUE)))
    assert scores[1] - scores[0] > 0.15 * (limit - scores[0])  # seen: a third of it, in 180 steps


def test_of_many_structures_those_stay_that_the_particles_need(study):
    """Half of the particles are in one state, which most of the starts are near; the rarest state has one start."""
    band, _ = study
    starts = torch.tensor([-0.6, -0.5, -0.4, 0.1, 0.6, 0.7])
    losses = all_losses(band, decode(starts[:, None]))
    kept = starts[most_needed(losses, 3)]
    assert kept[0] in starts[:3] and kept[1] == 0.1 and kept[2] in starts[4:]
    assert torch.equal(most_needed(losses, 6), torch.arange(6))


class SwingingModel(DeformableMixture):
    """The arm's angle is the latent."""

    def decode(self, latent, active=None):
        return decode(latent)


def test_landmarks_that_crowd_about_one_state_are_no_harm(study, monkeypatch):
    """Most of them near the most frequent state, one in twenty near the rarest; classes begin with one in each."""
    band, label = study
    model = SwingingModel(single_design(latent_dim=1, **SIZES), molecule()).eval()
    near = torch.tensor([-0.5] * 14 + [0.1] + [0.6] * 5)
    scatter = 0.1 * torch.linspace(-1, 1, 20)[torch.randperm(20, generator=torch.Generator().manual_seed(1))]
    model.landmark, model.landmark_share = (near + scatter)[:, None], torch.full((20,), 0.05)
    monkeypatch.setattr(decoded_classes, "CHOOSING", 700)  # of 1,500 every third then
    start = chosen_landmarks(model, band, 3)
    assert torch.allclose(start.flatten().sort().values, ANGLES, atol=0.11)
    probability = class_probabilities(model, band, 3, passes=0)
    limit = adjusted_rand_score(label, most_probable(memberships(band, TRUE)))
    assert adjusted_rand_score(label, probability.argmax(1)) > 0.95 * limit


def test_what_leaves_is_reckoned_as_if_it_were_gone(study):
    """Against the log-likelihood without it; also of a structure that some particles cannot do without."""
    band, _ = study
    losses = all_losses(band, decode(ANGLES[:, None]))
    share = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    losses[:5] += torch.tensor([0.0, 800.0, 900.0])  # exp(-800) is 0 in float64
    whole = (share.log() - losses).logsumexp(1).sum()
    for gone, found in enumerate(left_without(losses, share).tolist()):
        kept = torch.arange(3) != gone
        rest = share[kept] / share[kept].sum()
        assert found == pytest.approx(float((rest.log() - losses[:, kept]).logsumexp(1).sum() - whole), rel=1e-9)


def test_of_more_starts_those_stay_that_the_particles_need(study):
    """Once moved: two near one state are as good as one, and the farthest from its own state comes there."""
    band, label = study
    found = fit_classes(decode, band, torch.tensor([[-0.6], [-0.4], [-0.1], [0.0], [0.3], [0.7]]), passes=0, count=3)
    assert len(found) == 3
    ours, limit = (adjusted_rand_score(label, most_probable(memberships(band, one))) for one in (found, TRUE))
    assert ours > 0.95 * limit
    assert torch.allclose(found.share.sort().values, torch.bincount(label).sort().values / COUNT, atol=0.06)


def test_what_every_particle_wants_stays():
    """By so much that its share is 1 but for rounding."""
    losses = torch.full((1000, 16), 60.0, dtype=torch.float64)
    losses[:, 0] = 0
    assert 0 in most_needed(losses, 4)
    assert most_needed(losses, 1).tolist() == [0]


def test_what_is_given_up_costs_the_least_of_all_choices(study):
    """Against every choice of three of six structures, with shares of their own."""
    band, _ = study
    losses = all_losses(band, decode(torch.tensor([-0.6, -0.3, 0.0, 0.2, 0.5, 0.9])[:, None]))

    def likelihood_of(kept: torch.Tensor) -> float:
        own = losses[:, kept]
        share = shares_at_rest(own, torch.full((3,), 1 / 3, dtype=torch.float64))
        return float((share.log() - own).logsumexp(1).sum())

    every = [likelihood_of(torch.tensor(kept)) for kept in combinations(range(6), 3)]
    ours = likelihood_of(most_needed(losses, 3))
    assert sum(ours < one - 1e-6 for one in every) <= 1  # leaving one by one, the best or the second of twenty


def test_probabilities_are_honest(study):
    """Under the true structures the mean probability of the true class is the mean of the squares."""
    band, label = study
    probability = memberships(band, TRUE)
    assert torch.allclose(probability.sum(1), torch.ones(COUNT, dtype=torch.float64))
    right = probability.gather(1, label[:, None]).mean()
    assert float(right) == pytest.approx(float(probability.square().sum(1).mean()), abs=0.04)


def test_a_loss_is_that_of_its_structure(study):
    band, _ = study
    batch = band.batch(torch.arange(7))
    losses = class_losses(batch, decode(ANGLES[:, None]))
    alone = decode(ANGLES[1:2, None])
    expected = likelihood(batch, batch.predict(Mixture(alone.center[0], alone.amplitude[0], alone.width[0])))
    assert torch.allclose(losses[:, 1], expected, rtol=1e-5)


def test_the_same_seed_gives_the_same_classes(study):
    band, _ = study
    start = torch.tensor([[-0.2], [0.2]])
    one, other = (fit_classes(decode, band, start, seed=3) for _ in range(2))
    assert torch.equal(one.structure.center, other.structure.center) and torch.equal(one.share, other.share)
    assert torch.equal(start, torch.tensor([[-0.2], [0.2]]))
