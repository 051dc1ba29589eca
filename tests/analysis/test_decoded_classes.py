"""Classes as maps: found from poor starts, with their shares, as well as they can be told apart."""

from itertools import combinations, pairwise

import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from gaussemble.analysis import decoded_classes
from gaussemble.analysis.class_exchanges import improved
from gaussemble.analysis.class_maps import Classes, climbed, objective, spread_of, stepped
from gaussemble.analysis.decoded_classes import NEAR, class_probabilities, left_without, most_needed, shares_at_rest
from gaussemble.fit.band import open_band
from gaussemble.fit.coordinates import coordinates_of
from gaussemble.fit.losses import likelihood
from gaussemble.fit.population import landmark_subspace
from gaussemble.io.store import open_store, write_store
from gaussemble.model.heterogeneity import DeformableMixture, single_design
from gaussemble.quantities import Mixture
from known_decoders import SIZES
from tiny import PIXEL, bent, images, molecule, particles, white_noise_power

NOISE, COUNT = 0.5, 1500
ANGLES, SHARES = torch.tensor([-0.5, 0.1, 0.6]), torch.tensor([0.5, 0.2, 0.3])


class SwingingModel(DeformableMixture):
    """The arm's angle is the latent, in parts of `reach` beyond which it does not go."""

    reach = float("inf")

    def decode(self, latent, active=None):
        return bent(molecule(), latent[:, 0].clamp(-self.reach, self.reach))


def swinging(angles: torch.Tensor, reach: float = float("inf")) -> SwingingModel:
    """A model whose landmarks are some angles, with equal shares."""
    model = SwingingModel(single_design(latent_dim=1, **SIZES), molecule()).eval()
    model.landmark, model.landmark_share = angles[:, None], torch.full((len(angles),), 1 / len(angles))
    model.reach = reach
    return model


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Particles of three angles: their band and classes."""
    generator = torch.Generator().manual_seed(5)
    known = particles(COUNT, generator)
    label = torch.multinomial(SHARES, COUNT, replacement=True, generator=generator)
    folder = tmp_path_factory.mktemp("classes")
    write_store(folder, known, images(known, bent(molecule(), ANGLES[label]), NOISE, generator), PIXEL)
    return open_band(open_store(folder), white_noise_power(NOISE), 15.0), label


@pytest.fixture(scope="module")
def measured(study):
    """What particles say of the weights of landmarks at 25 angles, the landmarks' weights, and how these are spread."""
    band, _ = study
    subspace = landmark_subspace(swinging(torch.linspace(-0.8, 0.8, 25)), band, NEAR)
    table, weight = coordinates_of(subspace, band), subspace.weight.double()
    return table.of(torch.arange(COUNT)), weight, spread_of(weight, torch.full((25,), 1 / 25, dtype=torch.float64))


def gains_of(band, angles: torch.Tensor) -> torch.Tensor:
    """Log-likelihoods under arms at some angles, each by its own projections."""
    batch, arms = band.batch(torch.arange(COUNT)), bent(molecule(), angles)
    each = zip(arms.center, arms.amplitude, arms.width, strict=True)
    return torch.stack([-likelihood(batch, batch.predict(Mixture(*one))) for one in each], dim=1).double()


def limit(study) -> float:
    """The Rand index of the most probable of the true structures."""
    band, label = study
    found = adjusted_rand_score(label, (gains_of(band, ANGLES) + SHARES.log()).argmax(1))
    assert 0.2 < found < 0.97  # noise through which the classes are not plain
    return found


def at(weight: torch.Tensor, rows: list[int]) -> Classes:
    """Classes at some landmarks, with equal shares."""
    return Classes(weight[rows], torch.full((len(rows),), 1 / len(rows), dtype=torch.float64).log())


