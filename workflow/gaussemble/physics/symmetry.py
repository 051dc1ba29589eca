"""Point groups of rotations, named and oriented as in RELION: C1, Cn, Dn, T, O, I (= I2), I1, I2, I3, I4.

The groups are scipy's; fixed rotations bring them to RELION's axes. Groups with mirrors are refused.
"""

import difflib
import re
from functools import lru_cache

import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.physics.rotations import euler_to_matrix, matrix_to_euler

KNOWN = "C1, C2, C3 ..., D2, D3 ..., T, O, I (the same as I2), I1, I2, I3 or I4"
MIRRORS = re.compile(r"(C|D)\d+(V|H)|S\d+|C(S|I|V|H)|T(D|H)|OH|I\d?H")
# Degrees about fixed z, then y, then z, from scipy's axes to RELION's. Tetrahedron: a 3-fold along z. Icosahedra:
# I1 and I2 have 2-folds along x, y and z; I3 and I4 a 5-fold along z, 58.28 degrees (atan of the golden ratio) from
# a 2-fold.
TURNS = {
    "T": (45.0, 54.735610317245346, 90.0),
    "O": (0.0, 0.0, 0.0),
    "I1": (0.0, 0.0, 0.0),
    "I2": (90.0, 0.0, 0.0),
    "I3": (0.0, 58.28252558853899, 0.0),
    "I4": (0.0, -58.28252558853899, 0.0),
}


def canonical(name: str) -> str:
    """The name in RELION's spelling, `I` as `I2`.

    Raises:
        InputError: not a name of a group of rotations.
    """
    given = name.strip().upper()
    if MIRRORS.fullmatch(given):
        raise InputError(f"symmetry {name!r} has mirrors, molecules have none; give its rotations: {KNOWN}")
    known = given in TURNS or given == "I" or re.fullmatch(r"[CD]0*[1-9]\d{0,2}", given)
    if not known:
        near = difflib.get_close_matches(given, ["C1", "C2", "C3", "C4", "D2", "D3", *TURNS], n=3, cutoff=0.5)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise InputError(f"symmetry {name!r} is not known{hint}; expected {KNOWN}")
    if given[0] in "CD":
        return given[0] + str(int(given[1:]))
    return "I2" if given == "I" else given


@lru_cache(maxsize=16)
def _operators(name: str) -> Float[Tensor, "operator 3 3"]:
    """Of a canonical name."""
    if name[0] in "CD":
        group = torch.from_numpy(Rotation.create_group(name).as_matrix())
        turns = group.unflatten(0, (-1, int(name[1:])))  # the turns about z, and in Dn the 2-folds across it
        return turns.roll(-1, 1).flip(1).flatten(end_dim=1)  # downwards from 0
    turn = Rotation.from_euler("zyz", TURNS[name], degrees=True)
    group = turn * Rotation.create_group(name[0]) * turn.inv()
    order = torch.from_numpy(group.magnitude()).sort(stable=True).indices
    return torch.from_numpy(group.as_matrix())[order]


def operators(name: str) -> Float[Tensor, "operator 3 3"]:
    """Rotations S that leave a density of this symmetry as it is, the identity first, in float64.

    The order is RELION's for Cn and Dn, and by growing angle for the others. Seen from `R S` such a density looks as
    from `R`.

    Raises:
        InputError: not a name of a group of rotations.
    """
    return _operators(canonical(name)).clone()


def expand(angles: Float[Tensor, "image 3"], name: str) -> Float[Tensor, "copy 3"]:
    """(rot, tilt, psi) in radians of all equivalent views: a particle's copies, in the operators' order, together.

    As `relion_particle_symmetry_expand` does; each particle's first copy is as given.
    """
    group = operators(name)
    rotation = euler_to_matrix(angles.double())
    copies = matrix_to_euler((rotation[:, None] @ group).flatten(end_dim=1)).view(len(angles), len(group), 3)
    copies[:, 0] = angles.double()
    return copies.flatten(end_dim=1).to(angles.dtype)
