"""Posteriors of latents against decoders whose truth is known: optimum, derivative, prior, calibration, visibility."""

import math

import pytest
import torch

from gaussemble.fit.band import open_band
from gaussemble.fit.posterior import (
    Posterior,
    Prior,
    Quadratic,
    approach,
    even_draws,
    jacobian,
    learn_prior,
    moved,
    objective,
    observability,
    posterior_under,
    refine,
    unit_prior,
    weigh,
)
from gaussemble.io.store import open_store, write_store
from gaussemble.model.heterogeneity import DeformableMixture, build_model, single_design
from gaussemble.quantities import Mixture
from tiny import PIXEL, images, molecule, particles, white_noise_power

UNIT = unit_prior(2)
SIZES = {"gaussians": 24, "inputs": 4, "hidden": 8, "layers": 2, "dropout": 0.0, "length": 10.0, "field": 192.0}
ARM = (torch.arange(24) >= 16).float()


class ArmModel(DeformableMixture):
    """z1 lifts the arm by 10 Å along y, z2 changes its amplitude: a decoder that is known exactly."""

    def decode(self, latent, active=None):
        center = self.center + 10 * latent[:, :1, None] * ARM[:, None] * torch.tensor([0.0, 1.0, 0.0])
        amplitude = self.neutral_amplitude * (1 + 0.3 * latent[:, 1:] * ARM)
        return Mixture(center, amplitude, self.neutral_width.expand(len(latent), -1))


class FadingModel(DeformableMixture):
    """z1 changes the arm's amplitude, z2 the core's: images are linear in the latents, posteriors exactly normal."""

    def decode(self, latent, active=None):
        parts = torch.stack([ARM, 1 - ARM])
        amplitude = self.neutral_amplitude * (1 + 0.3 * latent @ parts)
        return Mixture(self.center.expand(len(latent), -1, -1), amplitude, self.neutral_width.expand(len(latent), -1))


def make_problem(folder, generator, truth, noise, kind: type[DeformableMixture] = ArmModel, rotation=None):
    """A model and the batch of particles that it would make of some latents, with white noise."""
    model = kind(single_design(latent_dim=2, **SIZES), molecule()).eval()
    known = particles(len(truth), generator)
    if rotation is not None:
        known.rotation.copy_(rotation)
    with torch.no_grad():
        write_store(folder, known, images(known, model.decode(truth), noise, generator), PIXEL)
    return model, open_band(open_store(folder), white_noise_power(noise), 14.0).batch(torch.arange(len(truth)))


@pytest.fixture
def truth(generator):
    """Latents from the prior N(0, 1)."""
    return torch.randn(300, 2, generator=generator)


@pytest.fixture
def problem(tmp_path, generator, truth):
    """Model and particles of the true latents, at an SNR of 0.08."""
    return make_problem(tmp_path, generator, truth, 0.15)


def assert_binomial(hits: torch.Tensor, probability: float, slack: float = 0.0) -> None:
    """As often as a probability says, within three standard errors."""
    error = math.sqrt(probability * (1 - probability) / hits.numel())
    assert float(hits.float().mean()) == pytest.approx(probability, abs=3 * error + slack)


def assert_calibrated(posterior: Posterior, truth: torch.Tensor, slack: float = 0.0) -> None:
    """Each latent within 1 and 2 of its own deviations, and all together within chi-squared's median."""
    score = (posterior.latent - truth) / posterior.deviation
    for axis in range(2):
        assert_binomial(score[:, axis].abs() < 1, math.erf(1 / math.sqrt(2)), slack)
        assert_binomial(score[:, axis].abs() < 2, math.erf(2 / math.sqrt(2)), slack)
    offset = posterior.latent - truth
    squared = (offset * torch.linalg.solve(posterior.covariance, offset)).sum(-1)
    assert_binomial(squared < 2 * math.log(2), 0.5, slack)  # the covariance's off-diagonal too


