"""What every particle says of a rigid domain's pose: its likelihood at any pose, and where poses had better be.

`physics.beads` has the loops. Poses are rotations about the domain's centre of mass, then shifts in Å, both in the
map's frame; small motions are six numbers in the frame of the turned domain, radians and Å.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.fit.band import Band, Batch, half_sums
from gaussemble.fit.distributed import barrier, combine, share
from gaussemble.fit.scratch import Table, make_table
from gaussemble.model.heterogeneity import DeformableMixture
from gaussemble.physics.beads import FINE, SIDE, Beads, beads_of, match, power_table, pull
from gaussemble.physics.fourier import axis_frequencies, pad_transform, to_real
from gaussemble.physics.loops import in_threads
from gaussemble.physics.rings import ring_multiplicity
from gaussemble.progress import progress
from gaussemble.quantities import Mixture

FINER = 2  # pixels of the residuals that are looked up are so much finer than the band's,
FINEST = 4  # and where nothing is kept: errors between neighbouring poses look like motion (a quarter of 1 nat, not 1)
BLOCK = 64  # images of a thread
READ = 512  # images in memory
LEAST = 0.1  # of an even share of an image in a pose, below which it has no say in where that goes
SAMPLE = 256  # particles, evenly from all, of the mean information
STEP = 0.05  # of the resolution: how far a radius of gyration, and the centre, are moved for its differences


@dataclass(frozen=True)
class Poses:
    """Of a rigid domain."""

    rotation: Float[Tensor, "pose 3 3"]
    shift: Float[Tensor, "pose 3"]  # Å

    def __len__(self) -> int:
        return len(self.shift)

    def __getitem__(self, kept: Tensor) -> "Poses":
        """Some of them."""
        return Poses(self.rotation[kept], self.shift[kept])

    def to(self, device: torch.device | str) -> "Poses":
        """On a device."""
        return Poses(self.rotation.to(device), self.shift.to(device))

    def joined(self, others: "Poses") -> "Poses":
        """These and others."""
        return Poses(torch.cat([self.rotation, others.rotation]), torch.cat([self.shift, others.shift]))

    def moved(self, motion: Float[Tensor, "pose 6"]) -> "Poses":
        """Turned and shifted on, by the domain's own axes."""
        x, y, z = motion[:, :3].unbind(1)
        zero = torch.zeros_like(x)
        across = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).unflatten(1, (3, 3))
        left, _, right = torch.linalg.svd(self.rotation @ torch.linalg.matrix_exp(across))  # rounding would add up
        return Poses(left @ right, self.shift + (self.rotation @ motion[:, 3:, None])[..., 0])


def at_rest() -> Poses:
    """The one pose that the neutral mixture has."""
    return Poses(torch.eye(3)[None], torch.zeros(1, 3))


@dataclass(frozen=True)
class Shown:
    """What some images show of the domain."""

    residual: Float[Tensor, "image y x"]  # with the transfer, blurred to a bead's width; of what stands still
    rotation: Float[Tensor, "image 3 3"]
    transfer: Float[Tensor, "image ring"]  # sums of its squares
    alone: Float[Tensor, " image"]  # log-likelihood of what stands still, without the domain

    def __len__(self) -> int:
        return len(self.rotation)

    def __getitem__(self, part: slice) -> "Shown":
        """Some of them."""
        return Shown(self.residual[part], self.rotation[part], self.transfer[part], self.alone[part])


