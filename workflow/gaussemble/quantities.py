"""Every array's name, axes, unit and frame, said once.

Units inside the package: lengths in Å, angles in radians, frequencies in 1/Å, voltages in volts. `io` converts.

Frames
    The origin of images and maps is at pixel D//2 (RELION's). Positions are relative to it, as (x, y, z); arrays are
    (z, y, x) and (y, x). The *map frame* of files (maps, atomic models, mixture.npz) has its origin at the header's
    origin, the corner of voxel 0; `Map.center` is the position of our origin in it.
Pose
    `x_view = rotation @ x_volume`; the particle's image shows the molecule at `-shift`, so that moving the image by
    `+shift` centres it (RELION's rlnOriginX/YAngst).
Fourier transforms
    `F(k) = sum_x f(x) exp(-2 pi i k.x)`, not normalised, x relative to the origin: F(0) is the sum of the pixels.
    Images are half transforms (y, x) as numpy.fft.rfft2 orders them, after the origin went to pixel 0.
Image model, for a mixture with centre c, integrated amplitude a, isotropic standard deviation s
    `F(k) = CTF(k) exp(2 pi i k.t) sum_j a_j exp(-2 pi^2 s_j^2 |k|^2) exp(-2 pi i k.(R c_j)_xy)`
    so the amplitudes' unit is a sum of pixel (equally voxel) values: sum of an image = sum of its map = sum a_j.

Axis names in signatures: image, gaussian, latent, ring, y, x, z, half_x (= D//2 + 1).
"""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class ContrastTransfer:
    """Parameters of each particle's contrast transfer function."""

    defocus_u: Float[Tensor, " image"]  # Å, underfocus positive, along defocus_angle
    defocus_v: Float[Tensor, " image"]  # Å
    defocus_angle: Float[Tensor, " image"]  # radians from x towards y
    voltage: Float[Tensor, " image"]  # V
    spherical_aberration: Float[Tensor, " image"]  # Å
    amplitude_contrast: Float[Tensor, " image"]  # fraction, 0 to 1
    phase_shift: Float[Tensor, " image"]  # radians
    b_factor: Float[Tensor, " image"]  # Å², envelope exp(-B k² / 4)
    scale: Float[Tensor, " image"]  # factor of the whole function

    def __len__(self) -> int:
        return len(self.defocus_u)

    def __getitem__(self, rows: Tensor | slice) -> "ContrastTransfer":
        """The rows chosen by an index, a boolean mask or a slice."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def to(self, *args, **kwargs) -> "ContrastTransfer":
        """Moved to a device or a dtype, as `Tensor.to`."""
        return type(self)(**{field.name: getattr(self, field.name).to(*args, **kwargs) for field in fields(self)})


@dataclass(frozen=True)
class Particles:
    """What is known of each particle apart from its image: one row per particle, in the input's order."""

    particle: Int[Tensor, " image"]  # 0-based row in the input STAR file: a particle's identity everywhere
    rotation: Float[Tensor, "image 3 3"]
    shift: Float[Tensor, "image 2"]  # Å, (x, y)
    ctf: ContrastTransfer
    optics_group: Int[Tensor, " image"]  # 0-based

    def __len__(self) -> int:
        return len(self.particle)

    def __getitem__(self, rows: Tensor | slice) -> "Particles":
        """The rows chosen by an index, a boolean mask or a slice."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def to(self, device: torch.device | str) -> "Particles":
        """On a device."""
        return type(self)(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True)
class Mixture:
    """One Gaussian mixture, or a batch of them that share leading axes."""

    center: Float[Tensor, "*batch gaussian 3"]  # Å, (x, y, z) from the box's origin
    amplitude: Float[Tensor, "*batch gaussian"]  # sum over voxels
    width: Float[Tensor, "*batch gaussian"]  # Å, standard deviation

    def __len__(self) -> int:
        return self.center.shape[-2]

    def to(self, *args, **kwargs) -> "Mixture":
        """Moved to a device or a dtype, as `Tensor.to`."""
        return Mixture(
            self.center.to(*args, **kwargs), self.amplitude.to(*args, **kwargs), self.width.to(*args, **kwargs)
        )

    def expand(self, images: int) -> "Mixture":
        """One mixture as a batch, without copying; a batch as it is."""
        if self.center.ndim == 3:
            return self
        parts = (self.center, self.amplitude, self.width)
        return Mixture(*(part.expand(images, *part.shape) for part in parts))

    def select(self, gaussians: Tensor) -> "Mixture":
        """The Gaussians chosen by an index or a boolean mask."""
        return Mixture(self.center[..., gaussians, :], self.amplitude[..., gaussians], self.width[..., gaussians])


@dataclass(frozen=True)
class Map:
    """A cubic density map."""

    voxels: Float[Tensor, "z y x"]
    pixel_size: float  # Å
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)  # Å, (x, y, z) of voxel 0 in the map frame

    @property
    def box(self) -> int:
        """Voxels along one edge."""
        return self.voxels.shape[-1]

    @property
    def center(self) -> np.ndarray:
        """(3,) Å: position of the box's origin, voxel D//2, in the map frame."""
        return np.asarray(self.origin) + self.box // 2 * self.pixel_size

    def with_voxels(self, voxels: Tensor) -> "Map":
        """The same frame with other values."""
        return replace(self, voxels=voxels)
