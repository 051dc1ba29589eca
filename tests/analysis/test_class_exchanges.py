"""Exchanges of classes: what two share becomes one, and what one hides, or the others suggest, becomes another."""

import pytest
import torch

from gaussemble.analysis.class_exchanges import (
    Unions,
    apart,
    improved,
    split_ones,
    squared_ones,
    triples,
    worth,
)
from gaussemble.analysis.class_maps import Classes, Spread, climbed, objective
from gaussemble.fit.coordinates import Coordinates


def equal(weight: torch.Tensor) -> Classes:
    """Classes of equal shares."""
    return Classes(weight, torch.full((len(weight),), 1 / len(weight), dtype=torch.float64).log())


def far_apart(generator) -> tuple[Coordinates, Classes, Spread]:
    """Particles of three states far apart in a plane, two classes in one of these and one between the others."""
    state = torch.arange(300) % 3
    gram = torch.tensor([[4.0, 1.0], [1.0, 2.0]])
    noise = torch.randn(300, 2, generator=generator) @ torch.linalg.cholesky(gram).mT
    seen = Coordinates(FAR[state] @ gram + noise, torch.tensor([4.0, 1.0, 2.0]).expand(300, 3))
    spread = Spread(torch.zeros(2, dtype=torch.float64), 0.01 * torch.eye(2, dtype=torch.float64))
    poor = torch.tensor([[-6.5, 0.0], [-5.5, 0.5], [4.0, 3.0]], dtype=torch.float64)
    return seen, climbed([seen], equal(poor), spread, 100), spread


FAR = torch.tensor([[-6.0, 0.0], [2.0, 5.0], [6.0, 0.0]])


def test_a_class_that_holds_two_states_is_split_and_one_too_many_leaves(generator):
    """Steps alone leave two classes in one state."""
    seen, poor, spread = far_apart(generator)
    assert int((poor.weight[:, 0] < 0).sum()) == 2
    better = improved(seen, poor, spread)
    order = better.weight[:, 0].argsort()
    assert torch.allclose(better.weight[order].float(), FAR, atol=0.25)  # four errors of a mean of a hundred
    assert torch.allclose(better.logit.exp(), torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.01)
    assert objective([seen], better, spread) > objective([seen], poor, spread) + 1


def test_the_class_that_holds_most_is_split_first_and_along_what_it_holds(generator):
    seen, poor, _ = far_apart(generator)
    first = split_ones(seen, poor)[0]
    both = first.weight[first.weight[:, 0] > 0]
    assert len(both) == 2 and len(first) == 3
    found = both[both[:, 0].argsort()]
    assert torch.allclose(found.float(), FAR[1:], atol=0.5)
    assert float(first.logit.exp().sum()) == pytest.approx(1)


# Two parts, each with a component of its own, and how often particles have none, one, the other, both
PARTS, SHARES = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([0.5, 0.3, 0.16, 0.04])


@pytest.fixture
def composed(generator) -> tuple[Coordinates, Spread]:
    """Particles that see each part with about four times the noise's variance, so that states overlap."""
    state = torch.multinomial(SHARES, 20_000, replacement=True, generator=generator)
    sharp = 1 + 6 * torch.rand(len(state), 2, generator=generator)  # how well each is seen
    pull = sharp * PARTS[state] + sharp.sqrt() * torch.randn(len(state), 2, generator=generator)
    curvature = torch.stack([sharp[:, 0], torch.zeros(len(state)), sharp[:, 1]], dim=1)
    return Coordinates(pull, curvature), Spread(torch.zeros(2).double(), 0.01 * torch.eye(2).double())


def three_in_four(seen: Coordinates, spread: Spread) -> Classes:
    """Classes of which two share the commonest state, and none has both parts, near rest."""
    weight = torch.tensor([[-0.01, 0.0], [0.01, 0.0], [1.0, 0.0], [0.0, 1.0]]).double()
    logit = torch.log_softmax(SHARES[[0, 0, 1, 2]].double().log(), 0)
    return climbed([seen], Classes(weight, logit), spread, 3)


def test_what_two_states_have_is_suggested_together(composed):
    seen, spread = composed
    poor = three_in_four(seen, spread)
    suggested = squared_ones(seen, poor)[0]
    assert len(suggested) == 4
    assert float(suggested.logit.exp().sum()) == pytest.approx(1)
    assert torch.allclose(suggested.weight[-1].float(), PARTS[-1], atol=0.35)
    assert 0.3 * SHARES[-1] < float(suggested.logit[-1].exp()) < 3 * SHARES[-1]


def test_a_rare_state_of_parts_that_others_have_is_found(composed):
    seen, spread = composed
    poor, best = (
        three_in_four(seen, spread),
        climbed([seen], Classes(PARTS.double(), SHARES.double().log()), spread, 60),
    )
    better = climbed([seen], improved(seen, poor, spread), spread, 60)
    reached = [len(seen) * objective([seen], one, spread) for one in (climbed([seen], poor, spread, 60), better, best)]
    assert reached[1] > reached[0] + 1
    assert reached[1] == pytest.approx(reached[2], abs=0.1)  # as good as where the truth leads
    order = [int((better.weight - place).norm(dim=1).argmin()) for place in best.weight]
    assert torch.allclose(better.weight[order], best.weight, atol=0.05)
    assert torch.allclose(better.logit[order].exp(), best.logit.exp(), atol=0.01)


