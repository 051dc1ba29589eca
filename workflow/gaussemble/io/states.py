"""The true structures behind simulated particles, on a grid of states: `states.npz`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.io.files import read_npz, written
from gaussemble.quantities import Mixture

FORMAT = 1


@dataclass(frozen=True)
class States:
    """Structures on a grid of swings and occupancies, in the amplitude units of the simulated images."""

    mixture: Mixture  # (state, gaussian)
    swing: Float[Tensor, " state"]  # degrees
    occupied: Float[Tensor, " state"]  # 1: with the optional domain, 0: without
    box: int
    pixel_size: float  # Å

    def __len__(self) -> int:
        return len(self.swing)

    def nearest(self, swing: Float[Tensor, " image"], occupied: Float[Tensor, " image"]) -> Tensor:
        """(image,) index of the state of each particle: of its occupancy, the one of the nearest swing."""
        apart = (self.swing - swing[:, None]).abs() + 1e6 * (self.occupied - occupied[:, None]).abs()
        return apart.argmin(1)

    def components(self) -> tuple[list[Mixture], Float[Tensor, "state component"]]:
        """Parts that add up to the states: state s is the sum of parts c times weight[s, c].

        Gaussians that stand still and appear together are one part; those that move are a part for each arrangement.
        """
        center, amplitude, width = self.mixture.center, self.mixture.amplitude, self.mixture.width[0]
        peak = amplitude.abs().max(0).values
        share = amplitude / peak.clamp(min=1e-30)
        still = (center == center[0]).all(-1).all(0)
        profiles, group = torch.unique(share[:, still], dim=1, return_inverse=True)
        members = [still.nonzero().flatten()[group == index] for index in range(profiles.shape[1])]
        parts = [Mixture(center[0, rows], peak[rows], width[rows]) for rows in members]
        moving = torch.cat([center[:, ~still].flatten(1), amplitude[:, ~still]], dim=1)
        if moving.shape[1] == 0:
            return parts, profiles
        _, which = torch.unique(moving, dim=0, return_inverse=True)
        first = [int((which == index).nonzero()[0]) for index in range(int(which.max()) + 1)]
        parts += [Mixture(center[state, ~still], amplitude[state, ~still], width[~still]) for state in first]
        return parts, torch.cat([profiles, torch.eye(len(first))[which]], dim=1)


def write_states(path: Path, states: States) -> None:
    """Write center (state, gaussian, 3) Å from the box's origin, amplitude, width (gaussian,), swing, occupied, box."""
    with written(path) as temporary:
        np.savez(
            temporary,
            center=states.mixture.center.float().numpy(),
            amplitude=states.mixture.amplitude.float().numpy(),
            width=states.mixture.width[0].float().numpy(),
            swing=states.swing.numpy(),
            occupied=states.occupied.numpy(),
            box=states.box,
            pixel_size=states.pixel_size,
            format=FORMAT,
        )


def read_states(path: Path) -> States:
    """Read states.npz in float32; raises InputError where it is not one of ours."""
    data = read_npz(path, "the states that the stage simulate writes")
    try:
        if int(data["format"]) != FORMAT:
            raise InputError(f"{path}: format {int(data['format'])}, this version reads {FORMAT}")
        arrays = {name: torch.from_numpy(data[name]).float() for name in ("center", "amplitude", "width")}
        swing, occupied = (torch.from_numpy(data[name]).float() for name in ("swing", "occupied"))
        box, pixel_size = int(data["box"]), float(data["pixel_size"])
    except KeyError as error:
        raise InputError(f"{path}: not the states that the stage simulate writes: no array {error}") from error
    mixture = Mixture(arrays["center"], arrays["amplitude"], arrays["width"].expand_as(arrays["amplitude"]))
    return States(mixture, swing, occupied, box, pixel_size)
