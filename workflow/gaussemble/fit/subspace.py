"""Many structures compared with every particle, at the price of a few.

The maps of hundreds of structures that one motion or a few states connect are sums of some tens of components, up to a
part of their differences that no particle could tell. A particle's likelihood under each of them is then a quadratic
form in the components' weights: with P a component's projection under the particle's pose and CTF, r what the image
leaves of a reference's, and w a structure's weights,

    log p(image | structure) - log p(image | reference) = sum_c w_c <P_c, r> - 1/2 sum_cd w_c w_d <P_c, P_d>

so each component is projected once, and no structure is. (Components of volumes in this way: 3DVA, Punjani & Fleet
2021; RECOVAR, Gilles & Singer 2025.)
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from gaussemble.fit.band import Batch
from gaussemble.physics.backprojection import half_disc, sample, volume_grids
from gaussemble.physics.band_limited import band_limited_map
from gaussemble.progress import say
from gaussemble.quantities import Mixture

MOST = 128  # components; they cost time, and
MEMORY = 1.5e9  # bytes that their padded transforms may take
TRIED = 2  # times as many directions of maps, from which they are made
WIDEST = 96  # pixels of the box to which structures are compared: memory grows with its cube
BLOCK = 32  # maps held at a time
PADDING = 2


@dataclass(frozen=True)
class Tolerance:
    """How far what the components make of a structure may be from it, where `most` components can be so near."""

    nats: float = 0.1  # in the mean over particles,
    share: float = 0.01  # and of what structures differ from the reference by
    power: float = 1e-3  # of the maps' power, seen or not
    most: int = MOST


@dataclass(frozen=True)
class Subspace:
    """Structures as a reference and a few components' maps times weights."""

    reference: Mixture
    grids: Float[Tensor, "depth row column part component"]  # `volume_grids` of the components
    weight: Float[Tensor, "structure component"]
    squares: Float[Tensor, "structure products"]  # of two weights

    def equations(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "image component"], Float[Tensor, "image component component"]]:
        """<P_c, r> and <P_c, P_d> of each image."""
        seen = narrowed(batch)
        left = replace(seen, image=seen.image - seen.predict(self.reference))
        return normal_equations(self.grids, left)

    def gains(self, batch: Batch) -> Float[Tensor, "image structure"]:
        """By how many nats each structure makes each image likelier than the reference does."""
        cross, gram = self.equations(batch)
        return cross @ self.weight.mT - 0.5 * gram.flatten(start_dim=1) @ self.squares.mT


def narrowed(batch: Batch) -> Batch:
    """The particles in the box in which they are compared."""
    return batch if batch.box <= WIDEST else batch.coarser((WIDEST / 2 - 1) / (batch.box / 2 - 1))


def subspace_of(
    structures: Iterable[Mixture], reference: Mixture, batch: Batch, tolerance: Tolerance | None = None
) -> Subspace:
    """What `Subspace.gains` needs to compare structures with particles.

    Components are those of what particles see: principal components of the maps under the metric of the mean Gram
    matrix of their projections, so that a small part which every view shows well is not left out beside a large one.

    Args:
        structures: in blocks (structure, gaussian), one block at a time in memory; on any device.
        reference: a single mixture that they do not differ from by much, on the same.
        batch: some particles, on the CPU, for what is seen, and for the box and the pixel size of what is compared.
        tolerance: see `Tolerance`.
    """
    seen, near = narrowed(batch), tolerance or Tolerance()
    most = max(1, min(near.most, int(MEMORY / (4 * (PADDING * seen.box) ** 3))))
    parts, weight = components(_differences(structures, reference, seen.box, seen.pixel_size), near.power, TRIED * most)
    slices = torch.cat([_slices(volume_grids(some, PADDING), seen) for some in parts.split(BLOCK)], dim=2)
    gram = slices.mT @ slices
    values, axes = torch.linalg.eigh(gram.double().mean(0))
    root = axes * values.clamp(min=1e-9 * float(values.max()) + 1e-30).sqrt()
    told = weight.double() @ root
    power, turn = torch.linalg.eigh(told.mT @ told / len(told))
    power, turn = power.flip(0).clamp(min=0), turn.flip(1)
    allowed = min(2 * near.nats, near.share * float(power.sum()))
    count = min(int((power.sum() - power.cumsum(0) > allowed).sum()) + 1, len(power), most)
    combined = torch.einsum("cd,czyx->dzyx", torch.linalg.solve(root.mT, turn[:, :count]).to(parts), parts)
    weight = (told @ turn[:, :count]).to(weight)
    if float(power[count:].sum()) > allowed:
        left_out = 0.5 * float(power[count:].sum())
        say(f"structures are compared by {count} components, which leave out {left_out:.2g} nats in the mean")
    squares = (weight[:, :, None] * weight[:, None, :]).flatten(start_dim=1)
    return Subspace(reference.to("cpu"), volume_grids(combined, PADDING), weight, squares)


