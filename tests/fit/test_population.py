"""Landmarks: exact posteriors where they are known, populations of any form, and words that are kept."""

import pytest
import torch

from gaussemble.fit.band import Band
from gaussemble.fit.embedding import mixed, posteriors
from gaussemble.fit.losses import likelihood
from gaussemble.fit.population import (
    compared,
    drawn,
    drawn_again,
    evidence,
    moments,
    populate,
    population,
    probability,
    shares,
    spacing,
)
from gaussemble.fit.posterior import Posterior, Prior, refine
from gaussemble.fit.scratch import make_table
from gaussemble.fit.study import Study
from gaussemble.model.heterogeneity import DeformableMixture, single_design
from gaussemble.quantities import Mixture
from known_decoders import ARM, SIZES, ArmModel, FadingModel, assert_calibrated, make_band, spread_latents
from tiny import molecule

CPU = torch.device("cpu")
UNIT = Prior(torch.zeros(2), torch.eye(2))


def at_landmarks(model: DeformableMixture, place: torch.Tensor, share: torch.Tensor) -> None:
    """Give a model a population."""
    model.landmark, model.landmark_share = place, share / share.sum()


def grid(reach: float = 3.5, count: int = 41) -> torch.Tensor:
    """(landmark, 2) a square of points."""
    axis = torch.linspace(-reach, reach, count)
    return torch.cartesian_prod(axis, axis)


def study_of(band: Band) -> Study:
    """What `populate` reads of a study."""
    rows = torch.arange(len(band))
    with torch.no_grad():
        return Study(band, make_table(len(band), (0,), float), rows % 10 == 0, {}, likelihood, CPU)


def test_posteriors_over_landmarks_are_those_of_a_linear_decoder(tmp_path, generator):
    """Images are linear in the latents, so a fine grid with a normal distribution's shares gives what algebra gives."""
    truth = torch.randn(60, 2, generator=generator)
    model, band = make_band(tmp_path, generator, truth, 0.3, FadingModel)
    place = grid()
    at_landmarks(model, place, torch.exp(-0.5 * place.square().sum(1)))
    gains = compared(model, band).read(torch.arange(60))
    found, start, number = moments(model, gains)
    exact = refine(model, band.batch(torch.arange(60)), truth, UNIT, 1)
    # components leave out a hundredth of the structures' power, and the grid's step is a third of a deviation
    assert float(((found.latent - exact.latent) / exact.deviation).abs().max()) < 0.3
    assert torch.allclose(found.deviation, exact.deviation, rtol=0.1)
    correlation = [each.covariance[:, 0, 1] / each.deviation.prod(1) for each in (found, exact)]
    assert float((correlation[0] - correlation[1]).abs().max()) < 0.1
    assert float(exact.deviation.mean()) < 0.8  # the images say something
    assert float(((start - exact.latent) / exact.deviation).abs().max()) < 1
    assert float(number.min()) > 5


def test_evidence_is_the_integral_over_the_population(tmp_path, generator):
    """log E p(image | z) of a linear decoder under N(0, 1), less the likelihood at the neutral mixture."""
    truth = torch.randn(60, 2, generator=generator)
    model, band = make_band(tmp_path, generator, truth, 0.3, FadingModel)
    place = grid()
    at_landmarks(model, place, torch.exp(-0.5 * place.square().sum(1)))
    found = evidence(model, compared(model, band).read(torch.arange(60)))
    batch = band.batch(torch.arange(60))
    mode = refine(model, batch, truth, UNIT, 2)
    at_mode = likelihood(batch, batch.predict(model.decode(mode.latent))) + UNIT.cost(mode.latent)
    # for exactly normal posteriors: value at the mode times the root of the covariance's determinant
    exact = 0.5 * torch.linalg.slogdet(mode.covariance)[1] - at_mode
    exact = exact + likelihood(batch, batch.predict(model.decode(torch.zeros(60, 2))))
    assert float(exact.std()) > 1
    assert torch.allclose(found.float(), exact, atol=0.2)


def test_shares_take_any_form(generator):
    """Two heaps of latents, seen through noise that joins them: neither a normal distribution, nor what is seen."""
    place = torch.linspace(-4, 4, 81)
    truth = torch.where(torch.rand(20_000, generator=generator) < 0.3, -1.5, 1.5)
    seen = truth + torch.randn(20_000, generator=generator)
    gains = -0.5 * (seen[:, None] - place).square()
    share = shares(gains)
    assert float(share.sum()) == pytest.approx(1, abs=1e-5)
    mean = float(share @ place)
    assert mean == pytest.approx(0.6, abs=0.03)  # 3 standard errors of 20,000
    spread = float(share @ (place - mean).square())
    assert spread == pytest.approx(9 * 0.3 * 0.7, rel=0.1)  # of the truth; of what is seen it is 2.9
    heaps = float(share[(place.abs() > 0.8) & (place.abs() < 2.2)].sum())
    assert heaps > 0.75  # 0.51 of what is seen


def test_draws_are_as_frequent_as_they_are_probable(generator):
    model = ArmModel(single_design(latent_dim=2, **SIZES), molecule()).eval()
    at_landmarks(model, torch.randn(4, 2, generator=generator), torch.tensor([0.1, 0.2, 0.3, 0.4]))
    table = make_table(2000, (4,), float)
    gains = torch.tensor([1.0, 0.0, -1.0, 0.5]).repeat(2000, 1)
    table.write(0, gains.double())
    found = drawn(model, table, 3, seed=1)
    expected = probability(model, gains[:1])[0]
    count = torch.bincount(found.flatten().long(), minlength=4) / found.numel()
    assert torch.allclose(count.double(), expected, atol=0.02)  # 3 standard errors of 6,000
    assert not (found[:, 0] == found[:, 1]).all()
    assert torch.equal(found, drawn(model, table, 3, seed=1))
    assert not torch.equal(found, drawn(model, table, 3, seed=2))


