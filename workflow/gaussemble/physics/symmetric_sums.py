"""Sums of slices averaged over a point group on the 3D grid, so that the cost does not grow with the images.

Inserting every image under every operator gives `sum_S F(k S)`; here the sums of one insertion are read at the turned
cells (as RELION does). For operators that only swap and flip axes (all of D2, D4 and O, twelve of I1 and I2) cells fall
on cells and it is the same; for others it is one more trilinear interpolation, whose damping `divide` takes out.
"""

from dataclasses import replace
from typing import no_type_check

import numpy as np
import torch

from gaussemble.physics.backprojection import Sums, with_mates
from gaussemble.physics.loops import compiled, in_threads
from gaussemble.physics.symmetry import operators


@compiled
@no_type_check
def _gather(cells, turned, operators, depth, limit):
    """Fill a depth of `turned`: the sum over S of the cells at S k, |k|² < limit; `cells` have both mates of x = 0."""
    reach, one = cells.shape[0] // 2, np.float32(1)
    z = depth - reach
    for row in range(cells.shape[1]):
        y = row - reach
        for x in range(cells.shape[2]):
            if x * x + y * y + z * z >= limit:
                continue
            for operator in operators:
                at_x = operator[0, 0] * x + operator[0, 1] * y + operator[0, 2] * z
                at_y = operator[1, 0] * x + operator[1, 1] * y + operator[1, 2] * z
                at_z = operator[2, 0] * x + operator[2, 1] * y + operator[2, 2] * z
                sign = one
                if at_x < 0:
                    at_x, at_y, at_z, sign = -at_x, -at_y, -at_z, -sign
                left, low, near = int(at_x), int(np.floor(at_y)), int(np.floor(at_z))
                fx, fy, fz = np.float32(at_x - left), np.float32(at_y - low), np.float32(at_z - near)
                for dz in range(2):
                    share_z = fz if dz else one - fz
                    for dy in range(2):
                        share_y = share_z * (fy if dy else one - fy)
                        for dx in range(2):
                            share = share_y * (fx if dx else one - fx)
                            if share > 0:
                                cell = cells[near + dz + reach, low + dy + reach, left + dx]
                                turned[row, x, 0] += share * cell[0]
                                turned[row, x, 1] += share * sign * cell[1]
                                turned[row, x, 2] += share * cell[2]


def symmetrised(sums: Sums, name: str) -> Sums:
    """What inserting every image under all operators of a point group would have summed up.

    Args:
        sums: of `insert`, all images under one operator.
        name: of the group, as `symmetry.operators` takes it.
    """
    group = operators(name)
    if len(group) == 1:
        return sums
    group = torch.where((group - group.round()).abs() < 1e-9, group.round(), group)
    resampled = (group.abs() != 1).all(dim=1)  # no column of zeros and a one: this axis does not fall on an axis
    group = group.numpy()
    turned, limit = torch.zeros_like(sums.cells), (sums.padding * sums.box / 2) ** 2
    for volume, cells in enumerate(sums.cells):
        both, result = with_mates(cells).numpy(), turned[volume].numpy()
        in_threads(_gather, [(both, result[depth], group, depth, limit) for depth in range(len(both))])
    turned[:, :, :, 0] *= 0.5  # `divide` adds the mates on x = 0 once more
    return replace(sums, cells=turned, resampled=tuple((x, y, z) for x, y, z in resampled.tolist()))