@pytest.mark.parametrize(
    "angles",
    [
        torch.linspace(-0.8, 0.8, 25),
        torch.tensor([-0.5] * 14 + [0.1] + [0.6] * 5) + 0.1 * torch.linspace(-1, 1, 20)[torch.arange(0, 60, 3) % 20],
        torch.linspace(-0.8, 0.8, 7),
    ],
    ids=["everywhere", "crowded about two states", "hardly more than classes that begin"],
)
def test_classes_are_found_and_their_shares(study, angles):
    band, label = study
    probability = class_probabilities(swinging(angles), band, 3)
    assert adjusted_rand_score(label, probability.argmax(1)) > 0.95 * limit(study)
    order = [torch.from_numpy(probability)[label == state].mean(0).argmax() for state in range(3)]
    assert sorted(order) == [0, 1, 2]
    found = torch.from_numpy(probability).mean(0)[torch.stack(order)]
    assert torch.allclose(found, torch.bincount(label).double() / COUNT, atol=0.06)


def test_probabilities_are_honest(study):
    """The mean probability of the true class is the mean of the squares, as it is under the true structures."""
    band, label = study
    probability = torch.from_numpy(class_probabilities(swinging(torch.linspace(-0.8, 0.8, 25)), band, 3))
    assert torch.allclose(probability.sum(1), torch.ones(COUNT, dtype=torch.float64))
    order = torch.stack([probability[label == state].mean(0).argmax() for state in range(3)])
    right = probability[:, order].gather(1, label[:, None]).mean()
    assert float(right) == pytest.approx(float(probability.square().sum(1).mean()), abs=0.04)


def test_classes_go_where_the_decoder_does_not(study):
    """With one that bends too little, maps of their own tell particles apart better than the best of its structures."""
    band, label = study
    reach = 0.35
    decoder = (gains_of(band, ANGLES.clamp(-reach, reach)) + SHARES.log()).argmax(1)
    found = class_probabilities(swinging(torch.linspace(-reach, reach, 15)), band, 3).argmax(1)
    before, after = (adjusted_rand_score(label, one) for one in (decoder, found))
    assert after - before > 0.15 * (limit(study) - before)  # seen: 0.31 of it


def test_a_step_never_leads_down_and_ends_where_the_posterior_is_flat(measured):
    seen, weight, spread = measured
    classes, values = at(weight, [8, 12, 15]), []
    for _ in range(12):
        classes, value = stepped([seen], classes, spread)
        values.append(value)
    assert all(after >= before for before, after in pairwise(values))
    assert values[0] == pytest.approx(objective([seen], at(weight, [8, 12, 15]), spread))
    rest = climbed([seen], classes, spread, 200)
    assert objective([seen], rest, spread) >= values[-1]

    def posterior(place: torch.Tensor, logit: torch.Tensor) -> torch.Tensor:
        """Written out anew, in float64."""
        row, column = torch.triu_indices(place.shape[1], place.shape[1])
        gram = torch.zeros(COUNT, *2 * place.shape[1:], dtype=torch.float64)
        gram[:, row, column] = gram[:, column, row] = seen.curvature.double()
        gains = seen.pull.double() @ place.T - 0.5 * torch.einsum("kc,ncd,kd->nk", place, gram, place)
        offset = place - spread.mean
        prior = 0.5 * torch.einsum("kc,cd,kd->", offset, spread.precision, offset)
        return (gains + torch.log_softmax(logit, 0)).logsumexp(1).sum() - prior

    slopes = torch.func.grad(posterior, argnums=(0, 1))(rest.weight, rest.logit)
    away = torch.func.grad(posterior, argnums=(0, 1))(*vars(at(weight, [8, 12, 15])).values())
    for flat, steep in zip(slopes, away, strict=True):
        assert float(flat.norm()) < 0.02 * float(steep.norm())


def test_far_steps_save_many(measured):
    """Of 24 steps each, from two classes in one state and one between the others."""
    seen, weight, spread = measured
    start = plain = at(weight, [4, 5, 17])
    for _ in range(24):
        plain, _ = stepped([seen], plain, spread)
    best, slow, quick = (
        objective([seen], each, spread)
        for each in (climbed([seen], start, spread, 100), plain, climbed([seen], start, spread, 6))
    )
    assert best - quick < 0.2 * (best - slow)  # seen: a thirtieth


