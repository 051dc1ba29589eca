"""Encoders: what they read belongs to the molecule and not to the view, its scale and sign, and where they start."""

import math

import pytest
import torch

from gaussemble.fit.band import open_band
from gaussemble.io.store import open_store, write_store
from gaussemble.model.encoders import (
    Encoder,
    EncoderDesign,
    Evidence,
    GaussianEncoder,
    ImageSampler,
    Moments,
    back_projected,
    gradient_evidence,
    principal_axes,
    sampling_points,
    view,
)
from gaussemble.physics.projection import project
from gaussemble.physics.rotations import random_rotations
from gaussemble.quantities import Mixture
from tiny import BOX, PIXEL, bent, images, molecule, particles, white_noise_power

FIELD = BOX * PIXEL


def evidence_of(tmp_path, generator, mixture, count=40, noise=0.0) -> Evidence:
    """Of particles of a mixture in random views; in units of noise of 0.5."""
    known = particles(count, generator)
    write_store(tmp_path, known, images(known, mixture, noise, generator), PIXEL)
    batch = open_band(open_store(tmp_path), white_noise_power(0.5), 14.0).batch(torch.arange(count))
    return Evidence(torch.zeros(count, 0), batch.image, batch.transfer, batch.rotation)


def sampler_at(points, spacing=14.0, neutral=None) -> ImageSampler:
    """At given places."""
    sampler = ImageSampler(len(points), spacing, neutral or molecule(), FIELD)
    sampler.points.copy_(points)
    return sampler


def make_encoder(kind, inputs=6, latent_dim=2, **changes) -> Encoder:
    """A small encoder of the tiny molecule, its points placed."""
    points, spacing = sampling_points(molecule().center, 14.0)
    counts = (inputs if kind != "image" else 0, len(points) if kind != "gradient" else 0)
    sizes = {"hidden": 8, "layers": 1, "dropout": 0.0} | changes
    encoder = Encoder(EncoderDesign(kind, *counts, spacing, **sizes), latent_dim, molecule(), FIELD)
    if encoder.sampler is not None:
        encoder.sampler.points.copy_(points)
    return encoder.eval()


def test_samples_are_the_slope_of_the_likelihood_over_its_noise(tmp_path, generator):
    """Against the sum over frequencies itself: sign, scale, origin, smoothing."""
    evidence = evidence_of(tmp_path, generator, molecule(), 6, noise=0.5)
    place = 60 * torch.rand(6, 9, 2, generator=generator) - 30
    box, width = evidence.image.shape[-2], 7.0
    found = back_projected(evidence.image, evidence.transfer, place, width, FIELD)
    views = torch.eye(3).expand(6, 3, 3)
    for point in range(9):
        center = torch.cat([place[:, point], torch.zeros(6, 1)], dim=-1)[:, None]
        spot = Mixture(center, torch.ones(6, 1), torch.full((6, 1), width))
        weight = evidence.transfer * project(spot, views, box, FIELD / box)
        slope = (weight.conj() * evidence.image).real.sum((-2, -1))
        expected = slope / weight.abs().square().sum((-2, -1)).sqrt()
        # cubic interpolation at a quarter of the finest wave's length: 2 to 3 % of the root mean square
        error = (found[:, point] - expected).square().mean().sqrt()
        assert float(error) < 0.05 * float(expected.square().mean().sqrt())


def test_samples_have_unit_variance_under_noise_and_mean_zero(tmp_path, generator):
    evidence = evidence_of(tmp_path, generator, molecule(), 400, noise=0.5)
    points, _ = sampling_points(molecule().center, 14.0)
    samples = sampler_at(points)(evidence)
    # 400 images, some 20 independent samples each: the standard error of the deviation is 0.8 %
    assert float(samples.std()) == pytest.approx(1.0, abs=0.04)
    assert abs(float(samples.mean())) < 0.04


def test_turning_the_molecule_with_its_poses_changes_no_sample(tmp_path, generator):
    evidence = evidence_of(tmp_path, generator, bent(molecule(), torch.full((40,), 0.4)))
    points, _ = sampling_points(molecule().center, 14.0)
    turn = random_rotations(1, generator)[0].float()
    neutral = molecule()
    turned = Mixture(neutral.center @ turn.T, neutral.amplitude, neutral.width)
    again = evidence._replace(rotation=evidence.rotation @ turn.T)
    expected = sampler_at(points)(evidence)
    found = sampler_at(points @ turn.T, neutral=turned)(again)
    assert float(expected.std()) > 0.1
    assert torch.allclose(found, expected, atol=1e-2 * float(expected.std()))


def test_samples_rise_where_mass_went_and_fall_where_it_was(tmp_path, generator):
    """An arm that was bent by 40 degrees, on average over views; a mirrored or transposed view would not do this."""
    evidence = evidence_of(tmp_path, generator, bent(molecule(), torch.full((200,), 0.7)), 200)
    was, went = (bent(molecule(), torch.tensor([angle])).center[0, 20:].mean(0) for angle in (0.0, 0.7))
    mirrored = went * torch.tensor([1.0, -1.0, 1.0])
    at_was, at_went, at_mirror = sampler_at(torch.stack([was, went, mirrored]))(evidence).mean(0).tolist()
    assert at_went > 0.1
    assert at_was < -0.1
    assert at_went > 2 * abs(at_mirror)


