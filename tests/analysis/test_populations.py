"""Mixtures through each particle's own error: laws, and a known population found again where estimates have none."""

import numpy as np
import pytest

from gaussemble.analysis.chance import Likelihoods, Normal
from gaussemble.analysis.populations import (
    Population,
    fit_population,
    log_evidence,
    memberships,
    number_table,
)

TRUE = Population(
    np.array([0.6, 0.4]),
    (Normal(np.array([-2.0, 0]), 0.1 * np.eye(2)), Normal(np.array([2.0, 1]), 0.2 * np.eye(2))),
)


def seen_of(population: Population, size: int = 1500, seed: int = 0) -> tuple[Likelihoods, np.ndarray]:
    """Particles of a population, each seen along one direction of its own, and hardly across it."""
    rng = np.random.default_rng(seed)
    state = rng.choice(len(population), size, p=population.share)
    latent = np.stack(
        [rng.multivariate_normal(population.normals[k].mean, population.normals[k].covariance) for k in state]
    )
    angle = rng.uniform(0, np.pi, size)
    axes = np.stack([np.stack([np.cos(angle), np.sin(angle)], 1), np.stack([-np.sin(angle), np.cos(angle)], 1)], 1)
    weight = np.array([2.0, 0.05])  # standard deviations 0.7 and 4.5
    precision = np.einsum("nai,a,naj->nij", axes, weight, axes)
    noise = np.einsum("nai,a,na->ni", axes, np.sqrt(weight), rng.normal(size=(size, 2)))
    return Likelihoods(precision, np.einsum("nij,nj->ni", precision, latent) + noise), state


def test_a_known_mixture_is_found_again():
    seen, state = seen_of(TRUE)
    found = fit_population(seen, 2)
    order = np.argsort([normal.mean[0] for normal in found.normals])
    share, normals = found.share[order], [found.normals[number] for number in order]
    np.testing.assert_allclose(share, np.bincount(state) / len(state), atol=0.05)
    for ours, true in zip(normals, TRUE.normals, strict=True):
        np.testing.assert_allclose(ours.mean, true.mean, atol=0.25)  # 600 particles of deviation 0.7 to 4.5
        np.testing.assert_allclose(ours.covariance, true.covariance, atol=0.25)


def test_probabilities_sum_to_one_and_are_honest():
    seen, state = seen_of(TRUE)
    probability = memberships(seen, TRUE)
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    right = probability[np.arange(len(state)), state].mean()
    assert right == pytest.approx(np.square(probability).sum(axis=1).mean(), abs=0.02)  # as if drawn from them


def test_the_order_of_components_does_not_matter():
    seen, _ = seen_of(TRUE, 50)
    turned = Population(TRUE.share[::-1], TRUE.normals[::-1])
    np.testing.assert_allclose(log_evidence(seen, TRUE), log_evidence(seen, turned))
    np.testing.assert_allclose(memberships(seen, TRUE), memberships(seen, turned)[:, ::-1])


def test_evidence_is_the_marginal_of_each_component():
    """One dimension, by summing over a grid of latents."""
    seen = Likelihoods(np.array([[[1.7]]]), np.array([[0.9]]))
    mixed = Population(
        np.array([0.3, 0.7]), (Normal(np.array([0.5]), np.array([[0.4]])), Normal(np.zeros(1), np.eye(1)))
    )
    z, step = np.linspace(-12, 12, 4001, retstep=True)
    density = sum(
        share * np.exp(-0.5 * (z - n.mean[0]) ** 2 / n.covariance[0, 0]) / np.sqrt(2 * np.pi * n.covariance[0, 0])
        for share, n in zip(mixed.share, mixed.normals, strict=True)
    )
    expected = np.log(step * np.sum(density * np.exp(-0.5 * 1.7 * z**2 + 0.9 * z)))
    assert log_evidence(seen, mixed)[0] == pytest.approx(expected, abs=1e-9)


def test_the_number_of_populations():
    table = number_table(seen_of(TRUE)[0], 6)
    assert table["clusters"].iloc[table["bic"].argmin()] == 2
    assert table["log_evidence"].iloc[0] == 0 and table["bic"].min() == 0
    assert len(table) < 6  # it stops when more clusters only cost
    one = Population(np.ones(1), (Normal(np.zeros(2), 4 * np.eye(2)),))
    alone = number_table(seen_of(one)[0], 4)
    assert alone["clusters"].iloc[alone["bic"].argmin()] == 1  # poor views alone make no cluster of their own


def test_free_parameters():
    assert TRUE.parameters == 2 * (2 + 3) + 1
