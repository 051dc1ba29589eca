"""Particles as training sees them: centred transforms inside a resolution band, divided by the noise.

In these units a particle's log-likelihood is `-1/2 sum |image - transfer * projection|²` over the band, for white and
coloured noise alike: image and transfer carry the square root of each coefficient's multiplicity in the full transform
over the noise power.
"""

import mmap
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from gaussemble.fit.distributed import barrier, combine, share
from gaussemble.fit.scratch import Table, make_table
from gaussemble.io.store import ImageStore
from gaussemble.physics import ctf
from gaussemble.physics.fourier import band_box, crop_transform, to_fourier
from gaussemble.physics.projection import project, shift_phases
from gaussemble.physics.rings import ring_multiplicity, ring_sums, spread
from gaussemble.quantities import Mixture, Particles

BLOCK = 64  # particles at a time: what a processor core keeps in its cache
KEPT = 1024  # images of which a memory map keeps pages
TOLD = 1e-4  # of the larger of two parts' powers in a ring: less is not told from sums in single precision


@dataclass(frozen=True)
class Batch:
    """Some particles, ready to compare with projections of box `box` and pixel `pixel_size`."""

    rotation: Float[Tensor, "image 3 3"]
    image: Complex[Tensor, "image y half_x"]
    transfer: Float[Tensor, "image y half_x"]
    pixel_size: float

    @property
    def box(self) -> int:
        """Rows of the band's transforms."""
        return self.image.shape[-2]

    def __len__(self) -> int:
        return len(self.image)

    def predict(self, mixture: Mixture) -> Complex[Tensor, "image y half_x"]:
        """What the images would be without noise, for one mixture or one for each."""
        return self.transfer * project(mixture, self.rotation, self.box, self.pixel_size)

    def coarser(self, factor: float) -> "Batch":
        """The same particles in a smaller box, with the rings up to `factor` times the last one."""
        last = round(factor * (self.box // 2 - 1))
        box = min(self.box, 2 * (last + 1))
        keep = spread((torch.arange(box // 2 + 1, device=self.image.device) <= last).to(self.transfer.dtype), box)
        image, transfer = crop_transform(self.image, box) * keep, crop_transform(self.transfer, box) * keep
        return Batch(self.rotation, image, transfer, self.pixel_size * self.box / box)


@dataclass(frozen=True)
class Band:
    """All particles of a split inside one band; processes that work together share the transforms, on disk."""

    particles: Particles
    transforms: Table  # (image, y, half_x) complex64, whitened and centred
    weight: Float[Tensor, "group y half_x"]  # sqrt(multiplicity / noise power) x gain, 0 outside the band
    pixel_size: float
    scale: Float[Tensor, " image"]  # contrast of each particle, 1 on average
    checksum: int  # of the images; it tells other images, though not in other poses

    @property
    def box(self) -> int:
        """Rows of the band's transforms."""
        return self.transforms.shape[-2]

    @property
    def resolution(self) -> float:
        """Å of the last ring."""
        return self.box * self.pixel_size / (self.box // 2 - 1)

    def __len__(self) -> int:
        return len(self.transforms)

    def batch(
        self,
        rows: Int[Tensor, " image"],
        device: torch.device | str = "cpu",
        image: Complex[Tensor, "image y half_x"] | None = None,
    ) -> Batch:
        """The particles of some rows of the store; `image`: their transforms, where they have been read already."""
        particles = self.particles[rows].to(device)
        transfer = ctf.evaluate(particles.ctf.to(torch.float32), self.box, self.pixel_size)
        image = (self.transforms.read(rows) if image is None else image).to(device)
        weight = self.weight.to(device)[particles.optics_group] * self.scale[rows].to(device)[:, None, None]
        return Batch(particles.rotation.float(), image, transfer * weight, self.pixel_size)

    def batches(self, size: int, device: torch.device | str = "cpu") -> Iterator[tuple[Tensor, Batch]]:
        """All particles of this process's share in order: (rows, batch); without torchrun, all of the particles."""
        for rows in torch.arange(len(self))[share(len(self))].split(size):
            yield rows, self.batch(rows, device)

    def with_gain(self, gain: Float[Tensor, " ring"]) -> "Band":
        """The same data with the model's amplitude multiplied by a factor per ring."""
        return replace(self, weight=self.weight * spread(gain.to(self.weight.dtype), self.box))

    def with_scale(self, scale: Float[Tensor, " image"]) -> "Band":
        """The same data with the model's amplitude multiplied by each particle's contrast."""
        return replace(self, scale=self.scale * scale)


def open_band(
    store: ImageStore,
    noise_power: Float[Tensor, "group ring"],
    resolution: float,
    lowest_resolution: float | None = None,
) -> Band:
    """Transform, centre, crop and whiten every particle, block by block, into a temporary file.

    Args:
        store: the particles' images.
        noise_power: E|F|² of the noise in each ring of the stored box.
        resolution: Å, the band's upper end.
        lowest_resolution: Å, its lower end; None: from the first ring on. Ring 0 never counts, since normalising the
            images' background has touched it.
    """
    box = band_box(store.box, store.pixel_size, resolution)
    pixel_size = store.pixel_size * store.box / box
    whitening = _whitening(noise_power, box, store.box * store.pixel_size, resolution, lowest_resolution)
    transforms = make_table(len(store), (box, box // 2 + 1), np.complex64)
    checksum = torch.zeros((), dtype=torch.int64)
    blocks = list(store.blocks(BLOCK))
    for rows in blocks[share(len(blocks))]:
        particles, images = store.particles[rows], store.read(rows)
        checksum += zlib.crc32(images.numpy().data, rows.start)
        transform = crop_transform(to_fourier(images), box)
        transform = transform * shift_phases(particles.shift.float(), box, pixel_size).conj()
        transforms.write(rows.start, transform * whitening[particles.optics_group])
        if rows.start // KEPT != rows.stop // KEPT:
            forget_pages(store.images)
    barrier()
    scale = torch.ones(len(store))
    return Band(store.particles, transforms, whitening, pixel_size, scale, int(combine(checksum)))


def forget_pages(mapped: np.ndarray) -> None:
    """Drop what has been read of a memory map, which else counts as this process's memory; the system may cache it."""
    if isinstance(mapped.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.base.madvise(mmap.MADV_DONTNEED)


def _whitening(
    noise_power: Tensor, box: int, field: float, resolution: float, lowest_resolution: float | None
) -> Float[Tensor, "group y half_x"]:
    """sqrt(multiplicity / noise power) inside the band; never on the box's Nyquist, which is not one frequency."""
    frequency = torch.arange(box // 2 + 1) / field
    inside = (frequency <= 1 / resolution) & (frequency >= 1 / (lowest_resolution or field) * (1 - 1e-6))
    inside[box // 2 if box % 2 == 0 else box // 2 + 1 :] = False
    power = noise_power[:, : box // 2 + 1].float()
    scale = torch.where(inside, power.clamp(min=float(power.max()) * 1e-6).rsqrt(), 0.0)
    return spread(scale, box) * ring_multiplicity(box).sqrt()


def ring_gain(band: Band, mixture: Mixture, moving: Bool[Tensor, " gaussian"] | None = None) -> Float[Tensor, " ring"]:
    """Least-squares factor per ring between the particles and the mixture's projections, over all particles.

    It takes up what a consensus map lost to regularisation and what the mixture lost to its widths, so that no
    particle has to explain by its latent what all particles share.

    Args:
        band: the particles.
        mixture: the one at rest.
        moving: Gaussians that stand elsewhere in most particles. They get a factor of their own, and what is returned
            is the others': one for both would count what is elsewhere as what is faint.
    """
    parts = [mixture]
    if moving is not None and moving.any():
        parts = [mixture.select(~moving), mixture.select(moving)]
    cross = torch.zeros(band.box // 2 + 1, len(parts), dtype=torch.float64)
    power = torch.zeros(*cross.shape, len(parts), dtype=torch.float64)
    for _, batch in band.batches(BLOCK):
        predicted = [batch.predict(part) for part in parts]
        for row, one in enumerate(predicted):
            cross[:, row] += half_sums((one.conj() * batch.image).real, band.box).sum(0)
            for column, other in enumerate(predicted):
                power[:, row, column] += half_sums((one.conj() * other).real, band.box).sum(0)
    cross, power = combine(cross), combine(power)
    own = power[:, 0, 0]
    factor = torch.where(own > 0, cross[:, 0] / own.clamp(min=1e-30), 1.0)
    told = torch.linalg.matrix_rank(power, rtol=TOLD, hermitian=True) == len(parts)  # apart; else the others' alone
    factor[told] = torch.linalg.solve(power[told], cross[told])[:, 0]
    return factor.clamp(min=0).float()


def particle_scales(band: Band, mixture: Mixture) -> tuple[Float[Tensor, " image"], float]:
    """Contrast of each particle against the mixture's projection, and the standard deviation of the true ones.

    A particle's own least-squares factor has the variance 1 / |prediction|²; what the factors vary beyond that is the
    spread of the true ones, to whose mean each is drawn as a posterior mean is (empirical Bayes). Where they vary no
    more than by noise, all get the mean.
    """
    cross, power = torch.zeros(len(band)), torch.zeros(len(band))
    for rows, batch in band.batches(BLOCK):
        predicted = batch.predict(mixture)
        cross[rows] = (predicted.conj() * batch.image).real.sum((-2, -1))
        power[rows] = predicted.abs().square().sum((-2, -1)).clamp(min=1e-12)
    cross, power = combine(cross), combine(power)
    mean = cross.sum() / power.sum()
    variance = ((power * (cross / power - mean).square() - 1).sum() / power.sum()).clamp(min=0)
    drawn = (mean + variance * cross) / (1 + variance * power)
    return drawn.clamp(min=0.1 * abs(float(mean))), float(variance.sqrt())


def half_sums(values: Float[Tensor, "image y half_x"], box: int) -> Float[Tensor, "image ring"]:
    """Ring sums of values that carry the coefficients' multiplicity already."""
    return ring_sums(values / ring_multiplicity(box).to(values.device), box)
