"""The grid of true structures: parts add up to it, and a file gives it back."""

import numpy as np
import pytest
import torch

from gaussemble.errors import InputError
from gaussemble.io.states import States, read_states, write_states
from gaussemble.quantities import Mixture


@pytest.fixture
def states() -> States:
    """Five Gaussians: two stand, one is optional, two move; three swings with and without."""
    generator = torch.Generator().manual_seed(1)
    center = 30 * torch.randn(5, 3, generator=generator).repeat(6, 1, 1)
    swing, occupied = torch.tensor([-10.0, -10, 0, 0, 10, 10]), torch.tensor([0.0, 1, 0, 1, 0, 1])
    center[:, 3:] += swing[:, None, None]
    amplitude = torch.rand(5, generator=generator).repeat(6, 1) + 0.5
    amplitude[:, 2] *= occupied
    return States(Mixture(center, amplitude, torch.full((6, 5), 3.0)), swing, occupied, 32, 4.0)


def moments(mixture: Mixture) -> torch.Tensor:
    """A linear and asymmetric function of a mixture's density: sums of a, a c, a c³."""
    powers = torch.stack([torch.ones_like(mixture.center), mixture.center, mixture.center**3])
    return (powers * mixture.amplitude[..., None]).sum(-2).flatten()


def test_parts_times_weights_add_up_to_every_state(states):
    parts, weights = states.components()
    assert [len(part) for part in parts] == [1, 2, 2, 2, 2]  # in any order: optional, fixed, three arrangements
    for state in range(len(states)):
        whole = Mixture(states.mixture.center[state], states.mixture.amplitude[state], states.mixture.width[state])
        summed = sum(weight * moments(part) for weight, part in zip(weights[state], parts, strict=True))
        torch.testing.assert_close(summed, moments(whole))


def test_without_motion_the_parts_are_the_standing_and_the_optional_one(states):
    still = Mixture(states.mixture.center[:2], states.mixture.amplitude[:2], states.mixture.width[:2])
    parts, weights = States(still, torch.zeros(2), states.occupied[:2], 32, 4.0).components()
    assert sorted(len(part) for part in parts) == [1, 4]
    assert weights.shape == (2, 2)


def test_nearest_takes_the_occupancy_first(states):
    found = states.nearest(torch.tensor([-30.0, 4.0, 6.0]), torch.tensor([1.0, 0.0, 1.0]))
    assert found.tolist() == [1, 2, 5]


def test_a_file_gives_the_states_back(states, tmp_path):
    write_states(tmp_path / "states.npz", states)
    again = read_states(tmp_path / "states.npz")
    torch.testing.assert_close(again.mixture.center, states.mixture.center)
    torch.testing.assert_close(again.mixture.amplitude, states.mixture.amplitude)
    torch.testing.assert_close(again.mixture.width, states.mixture.width)
    assert (again.box, again.pixel_size) == (32, 4.0)
    assert torch.equal(again.swing, states.swing)
    assert torch.equal(again.occupied, states.occupied)


@pytest.mark.parametrize("content", [b"no archive", None])
def test_what_is_no_states_file_is_refused_by_name(content, tmp_path):
    path = tmp_path / "states.npz"
    if content is None:
        np.savez(path, center=np.zeros(3))
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"states\.npz: not the states"):
        read_states(path)