@dataclass(frozen=True)
class Domain:
    """A rigid domain among Gaussians that stand still, and how its poses are compared with images of one band."""

    still: Mixture
    body: Mixture
    beads: Beads
    table: Float[Tensor, "direction ring"]
    box: int  # of the band
    pixel_size: float  # Å, of the band
    finer: int = FINER

    def shown(self, batch: Batch) -> Shown:
        """What is looked up of some images."""
        y, x = axis_frequencies(self.box, self.pixel_size)
        blur = torch.exp(-2 * (np.pi * self.beads.width) ** 2 * (y[:, None].square() + x.square()))
        # what interpolation between neighbours damps
        damped = torch.sinc(y * self.pixel_size / self.finer)[:, None] * torch.sinc(x * self.pixel_size / self.finer)
        weight = batch.transfer * blur / damped.square() / ring_multiplicity(self.box)
        left = batch.image - batch.predict(self.still)
        padded = pad_transform(weight * left, self.finer * self.box)
        residual = to_real(padded, self.finer * self.box) * (self.finer * self.box) ** 2
        for edge in (0, -1):  # beads beyond it are looked up there: what no image shows makes none likelier
            residual[:, edge] = residual[:, :, edge] = 0
        alone = -0.5 * left.abs().square().sum((1, 2))
        return Shown(residual, batch.rotation, half_sums(batch.transfer.square(), self.box), alone)

    def gains(self, shown: Shown, poses: Poses) -> Float[Tensor, "image pose"]:
        """Nats by which each pose makes each image likelier than if the domain were not there."""
        found = np.empty((len(shown), len(poses)), np.float32)
        given = self._given(poses)

        def fill(part: slice) -> None:
            views = _arrays(shown[part])
            match(*views, given["place"], given["rotation"], given["amplitude"], *self._scene(), found[part])

        in_threads(fill, _parts(len(shown)))
        return torch.from_numpy(found)

    def pulled(self, shown: Shown, poses: Poses, counted: Float[Tensor, "image pose"]) -> Float[Tensor, "pose seven"]:
        """Sums of what each image counts for each pose, and of the slopes of `gains` for six small motions."""
        given, weight = self._given(poses), np.ascontiguousarray(counted.numpy(), np.float32)
        least = np.float32(LEAST / len(poses))

        def slopes(part: slice) -> np.ndarray:
            out, body = np.zeros((len(poses), 7)), (given["rotation"], given["offset"], given["amplitude"])
            pull(*_arrays(shown[part]), given["place"], *body, *self._scene(), weight[part], least, out)
            return out

        return torch.from_numpy(sum(in_threads(slopes, _parts(len(shown))), np.zeros((len(poses), 7))))

    def _given(self, poses: Poses) -> dict[str, np.ndarray]:
        """What the loops need of poses; these must be finite, as the loops look up what they say."""
        if not (poses.rotation.isfinite().all() and poses.shift.isfinite().all()):
            raise ValueError("a pose is not finite")
        parts = {
            "place": self.beads.placed(poses.rotation, poses.shift).permute(2, 0, 1),
            "rotation": poses.rotation,
            "offset": self.beads.offset.mT,
            "amplitude": self.beads.amplitude,
        }
        return {name: np.ascontiguousarray(part.numpy(), np.float32) for name, part in parts.items()}

    def _scene(self) -> tuple[np.ndarray, int, np.float32]:
        return self.table.numpy(), SIDE, np.float32(self.finer / self.pixel_size)


def _arrays(shown: Shown) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    parts = (shown.residual, shown.rotation, shown.transfer)
    return tuple(np.ascontiguousarray(part.numpy(), np.float32) for part in parts)  # type: ignore[return-value]


def _parts(count: int) -> list[tuple[slice]]:
    """Slices of so many images, each a thread's task."""
    return [(slice(start, min(start + BLOCK, count)),) for start in range(0, count, BLOCK)]


def domain_of(model: DeformableMixture, band: Band, finer: int = FINER) -> Domain:
    """The domain of a model of poses, for particles of a band; on the CPU.

    Raises:
        InputError: a Gaussian that is not finite.
    """
    moves, neutral = model.varies.cpu(), model.neutral.to("cpu")
    body = neutral.select(moves)
    if not all(part.isfinite().all() for part in (body.center, body.amplitude, body.width)):
        raise InputError("a Gaussian of the domain is not finite; run the stage neutral again")
    return domain_in(neutral.select(~moves), body, band, finer)


def domain_in(still: Mixture, body: Mixture, band: Band, finer: int = FINER, fine: float = FINE) -> Domain:
    """A domain and what stands still, for particles of a band; `fine`: see `beads_of`."""
    beads, table = beads_of(body, band.resolution, fine), power_table(body, band.box, band.pixel_size)
    return Domain(still, body, beads, table, band.box, band.pixel_size, finer)


@torch.no_grad()
def information(domain: Domain, band: Band) -> Float[Tensor, "six six"]:
    """What a particle tells of six small motions, the inverse of their covariance: the mean over views and transfers.

    In the domain's frame it is the same for all poses, as particles are seen from everywhere.

    Raises:
        InputError: particles tell nothing.
    """
    batch = band.batch(torch.linspace(0, len(band) - 1, min(SAMPLE, len(band))).long())
    offset, slopes = domain.body.center - domain.beads.center, []
    for axis in range(6):
        step = STEP * band.resolution / (domain.beads.radius if axis < 3 else 1.0)
        motion = torch.zeros(2, 6)
        motion[0, axis], motion[1, axis] = step, -step
        poses = Poses(torch.eye(3).expand(2, 3, 3), torch.zeros(2, 3)).moved(motion)
        place = offset @ poses.rotation.mT + poses.shift[:, None]
        ahead, behind = (batch.predict(Mixture(one, domain.body.amplitude, domain.body.width)) for one in place)
        slopes.append(torch.view_as_real((ahead - behind) / (2 * step)).flatten(start_dim=1))
    slope = torch.stack(slopes, dim=1).double()
    found = (slope @ slope.mT).mean(0)
    if not found.isfinite().all() or float(found.diagonal()[3:].sum()) <= 0:
        raise InputError("option domains: the particles show nothing of the domain; is their contrast inverted?")
    return found