def _differences(
    structures: Iterable[Mixture], reference: Mixture, box: int, pixel_size: float
) -> Iterator[Float[Tensor, "structure z y x"]]:
    """The structures' maps less the reference's, in blocks."""
    still = band_limited_map(reference, box, pixel_size)
    for block in structures:
        each = zip(block.center, block.amplitude, block.width, strict=True)
        yield torch.stack([band_limited_map(Mixture(*one), box, pixel_size) - still for one in each]).cpu()


def components(
    maps: Iterable[Float[Tensor, "_ z y x"]], tolerance: float, most: int | None = None
) -> tuple[Float[Tensor, "component z y x"], Float[Tensor, "structure component"]]:
    """The fewest components, at least one, that leave out at most `tolerance` of the maps' power; no more than `most`.

    Map s is the sum over components c of weight[s, c] times part c, and the parts are orthonormal. The maps come in
    blocks; beside a block only the directions found so far are held. Each block adds those that it needs, by principal
    components of what the earlier ones leave of it, and in the end all of them are turned into the principal components
    of the whole. So there may be a few more than without blocks, and `most` takes those of the first blocks first.
    """
    basis, rows, power, shape = None, [], 0.0, torch.Size()
    for block in maps:
        flat, shape = block.flatten(start_dim=1), block.shape[1:]
        basis = flat.new_zeros(0, flat.shape[1]) if basis is None else basis
        power += float(flat.double().square().sum())
        known = flat @ basis.mT
        left = flat - known @ basis
        found = _directions(left, 0.5 * tolerance * float(flat.double().square().sum()))
        found = found[: None if most is None else max(0, most - len(basis))]
        found = found - (found @ basis.mT) @ basis  # once more, for rounding
        found = found / found.norm(dim=1, keepdim=True).clamp(min=1e-30)
        basis = torch.cat([basis, found])
        rows.append(torch.cat([known, left @ found.mT], dim=1))
    if basis is None:
        raise ValueError("no maps")
    if not len(basis):
        return basis.new_zeros(1, *shape), basis.new_zeros(sum(map(len, rows)), 1)
    weight = torch.cat([torch.nn.functional.pad(row, (0, len(basis) - row.shape[1])) for row in rows])
    values, axes = torch.linalg.eigh((weight.mT @ weight).double())
    left_out = power - values.flip(0).cumsum(0)
    count = min(int((left_out > tolerance * power).sum()) + 1, len(values), most or len(values))
    turn = axes.flip(1)[:, :count].to(weight)
    return (turn.mT @ basis).unflatten(1, shape), weight @ turn


def _directions(left: Float[Tensor, "structure voxel"], ignored: float) -> Float[Tensor, "component voxel"]:
    """The fewest orthonormal directions that leave at most the power `ignored` of some rows."""
    values, axes = torch.linalg.eigh((left @ left.mT).double())
    values, axes = values.flip(0).clamp(min=0), axes.flip(1)
    count = int((values.sum() - values.cumsum(0) + values > ignored).sum())  # of what is left before each
    directions = axes[:, :count].mT.to(left) @ left
    return directions / directions.norm(dim=1, keepdim=True).clamp(min=1e-30)


def normal_equations(
    grids: Float[Tensor, "depth row column part component"], batch: Batch
) -> tuple[Float[Tensor, "image component"], Float[Tensor, "image component component"]]:
    """Re<TP, X> and Re<TP, TP'> of the components' projections, T the transfer and X the image."""
    predicted = _slices(grids, batch)
    image = torch.view_as_real(batch.image.flatten(start_dim=1)[:, half_disc(batch.box)[0]]).flatten(start_dim=1)
    return torch.einsum("ipc,ip->ic", predicted, image), predicted.mT @ predicted


def _slices(
    grids: Float[Tensor, "depth row column part component"], batch: Batch
) -> Float[Tensor, "image p component"]:
    """Real and imaginary parts of the components' projections under each image's pose and transfer."""
    index, frequency = half_disc(batch.box)
    transfer = batch.transfer.flatten(start_dim=1)[:, index]
    return sample(grids, batch.rotation, PADDING * frequency, transfer).flatten(1, 2)
