"""What every particle's image says of the weights of a few components: all that likelihoods in their span need.

With P a component's projection in the particle's view, r what its image leaves of the reference's, and w the weights of
a structure (`fit.subspace`), log p(image | w) - log p(image | reference) = w·b - 1/2 w·G w, where b = <P, r> and
G = <P, P'>. Each particle is projected once; then any structure of the span is compared with it by some products of
numbers, and the structures that explain particles best are the solutions of linear equations.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaussemble.fit.band import Band
from gaussemble.fit.scratch import Table, make_table
from gaussemble.fit.subspace import Subspace
from gaussemble.progress import progress

BATCH = 64  # particles projected at a time
READ = 4096  # rows of the table read at a time


@dataclass(frozen=True)
class Coordinates:
    """Of some particles, in memory."""

    pull: Float[Tensor, "particle component"]  # b
    curvature: Float[Tensor, "particle pair"]  # G's upper triangle, row by row

    def __len__(self) -> int:
        return len(self.pull)

    def __getitem__(self, rows: Tensor) -> "Coordinates":
        """Of some of them."""
        return Coordinates(self.pull[rows], self.curvature[rows])

    def left(self, weight: Float[Tensor, " component"]) -> Float[Tensor, "particle component"]:
        """What a structure leaves of the particles' pull: b - G w."""
        row, column = pairs(len(weight))
        weight = weight.to(self.pull)
        left = self.pull.index_add(1, row, self.curvature * weight[column], alpha=-1)
        mirrored = torch.where(row == column, 0.0, weight[row])
        return left.index_add(1, column, self.curvature * mirrored, alpha=-1)

    def gains(self, weight: Float[Tensor, "structure component"]) -> Float[Tensor, "particle structure"]:
        """By how many nats each structure makes each particle likelier than the reference does."""
        row, column = pairs(weight.shape[1])
        twice = torch.where(row == column, 0.5, 1.0)
        product = (twice * weight[:, row] * weight[:, column]).to(self.curvature)
        return self.pull @ weight.to(self.pull).mT - self.curvature @ product.mT

    def totals(
        self, share: Float[Tensor, "particle structure"]
    ) -> tuple[Float[Tensor, "structure component"], Float[Tensor, "structure component component"]]:
        """Sums of b and of G over the particles, each counted by its share in each structure; in float64."""
        part = share.to(self.pull).mT
        pull, curvature = (part @ self.pull).double(), (part @ self.curvature).double()
        row, column = pairs(pull.shape[1])
        whole = curvature.new_zeros(len(curvature), *2 * pull.shape[1:])
        whole[:, row, column] = curvature
        whole[:, column, row] = curvature
        return pull, whole


@dataclass(frozen=True)
class CoordinateTable:
    """Of all particles, on disk, since they grow with their number; iterated over in blocks, as often as one likes."""

    table: Table
    components: int

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Coordinates]:
        for rows in torch.arange(len(self)).split(READ):
            yield self.of(rows)

    def of(self, rows: Int[Tensor, " row"]) -> Coordinates:
        """Of some particles."""
        found = self.table.read(rows)
        return Coordinates(found[:, : self.components], found[:, self.components :])


def pairs(components: int) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """Rows and columns of a symmetric matrix's upper triangle."""
    row, column = torch.triu_indices(components, components)
    return row, column


@torch.no_grad()
def coordinates_of(subspace: Subspace, band: Band) -> CoordinateTable:
    """Project all particles' views of the components; on the CPU."""
    components = subspace.weight.shape[1]
    row, column = pairs(components)
    table = make_table(len(band), (components + len(row),), np.float32)
    for rows, batch in progress(band.batches(BATCH), "comparing with components", total=-(-len(band) // BATCH)):
        pull, gram = subspace.equations(batch)
        table.write(int(rows[0]), torch.cat([pull, gram[:, row, column]], dim=1))
    return CoordinateTable(table, components)