def test_jacobian_is_the_difference_quotient(problem, truth):
    model, batch = problem
    slopes = jacobian(model, batch, truth)
    for axis, step in enumerate(1e-2 * torch.eye(2)):
        change = batch.predict(model.decode(truth + step)) - batch.predict(model.decode(truth - step))
        quotient = change.flatten(start_dim=1) / 2e-2
        assert (slopes[:, axis] - quotient).norm() / quotient.norm() < 1e-3


@pytest.mark.parametrize(
    "kind",
    [
        {"decoder": "dense", "width": True},
        {"decoder": "hierarchical", "anchors": 4},
        {"decoder": "features", "embedding": 4},
        {"decoder": "features", "embedding": 4, "vectors": "encoded", "region": 8},
        {"decoder": "rigid", "domains": 1, "amplitude": False, "region": 8},
    ],
)
def test_jacobian_of_every_kind_of_decoder(problem, truth, generator, kind):
    _, batch = problem
    region = ARM > 0 if "region" in kind else torch.ones(24, dtype=torch.bool)
    model = build_model(single_design(latent_dim=2, **SIZES, **kind), molecule(), [region], 0).eval()
    for parameter in model.decoders.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    with torch.no_grad():
        slopes = jacobian(model, batch, truth)
        for axis, step in enumerate(1e-2 * torch.eye(2)):
            change = batch.predict(model.decode(truth + step)) - batch.predict(model.decode(truth - step))
            quotient = change.flatten(start_dim=1) / 2e-2
            assert float(quotient.norm()) > 0.3
            assert (slopes[:, axis] - quotient).norm() / quotient.norm() < 5e-3


def test_a_linear_decoder_needs_one_step_from_anywhere(tmp_path, generator, truth):
    model, batch = make_problem(tmp_path, generator, truth, 0.15, FadingModel)
    near, far = (refine(model, batch, truth + offset, UNIT, 1) for offset in (0.1, 2.0))
    # a particle stays where a step promises no more than 0.02 nats: at most 0.2 deviations from the optimum
    assert float(((near.latent - far.latent) / far.deviation).abs().max()) < 0.21
    assert torch.allclose(near.covariance, far.covariance, rtol=1e-3)
    below = objective(model, batch, far.latent, UNIT)
    for step in 0.05 * torch.cat([torch.eye(2), -torch.eye(2)]):
        assert (objective(model, batch, far.latent + step, UNIT) >= below - 1e-2).all()


def test_weighing_a_normal_posterior_changes_nothing(tmp_path, generator, truth):
    model, batch = make_problem(tmp_path, generator, truth[:64], 0.15, FadingModel)
    normal = refine(model, batch, truth[:64] + 2, UNIT, 1)
    weighed = weigh(model, batch, normal, UNIT, 6)
    assert float(((weighed.latent - normal.latent) / normal.deviation).abs().max()) < 0.02
    assert torch.allclose(weighed.covariance, normal.covariance, rtol=0.02, atol=1e-4)


def test_refinement_goes_to_the_optimum_and_never_uphill(problem, truth):
    model, batch = problem
    for distance in (0.3, 2.0):
        start = truth + distance
        refined = refine(model, batch, start, UNIT, steps=6)
        value = objective(model, batch, refined.latent, UNIT)
        assert (value <= objective(model, batch, start, UNIT)).all()
    refined = refine(model, batch, truth + 0.3, UNIT, steps=6)
    value = objective(model, batch, refined.latent, UNIT)
    for step in 0.05 * torch.cat([torch.eye(2), -torch.eye(2)]):
        lower = objective(model, batch, refined.latent + step, UNIT) < value - 0.03
        assert lower.float().mean() < 0.05  # Gauss-Newton may stop short where the arm points along the view


def test_particles_are_refined_each_by_itself(problem, truth):
    model, batch = problem
    whole = refine(model, batch, truth + 0.3, UNIT, 3)
    rows = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:40]
    part = refine(
        model, type(batch)(batch.rotation[rows], batch.image[rows], batch.transfer[rows], batch.pixel_size),
        truth[rows] + 0.3, UNIT, 3,
    )  # fmt: skip
    assert torch.allclose(part.latent, whole.latent[rows], atol=1e-3)
    assert torch.allclose(part.covariance, whole.covariance[rows], atol=1e-4)