def test_landmarks_are_drawn_again_near_those_that_are_needed(generator):
    model = ArmModel(single_design(latent_dim=2, **SIZES), molecule()).eval()
    place = torch.cat([torch.randn(64, 2, generator=generator), 30 + torch.randn(64, 2, generator=generator)])
    at_landmarks(model, place, torch.cat([torch.full((64,), 0.9 / 64), torch.full((64,), 0.1 / 64)]))
    between, again = spacing(model), drawn_again(model, generator)
    assert 0.8 < float((again.norm(dim=1) < 15).float().mean()) < 0.98
    apart = torch.cdist(again, place).min(1).values
    assert float(apart.median()) < 2 * float(between.median())
    assert float(torch.cdist(again, again).fill_diagonal_(9).min()) > 0  # no two at one place
    whole = population(model)
    assert torch.allclose(whole.mean, torch.full((2,), 3.0), atol=0.5)
    assert float(whole.covariance[0, 0]) == pytest.approx(900 * 0.09 + 1, rel=0.1)


def test_landmarks_that_have_come_to_one_place_part_again(generator):
    model = ArmModel(single_design(latent_dim=2, **SIZES), molecule()).eval()
    at_landmarks(model, torch.full((64, 2), 5.0), torch.cat([torch.ones(1), torch.zeros(63)]))
    for _ in range(3):
        model.landmark = drawn_again(model, generator)
    assert float(model.landmark.std(0).min()) > 0.01  # the floor is 0.05 x 0.3
    one = torch.zeros(2, 64)
    one[:, 0] = 200.0  # a particle that is sure of its landmark
    assert float(torch.linalg.eigvalsh(moments(model, one)[0].covariance).min()) > 1e-4


@pytest.mark.parametrize("noise", [0.05, 0.15, 0.3, 0.45])
def test_truth_lies_within_the_stated_deviations(tmp_path, generator, noise):
    """From SNR 0.7 to 0.009, where all that is known besides the decoder is what the particles say.

    And nearly as near to it as if the distribution that it is from were known.
    """
    truth, known = spread_latents(1200, generator)
    model, band = make_band(tmp_path, generator, truth, noise)
    start = truth + 0.3 * torch.randn(1200, 2, generator=generator)  # as good as an encoder's
    with torch.no_grad():
        gains = populate(model, study_of(band), lambda: start, 0)
    found = posteriors(model, band, gains, 2, CPU)
    # shares are uncertain themselves, the more the less a particle shows
    assert_calibrated(found, truth, slack=0.03 if noise < 0.2 else 0.06)
    assert torch.allclose(population(model).mean, known.mean, atol=0.1 if noise < 0.2 else 0.25)
    at_landmarks(model, place := 0.5 + grid(), torch.exp(-known.cost(place)))
    best = posteriors(model, band, compared(model, band), 2, CPU)
    error, least = ((each.latent - truth).square().mean(0) for each in (found, best))
    assert (error < 1.1 * least + 0.01).all()
    assert float(least[0]) < 0.36  # of 0.64: the images say something


class MirroredModel(ArmModel):
    """The arm is lifted by the square of z1: images cannot tell its sign, and posteriors have two modes."""

    def decode(self, latent, active=None):
        lift = 10 * latent[:, :1, None].square() * ARM[:, None] * torch.tensor([0.0, 1.0, 0.0])
        amplitude = self.neutral_amplitude * (1 + 0.3 * latent[:, 1:] * ARM)
        return Mixture(self.center + lift, amplitude, self.neutral_width.expand(len(latent), -1))


def test_posteriors_of_two_modes_say_so(tmp_path, generator):
    """Gauss-Newton steps alone end in one of them, sure of it."""
    truth = torch.cat([1.5 * torch.ones(40, 1), torch.randn(40, 1, generator=generator)], dim=1)
    model, band = make_band(tmp_path, generator, truth, 0.3, MirroredModel)
    place = grid(2.5, 31)
    at_landmarks(model, place, torch.exp(-0.5 * place.square().sum(1)))
    found = posteriors(model, band, compared(model, band), 2, CPU)
    alone = refine(model, band.batch(torch.arange(40)), truth + 0.1, UNIT, 3)
    seen = alone.deviation[:, 0] < 0.3
    assert seen.sum() > 15
    assert float(found.latent[seen, 0].abs().median()) < 0.3
    assert float(found.deviation[seen, 0].median()) > 0.8  # 1.5 between them; what is seen sharply counts by one half


def test_a_mixture_of_two_descriptions_has_its_moments():
    one = Posterior(torch.tensor([[0.0, 0.0]]), torch.eye(2)[None])
    other = Posterior(torch.tensor([[2.0, 0.0]]), 3 * torch.eye(2)[None])
    both = mixed(one, other, torch.tensor([0.25]))
    assert both.latent.tolist() == [[0.5, 0.0]]
    # 3/4 x 1 + 1/4 x 3, and between the means 1/4 x 3/4 x 2²
    assert torch.allclose(both.covariance[0], torch.tensor([[2.25, 0.0], [0.0, 1.5]]))
    assert torch.equal(mixed(one, other, torch.tensor([0.0])).covariance, one.covariance)