def test_grid_covers_the_molecule_and_keeps_to_its_number():
    center = molecule().center
    points, spacing = sampling_points(center, 14.0)
    assert spacing == 14.0
    assert (torch.cdist(center, points).amin(1) <= spacing).all()
    assert (torch.cdist(points, center).amin(1) <= spacing).all()
    fewer, wider = sampling_points(center, 14.0, most=20)
    assert len(fewer) <= 20
    assert wider > spacing
    assert len(sampling_points(center[:1], 14.0)[0]) >= 1


def test_opposite_views_are_seen_alike():
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    rotation = random_rotations(5, torch.Generator().manual_seed(0)).float()
    transfer = torch.rand(5, 4, 3)
    image = torch.zeros(5, 4, 3, dtype=torch.complex64)
    there, back = (view(Evidence(torch.zeros(5, 0), image, transfer, turned)) for turned in (rotation, flip @ rotation))
    assert torch.allclose(there, back)
    stronger = view(Evidence(torch.zeros(5, 0), image, 2 * transfer, rotation))
    assert torch.allclose(stronger[:, -1] - there[:, -1], torch.full((5,), math.log(4)))


@pytest.mark.parametrize("kind", ["gradient", "image", "both"])
def test_each_particle_is_encoded_by_itself(tmp_path, generator, kind):
    """Permuting particles permutes latents, and no latent depends on the others in the batch."""
    evidence = evidence_of(tmp_path, generator, molecule(), 12, noise=0.5)
    evidence = evidence._replace(gradient=torch.randn(12, 6 if kind != "image" else 0, generator=generator))
    encoder = make_encoder(kind)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    latent, order = encoder(evidence), torch.randperm(12, generator=generator)
    assert float(latent.detach().std()) > 0.1
    assert torch.allclose(encoder(Evidence(*(part[order] for part in evidence))), latent[order], atol=1e-4)
    assert torch.allclose(encoder(Evidence(*(part[3:4] for part in evidence))), latent[3:4], atol=1e-4)


@pytest.mark.parametrize("kind", ["gradient", "image", "both"])
def test_starts_at_what_varies_most(tmp_path, generator, kind):
    """A bend of +-11 degrees is in the latents before any training; they have unit variance over the particles."""
    angle = 0.4 * torch.rand(300, generator=generator) - 0.2
    evidence = evidence_of(tmp_path, generator, bent(molecule(), angle), 300, noise=0.02)
    inputs = 15 * angle[:, None] * torch.randn(1, 6, generator=generator) + 3.0
    inputs = inputs + 0.5 * torch.randn(300, 6, generator=generator)
    evidence = evidence._replace(gradient=inputs if kind != "image" else inputs[:, :0])
    encoder = make_encoder(kind)
    encoder.start_at_components(Evidence(*(part[rows] for part in evidence)) for rows in torch.arange(300).split(64))
    latent = encoder(evidence).detach()
    assert torch.allclose(latent.mean(0), torch.zeros(2), atol=1e-3)
    assert torch.allclose(latent.std(0), torch.ones(2), atol=1e-2)
    # what a bend does to samples of an image depends on the view besides: two axes in 37 keep a third to a half of it
    both = torch.linalg.lstsq(torch.cat([latent, torch.ones(300, 1)], 1), angle[:, None])
    left = (torch.cat([latent, torch.ones(300, 1)], 1) @ both.solution - angle[:, None]).var() / angle.var()
    assert float(left) < (0.8 if kind == "image" else 0.2)


def test_sums_over_blocks_are_the_moments_of_all(generator):
    rows = 1e4 + torch.randn(500, 3, generator=generator) @ torch.randn(3, 3, generator=generator)
    moments = Moments()
    for part in rows.split(64):
        moments.add(part)
    assert torch.allclose(moments.mean, rows.double().mean(0))
    assert torch.allclose(moments.covariance, rows.double().T.cov(correction=0), atol=1e-6)
    assert torch.allclose(moments.deviation, rows.double().std(0, correction=0))


def test_fewer_components_than_latents_leave_zeros():
    weight = principal_axes(torch.eye(2), 3)
    assert torch.allclose(weight[:2] @ weight[:2].T, torch.eye(2))
    assert (weight[2] == 0).all()


def test_a_gradient_needs_no_image():
    latent = make_encoder("gradient")(gradient_evidence(torch.randn(4, 6)))
    assert latent.shape == (4, 2)


def test_vectors_of_gaussians_know_place_and_size_but_not_position_of_the_molecule():
    encoder = GaussianEncoder(24, 8).eval()
    encoder.start_at(molecule())
    vectors = encoder()
    moved = molecule()
    encoder.start_at(Mixture(moved.center + 50.0, 3 * moved.amplitude, moved.width))
    assert torch.allclose(encoder(), vectors, atol=1e-4)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    encoder.start_at(moved.select(order))
    assert torch.allclose(encoder(), vectors[order], atol=1e-5)
    assert float((vectors[0] - vectors[23]).detach().norm()) > 1e-3