def test_nothing_is_exchanged_where_nothing_is_gained(measured):
    seen, weight, spread = measured
    best = climbed([seen], at(weight, [4, 14, 21]), spread, 100)
    assert torch.allclose(improved(seen, best, spread).weight, best.weight, atol=0.05)


def test_of_many_structures_those_stay_that_the_particles_need(study):
    """Half of the particles are in one state, which most of the starts are near; the rarest state has one start."""
    band, _ = study
    starts = torch.tensor([-0.6, -0.5, -0.4, 0.1, 0.6, 0.7])
    gains = gains_of(band, starts)
    kept = starts[most_needed(gains, 3)]
    assert kept[0] in starts[:3] and kept[1] == 0.1 and kept[2] in starts[4:]
    assert torch.equal(most_needed(gains, 6), torch.arange(6))


def test_what_leaves_is_reckoned_as_if_it_were_gone(study):
    """Against the log-likelihood without it; also of a structure that some particles cannot do without."""
    band, _ = study
    gains = gains_of(band, ANGLES)
    share = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    gains[:5] -= torch.tensor([0.0, 800.0, 900.0])  # exp(-800) is 0 in float64
    whole = (share.log() + gains).logsumexp(1).sum()
    for gone, found in enumerate(left_without(gains, share).tolist()):
        kept = torch.arange(3) != gone
        rest = share[kept] / share[kept].sum()
        assert found == pytest.approx(float((rest.log() + gains[:, kept]).logsumexp(1).sum() - whole), rel=1e-9)


def test_what_every_particle_wants_stays():
    """By so much that its share is 1 but for rounding."""
    gains = torch.full((1000, 16), -60.0, dtype=torch.float64)
    gains[:, 0] = 0
    assert 0 in most_needed(gains, 4)
    assert most_needed(gains, 1).tolist() == [0]


def test_what_is_given_up_costs_the_least_of_all_choices(study):
    """Against every choice of three of six structures, with shares of their own."""
    band, _ = study
    gains = gains_of(band, torch.tensor([-0.6, -0.3, 0.0, 0.2, 0.5, 0.9]))

    def likelihood_of(kept: torch.Tensor) -> float:
        own = gains[:, kept]
        share = shares_at_rest(own, torch.full((3,), 1 / 3, dtype=torch.float64))
        return float((share.log() + own).logsumexp(1).sum())

    every = [likelihood_of(torch.tensor(kept)) for kept in combinations(range(6), 3)]
    ours = likelihood_of(most_needed(gains, 3))
    assert sum(ours < one - 1e-6 for one in every) <= 1  # leaving one by one, the best or the second of twenty


def test_landmarks_that_have_come_to_one_place_are_one_class_at_least(study):
    band, _ = study
    probability = class_probabilities(swinging(torch.full((8,), 0.1)), band, 2)
    assert probability.shape == (COUNT, 2)
    assert torch.isfinite(torch.from_numpy(probability)).all()


def test_few_particles_choose_among_landmarks_and_all_have_their_say(study, monkeypatch):
    band, label = study
    monkeypatch.setattr(decoded_classes, "CHOOSING", 300)
    monkeypatch.setattr(decoded_classes, "SEARCHING", 700)
    probability = class_probabilities(swinging(torch.linspace(-0.8, 0.8, 25)), band, 3)
    assert len(probability) == COUNT
    assert adjusted_rand_score(label, probability.argmax(1)) > 0.95 * limit(study)


def test_classes_are_the_same_each_time(study):
    band, _ = study
    one, other = (class_probabilities(swinging(torch.linspace(-0.8, 0.8, 9)), band, 2) for _ in range(2))
    assert (one == other).all()