def test_what_a_union_costs_is_reckoned_as_if_it_were_made(composed):
    seen, spread = composed
    classes = three_in_four(seen, spread)
    unions = Unions.of(seen, classes)
    assert len(unions.change) == 6
    flat = Spread(spread.mean, torch.zeros(2, 2).double())
    before = objective([seen], classes, flat) * len(seen)
    for first, second, change in zip(
        *(each.tolist() for each in (unions.first, unions.second, unions.change)), strict=True
    ):
        kept = [number for number in range(4) if number not in (first, second)]
        weight, share = classes.weight[[first, second]], classes.logit[[first, second]].exp()
        both = (share[:, None] * weight).sum(0) / share.sum()
        united = Classes(
            torch.cat([classes.weight[kept], both[None]]), torch.cat([classes.logit[kept], share.sum().log()[None]])
        )
        assert change == pytest.approx(objective([seen], united, flat) * len(seen) - before, abs=0.5)


def test_those_most_alike_become_one_unless_one_of_them_is_kept(composed):
    """Both are common, so that each by itself would be missed; the union is not."""
    seen, spread = composed
    unions = Unions.of(seen, three_in_four(seen, spread))
    alike = unions.without()
    assert len(alike) == 3 and float(alike.logit.exp().sum()) == pytest.approx(1)
    assert torch.allclose(alike.weight[-1].float(), PARTS[0], atol=0.1)
    assert torch.equal(alike.weight[:2], unions.classes.weight[2:])
    apart_from = unions.without(0)
    assert len(apart_from) == 2  # that which is kept is split by whoever asks, and so not among them
    halves = unions.split(2, torch.tensor([0.0, 0.5]).double())
    assert len(halves) == 4 and float(halves.logit.exp().sum()) == pytest.approx(1)


def test_worth_is_the_best_of_all_shares(generator):
    ratio = torch.randn(500, 3, generator=generator).double() + torch.tensor([-0.5, 0.0, 0.6])
    gain, share = worth(ratio)
    tried = torch.linspace(0, 1, 2001).double()[:, None, None]
    every = torch.log(1 - tried + tried * ratio.exp()).sum(1)
    assert (gain > every.max(0).values - 0.5).all() and (gain < every.max(0).values + 1e-6).all()
    assert float(share[2]) == pytest.approx(float(tried[every[:, 2].argmax(), 0, 0]), abs=0.02)


def test_structures_that_no_particle_tells_apart_are_tried_once(composed):
    seen, _ = composed
    weight = torch.tensor([[0.0, 0.0], [0.01, 0.0], [1.0, 1.0], [1.0, 0.98]]).double()
    far, near = torch.tensor([[9.0, 9.0]]).double(), torch.tensor([[0.02, 0.0]]).double()
    assert apart(seen, weight, torch.tensor([3, 1, 0, 2]), far) == [3, 1]
    assert apart(seen, weight, torch.tensor([3, 1, 0, 2]), near) == [3]


@pytest.mark.parametrize("count", [3, 5, 16, 30])
def test_triples_are_of_three_different_classes_each_once(count):
    first, second, third = triples(count)
    assert ((first < second) & (first != third) & (second != third)).all()
    assert int(torch.stack([first, second, third]).max()) == count - 1
    every = count * (count - 1) * (count - 2) // 2
    assert len({*zip(first.tolist(), second.tolist(), third.tolist(), strict=True)}) == min(every, 2000)
    assert len(set(third.tolist())) == count
    assert all(map(torch.equal, triples(count), (first, second, third)))


def test_of_two_classes_one_is_split_and_the_other_leaves(generator):
    """Two states on one side are one class, and one of few particles is the other: as many as there are, no more."""
    state = torch.tensor([-6.0, 4.0, 12.0]).repeat_interleave(torch.tensor([50, 300, 300]))
    pull = 3 * state + 3**0.5 * torch.randn(len(state), generator=generator)
    seen = Coordinates(pull[:, None], torch.full((650, 1), 3.0))
    spread = Spread(torch.zeros(1).double(), torch.eye(1).double() / 400)
    start = climbed([seen], equal(torch.tensor([[-6.0], [8.0]]).double()), spread, 50)
    better = improved(seen, start, spread)
    assert objective([seen], better, spread) > objective([seen], start, spread) + 1
    assert float(better.weight.max()) == pytest.approx(12, abs=0.5)
    one = climbed([seen], equal(torch.tensor([[1.0]]).double()), spread, 50)
    assert torch.allclose(improved(seen, one, spread).weight, one.weight, atol=1e-3)


def test_a_few_far_particles_do_not_keep_two_states_in_one_class(generator):
    """Of many classes only some unions are weighed; one of a class of few, far from all, costs least."""
    place = 5 * torch.randn(14, 3, generator=generator)
    outliers = torch.tensor([[60.0, 0.0, 0.0]]).expand(4, 3)
    center = torch.cat([place[torch.arange(4000) % 14], outliers])
    pull = 3 * center + 3**0.5 * torch.randn(center.shape, generator=generator)
    curvature = torch.tensor([3.0, 0, 0, 3, 0, 3]).expand(len(center), 6)
    seen, spread = Coordinates(pull, curvature), Spread(torch.zeros(3).double(), torch.eye(3).double() / 1e4)
    true = climbed([seen], equal(place.double()), spread, 60)
    poor = torch.cat([place[:12], place[12:].mean(0, keepdim=True), outliers[:1]]).double()
    start = climbed([seen], equal(poor), spread, 60)
    reached = [len(seen) * objective([seen], one, spread) for one in (start, improved(seen, start, spread), true)]
    assert reached[1] > reached[0] + 100
    assert reached[1] > reached[2] - 1  # where the states themselves lead, which leave the four to one of them
