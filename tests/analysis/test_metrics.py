"""Correlation, chance, low-pass and matching of maps."""

import math

import numpy as np
import pytest
import torch

from gaussemble.analysis.metrics import (
    band_limited,
    correlation,
    correlation_matrix,
    independent_values,
    match,
    runner_up,
)

BOX = 24


def ball(radius: float, soft: float = 2.0) -> torch.Tensor:
    axis = torch.arange(BOX) - BOX // 2
    distance = torch.sqrt(sum(part**2 for part in torch.meshgrid(axis, axis, axis, indexing="ij")).float())
    return ((radius + soft - distance) / soft).clamp(0, 1)


def test_correlation_sees_sign_and_not_scale_or_offset(generator):
    a, weight = torch.randn(BOX, BOX, BOX, generator=generator), ball(8)
    assert float(correlation(a, 3 * a + 5, weight)) == pytest.approx(1, abs=1e-5)
    assert float(correlation(a, -a, weight)) == pytest.approx(-1, abs=1e-5)
    assert float(correlation(a, torch.ones_like(a), weight)) == 0


def test_correlation_of_equal_signal_and_noise_is_a_half(generator):
    signal, first, second = torch.randn(3, BOX, BOX, BOX, generator=generator).double()
    value = float(correlation(signal + first, signal + second, torch.ones(BOX, BOX, BOX)))
    assert value == pytest.approx(0.5, abs=4 * 0.75 / BOX**1.5)  # 4 standard errors, (1 - r²) / sqrt(n)


def test_correlation_looks_only_where_the_weight_is(generator):
    a, b = torch.randn(2, BOX, BOX, BOX, generator=generator)
    inside = ball(6, 1e-3) > 0
    b = torch.where(inside, a, b)
    assert float(correlation(a, b, inside.float())) == pytest.approx(1, abs=1e-5)
    assert float(correlation(a, b, torch.ones_like(a))) < 0.5


def test_matrix_has_rows_of_the_first_list(generator):
    maps = torch.randn(3, BOX, BOX, BOX, generator=generator)
    matrix = correlation_matrix(maps[:2], maps[[2, 0, 1]], torch.ones(BOX, BOX, BOX))
    assert matrix.shape == (2, 3)
    np.testing.assert_allclose([matrix[0, 1], matrix[1, 2]], 1, atol=1e-9)


def test_low_pass_keeps_what_is_coarse_and_drops_what_is_fine():
    x = torch.arange(BOX, dtype=torch.float64) - BOX // 2
    waves = [torch.cos(2 * math.pi * k * x / BOX).expand(BOX, BOX, BOX) for k in (2, 10)]  # 24 Å and 4.8 Å at 2 Å
    passed = band_limited(waves[0] + waves[1], 2.0, 8.0)  # shell 6
    torch.testing.assert_close(passed, waves[0].contiguous(), atol=1e-9, rtol=0)
    edge = torch.cos(2 * math.pi * 6 * x / BOX).expand(BOX, BOX, BOX)
    torch.testing.assert_close(band_limited(edge, 2.0, 8.0), 0.5 * edge, atol=1e-9, rtol=0)


@pytest.mark.parametrize("limit", [6.0, 12.0])
def test_unrelated_maps_correlate_by_one_over_the_root_of_independent_values(generator, limit):
    weight = ball(8)
    noise = band_limited(torch.randn(60, BOX, BOX, BOX, generator=generator), 2.0, limit)
    matrix = correlation_matrix(noise[:30], noise[30:], weight)
    expected = 1 / math.sqrt(np.mean([independent_values(each, weight) for each in noise[:8]]))
    # 900 correlations of 60 maps: their standard deviation is known to about 4 %; the formula is for wide windows
    assert np.std(matrix) == pytest.approx(expected, rel=0.15)


def test_matching_maximises_the_sum_and_not_each_row():
    score = np.array([[0.9, 0.8], [0.85, 0.1]])
    rows, columns = match(score)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0)]
    assert runner_up(score, 0, 1) == 0.9
    assert runner_up(np.array([[0.3]]), 0, 0) == -np.inf