@dataclass(frozen=True)
class ShownTable:
    """What some particles show; residuals on disk. A process reads its share block by block, as often as it likes."""

    residual: Table
    rotation: Float[Tensor, "image 3 3"]
    transfer: Float[Tensor, "image ring"]  # zero for the particles of other processes
    alone: Float[Tensor, " image"]  # so too

    def __len__(self) -> int:
        return len(self.residual)

    def __iter__(self) -> Iterator[Shown]:
        for rows in own_blocks(len(self)):
            yield Shown(self.residual.read(rows), self.rotation[rows], self.transfer[rows], self.alone[rows])


def shown_of(domain: Domain, band: Band, rows: Int[Tensor, " row"]) -> Shown:
    """What the particles of some rows show of the domain; as many as memory has room for."""
    parts = [domain.shown(band.batch(part)) for part in rows.split(BLOCK)]
    return Shown(*(torch.cat([getattr(part, each.name) for part in parts]) for each in fields(Shown)))


@torch.no_grad()
def shown_table(domain: Domain, band: Band, rows: Int[Tensor, " row"], over: ShownTable | None = None) -> ShownTable:
    """What the particles of some rows show of the domain; `over`: a table of the same rows that is written over."""
    shape = (FINER * domain.box, FINER * domain.box)
    table = make_table(len(rows), shape, np.float32) if over is None else over.residual
    transfer, alone = torch.zeros(len(rows), domain.table.shape[1]), torch.zeros(len(rows))
    for part in progress(own_blocks(len(rows)), "looking at the domain"):
        shown = shown_of(domain, band, rows[part])
        table.write(int(part[0]), shown.residual)
        transfer[part], alone[part] = shown.transfer, shown.alone
    barrier()
    return ShownTable(table, band.particles.rotation[rows].float(), transfer, alone)


@torch.no_grad()
def compared_poses(model: DeformableMixture, band: Band) -> Table:
    """(image, landmark): what `fit.population.compared` finds, of a model of poses; no components are left out."""
    assert model.poses is not None
    domain = domain_of(model, band, FINEST)
    poses = at_rest().joined(Poses(*model.poses.pose(model.landmark)).to("cpu"))
    table = make_table(len(band), (len(model.landmark),), np.float32)
    for rows in progress(own_blocks(len(band)), "comparing with poses"):
        gains = domain.gains(shown_of(domain, band, rows), poses)
        table.write(int(rows[0]), gains[:, 1:] - gains[:, :1])
    barrier()
    return table


@torch.no_grad()
def refitted(model: DeformableMixture, band: Band, latent: Float[Tensor, " latent"]) -> Float[Tensor, " image"]:
    """Nats by which each particle, the domain in one pose for all, gains if that has a factor of its own in each ring.

    Least squares over all particles. A model that is too strong, too sharp, or smeared in the particles has no other
    way to be rigid, and a spread of poses would explain its faults.
    """
    mixture, moves = model.decode(latent[None].to(model.center.device)).to("cpu"), model.varies.cpu()
    whole = Mixture(mixture.center[0], mixture.amplitude[0], mixture.width[0])
    still, body = whole.select(~moves), whole.select(moves)
    cross, power = (torch.zeros(len(band), band.box // 2 + 1) for _ in range(2))
    for rows, batch in band.batches(BLOCK):
        moved, left = batch.predict(body), batch.image - batch.predict(still)
        cross[rows] = half_sums((moved.conj() * left).real, band.box)
        power[rows] = half_sums(moved.abs().square(), band.box)
    cross, power = combine(cross), combine(power)
    total, all_power = cross.double().sum(0), power.double().sum(0)
    factor = torch.where(all_power > 0, total / all_power.clamp(min=1e-30), 1.0).float()
    return cross @ (factor - 1) - 0.5 * power @ (factor.square() - 1)


def rigid_gain(model: DeformableMixture, band: Band) -> Float[Tensor, " image"]:
    """Nats by which the model's rigid molecule makes each particle likelier than its neutral mixture does."""
    assert model.rigid is not None
    rows = torch.arange(len(band))
    rigid, neutral = (log_likelihood(mixture.to("cpu"), band, rows) for mixture in (model.rigid, model.neutral))
    return (rigid - neutral).float()


@torch.no_grad()
def log_likelihood(mixture: Mixture, band: Band, rows: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
    """Of some particles if all were this mixture, from all processes; but for a constant."""
    found = torch.zeros(len(rows), dtype=torch.float64)
    for block in own_blocks(len(rows)):
        for part in block.split(BLOCK):
            batch = band.batch(rows[part])
            found[part] = -0.5 * (batch.image - batch.predict(mixture)).abs().square().sum((1, 2)).double()
    return combine(found)


def own_blocks(count: int) -> Sequence[Int[Tensor, " row"]]:
    """This process's share of so many rows, in blocks that fit in memory."""
    own = torch.arange(count)[share(count)]
    return own.split(READ) if len(own) else ()