def test_draws_have_the_moments_of_the_normal_distribution():
    drawn = even_draws(16, 4, seed=0)
    assert torch.allclose(drawn.mean(0), torch.zeros(4), atol=1e-6)
    assert torch.allclose(drawn.T @ drawn / 16, torch.eye(4), atol=1e-5)
    assert len(even_draws(2, 4, seed=0)) == 8


def seen(model, batch, place):
    """What the images say at some latents."""
    return approach(model, batch, place, UNIT, 0)[1]


def test_another_prior_is_as_refining_under_it(tmp_path, generator, truth):
    model, batch = make_problem(tmp_path, generator, truth, 0.3, FadingModel)
    other = Prior(torch.tensor([0.5, -1.0]), torch.tensor([[0.5, 0.2], [0.2, 2.0]]))
    start = truth + 2
    for place in (start, refine(model, batch, start, UNIT, 1).latent):  # at an optimum or not
        changed, direct = posterior_under(other, seen(model, batch, place)), refine(model, batch, start, other, 1)
        assert float(((changed.latent - direct.latent) / direct.deviation).abs().max()) < 0.02
        assert torch.allclose(changed.covariance, direct.covariance, rtol=1e-3, atol=1e-4)


def test_views_that_show_nothing_pull_nowhere(tmp_path, generator, truth):
    """However far from the optimum the latent stands: else a learned prior would widen without end."""
    along = torch.tensor([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])  # the arm moves along y, the viewing direction
    model, batch = make_problem(tmp_path, generator, truth, 0.3, rotation=along.expand(300, 3, 3))
    data = seen(model, batch, truth + 5)
    assert float(data.precision[:, 0, 0].max()) < 0.1
    assert float(data.pull[:, 0].abs().max()) < 0.5
    wide = Prior(torch.zeros(2), 1e4 * torch.eye(2))
    assert float(learn_prior(data, wide).covariance[0, 0]) < 1.01e4


def test_prior_is_found_through_each_particles_own_error(generator):
    """Normal data of very different precision, a third of them blind along an axis: no spread of means says it."""
    mean, spread = torch.tensor([2.0, -1.0]), torch.tensor([[0.5, 0.3], [0.3, 0.4]])
    count = 20_000
    truth = mean + torch.randn(count, 2, generator=generator) @ torch.linalg.cholesky(spread).T
    root = 3 * torch.randn(count, 2, 2, generator=generator) * torch.rand(count, 1, 1, generator=generator)
    root[::3, :, 1] = 0  # no precision along the second axis
    precision = root.mT @ root
    pull = (precision @ truth[..., None] + root.mT @ torch.randn(count, 2, 1, generator=generator)).squeeze(-1)
    prior = learn_prior(Quadratic(precision, pull), UNIT)
    # the standard errors are 0.01
    assert torch.allclose(prior.mean, mean, atol=0.04)
    assert torch.allclose(prior.covariance, spread, atol=0.04)


def spread_latents(generator) -> tuple[torch.Tensor, torch.Tensor, Prior]:
    """800 latents of mean 0.5 and deviations 0.8 and 0.6; starts as good as an encoder's; and their prior."""
    deviation = torch.tensor([0.8, 0.6])
    truth = 0.5 + torch.randn(800, 2, generator=generator) * deviation
    start = truth + 0.3 * torch.randn(800, 2, generator=generator)
    return truth, start, Prior(torch.full((2,), 0.5), torch.diag(deviation.square()))


