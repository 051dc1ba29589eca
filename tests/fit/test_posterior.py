"""Posteriors of latents against decoders whose truth is known: optimum, derivative, prior, calibration, visibility."""

import pytest
import torch

from gaussemble.fit.posterior import Posterior, Prior, jacobian, objective, observability, refine
from gaussemble.model.heterogeneity import build_model, single_design
from known_decoders import ARM, SIZES, ArmModel, FadingModel, assert_calibrated, make_problem, spread_latents
from tiny import molecule

UNIT = Prior(torch.zeros(2), torch.eye(2))


@pytest.fixture
def truth(generator):
    """Latents from the prior N(0, 1)."""
    return torch.randn(300, 2, generator=generator)


@pytest.fixture
def problem(tmp_path, generator, truth):
    """Model and particles of the true latents, at an SNR of 0.08."""
    return make_problem(tmp_path, generator, truth, 0.15)


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


@pytest.mark.parametrize(("noise", "kind"), [(0.15, ArmModel), (0.45, ArmModel), (0.45, FadingModel)])
def test_truth_lies_within_the_stated_deviations_as_often_as_it_should(tmp_path, generator, noise, kind):
    """At SNR 0.08 and 0.009, with the decoder and the prior known."""
    truth, prior = spread_latents(800, generator)
    start = truth + 0.3 * torch.randn(800, 2, generator=generator)  # as good as an encoder's
    model, batch = make_problem(tmp_path, generator, truth, noise, kind)
    mode = refine(model, batch, start, prior, 3)
    # three standard errors of 800 particles are 5 %; a moving arm's posterior at low signal is not quite normal
    slack = 0.03 if kind == ArmModel and noise > 0.2 else 0.01
    assert_calibrated(mode, truth, slack)
    # a deviation that merely repeats the prior's would be calibrated too, but useless
    assert float(observability(mode, prior)[::2].mean()) > (0.5 if noise < 0.2 else 0.02)


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
    mode = refine(model, batch, truth[:8], Prior(torch.zeros(2), 100 * torch.eye(2)), 2)
    posterior = refine(model, batch, mode.latent, UNIT, 2)
    assert posterior.latent.isfinite().all()
    assert posterior.covariance.isfinite().all()
    assert (posterior.deviation >= 0).all()
