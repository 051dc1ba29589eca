"""Epochs of rounds, and how the learning rate goes through them."""

import pytest

from gaussemble.fit.rounds import Round
from gaussemble.fit.schedule import plan_epochs, rate_share


@pytest.mark.parametrize("steps", [1, 2, 10, 100])
def test_learning_rate_rises_then_falls_or_stays(steps):
    shares = [rate_share(done, steps) for done in range(steps)]
    assert max(shares) == pytest.approx(1.0)
    assert min(shares) > 0
    assert shares.index(max(shares)) <= max(1, steps // 10)
    level = [rate_share(done, steps, falls=False) for done in range(steps)]
    rising = max(1, steps // 10)
    assert level[:rising] == shares[:rising]
    assert set(level[rising:]) <= {1.0}


def test_rounds_become_epochs_whose_last_may_be_a_part():
    plan = plan_epochs([Round(epochs=2.5), Round(epochs=0.1), Round(epochs=1.0)], 10)
    assert [(each.number, each.round, each.first, each.steps, each.round_steps) for each in plan] == [
        (1, 1, 0, 10, 25), (2, 1, 10, 10, 25), (3, 1, 20, 5, 25), (4, 2, 0, 1, 1), (5, 3, 0, 10, 10),
    ]  # fmt: skip
    assert [each.falls for each in plan] == [False] * 4 + [True]
    plan = plan_epochs([Round(), Round(), Round(population=True), Round(population=True)], 10)
    assert [each.falls for each in plan] == [False, True, True, True]