@pytest.mark.parametrize(("noise", "kind"), [(0.15, ArmModel), (0.45, ArmModel), (0.45, FadingModel)])
def test_truth_lies_within_the_stated_deviations_as_often_as_it_should(tmp_path, generator, noise, kind):
    """At SNR 0.08 and 0.009, with the decoder and the prior known."""
    truth, start, prior = spread_latents(generator)
    model, batch = make_problem(tmp_path, generator, truth, noise, kind)
    mode = refine(model, batch, start, prior, 3)
    # three standard errors of 800 particles are 5 %; a moving arm's posterior at low signal is not quite normal
    slack = 0.03 if kind == ArmModel and noise > 0.2 else 0.01
    assert_calibrated(mode, truth, slack)
    assert_calibrated(weigh(model, batch, mode, prior, 16), truth, slack)
    # a deviation that merely repeats the prior's would be calibrated too, but useless
    assert float(observability(mode, prior)[::2].mean()) > (0.5 if noise < 0.2 else 0.02)


@pytest.mark.parametrize("noise", [0.15, 0.3])
def test_truth_lies_within_the_stated_deviations_under_a_learned_prior(tmp_path, generator, noise):
    """At SNR 0.08 and 0.02, where all that is known besides the decoder is what the particles say."""
    truth, start, known = spread_latents(generator)
    model, batch = make_problem(tmp_path, generator, truth, noise)
    mode, said = approach(model, batch, start, UNIT, 2)
    prior = learn_prior(said, UNIT)
    posterior = weigh(model, batch, moved(model, batch, mode, said, prior), prior, 16)
    assert_calibrated(posterior, truth, slack=0.05)  # for a prior that is uncertain itself
    assert torch.allclose(prior.mean, known.mean, atol=0.25)
    error = (posterior.latent - truth).square().mean(0)
    assert (error < (mode - truth).square().mean(0) + 0.01).all()
    assert float(posterior.deviation[:, 0].mean()) < 0.5 * 0.8


def test_a_motion_along_the_view_is_not_seen(tmp_path, generator, truth):
    """The arm moves along y: seen along y nothing shows it, seen along z all of it."""
    along = torch.tensor([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])  # its third row, the viewing direction, is y
    rotation = torch.stack([along, torch.eye(3)])[torch.arange(300) % 2]
    model, batch = make_problem(tmp_path, generator, truth, 0.15, rotation=rotation)
    posterior = refine(model, batch, truth, UNIT, 0)
    hidden, shown = posterior.deviation[::2, 0], posterior.deviation[1::2, 0]
    assert (hidden > 0.98).all()
    assert float(shown.median()) < 0.2
    seen = observability(posterior, UNIT)
    assert float(seen[::2].max()) < 0.51  # z2, the amplitude, is seen from both sides and makes up half
    assert float(seen[1::2].median()) > float(seen[::2].median()) + 0.3


def test_observability_is_the_share_of_variance_removed_in_any_coordinates(generator):
    """1 - 1 / (1 + information) for each independent axis; 0 without data; no matter how latents are drawn."""
    information = torch.tensor([[0.0, 0.0], [1.0, 3.0], [1e6, 1e6]])
    posterior = Posterior(torch.zeros(3, 2), torch.diag_embed(1 / (1 + information)))
    assert observability(posterior, UNIT).tolist() == pytest.approx([0.0, 0.625, 1.0], abs=1e-5)
    change = torch.randn(2, 2, generator=generator)
    elsewhere = Posterior(torch.zeros(3, 2), change @ posterior.covariance @ change.T)
    prior = Prior(torch.zeros(2), change @ change.T)
    assert observability(elsewhere, prior).tolist() == pytest.approx([0.0, 0.625, 1.0], abs=1e-3)


def test_hopelessly_different_scales_give_numbers(tmp_path, generator, truth):
    """Without noise to speak of along one axis and without data along the other, in float32."""
    along = torch.tensor([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
    model, batch = make_problem(tmp_path, generator, truth[:8], 1e-4, rotation=along.expand(8, 3, 3))
    wide = unit_prior(2, 0.0)
    mode = refine(model, batch, truth[:8], wide, 2)
    posterior = weigh(model, batch, refine(model, batch, mode.latent, UNIT, 2), UNIT, 8)
    assert posterior.latent.isfinite().all()
    assert posterior.covariance.isfinite().all()
    assert (posterior.deviation >= 0).all()
