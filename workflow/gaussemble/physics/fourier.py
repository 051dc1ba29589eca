"""Fourier transforms, frequency grids and Fourier cropping, with the origin at pixel D//2.

Conventions are in `quantities`. Even and odd boxes are both exact.
"""

import torch
from jaxtyping import Complex, Float, Shaped
from torch import Tensor


def to_fourier(images: Float[Tensor, "*batch y x"]) -> Complex[Tensor, "*batch y half_x"]:
    """Half transform of real images about pixel D//2."""
    return torch.fft.rfft2(torch.fft.ifftshift(images, dim=(-2, -1)))


def to_real(transform: Complex[Tensor, "*batch y half_x"], box: int) -> Float[Tensor, "*batch box box"]:
    """Inverse of `to_fourier`; the box tells even from odd."""
    return torch.fft.fftshift(torch.fft.irfft2(transform, s=(box, box)), dim=(-2, -1))


def to_fourier_3d(voxels: Float[Tensor, "*batch z y x"]) -> Complex[Tensor, "*batch z y half_x"]:
    """Half transform of real maps about voxel D//2."""
    return torch.fft.rfftn(torch.fft.ifftshift(voxels, dim=(-3, -2, -1)), dim=(-3, -2, -1))


def to_real_3d(transform: Complex[Tensor, "*batch z y half_x"], box: int) -> Float[Tensor, "*batch box box box"]:
    """Inverse of `to_fourier_3d`."""
    voxels = torch.fft.irfftn(transform, s=(box, box, box), dim=(-3, -2, -1))
    return torch.fft.fftshift(voxels, dim=(-3, -2, -1))


def axis_frequencies(
    box: int, pixel_size: float, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[Float[Tensor, " y"], Float[Tensor, " half_x"]]:
    """1/Å along y and along the half axis x, in the transform's order.

    The last of an even box's half axis is +Nyquist where y has -Nyquist: a real image cannot tell them apart.
    """
    y = torch.fft.fftfreq(box, pixel_size, dtype=dtype, device=device)
    x = torch.fft.rfftfreq(box, pixel_size, dtype=dtype, device=device)
    return y, x


def frequencies(
    box: int, pixel_size: float, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Float[Tensor, "y half_x 2"]:
    """(kx, ky) in 1/Å of each coefficient."""
    y, x = axis_frequencies(box, pixel_size, dtype, device)
    return torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), dim=-1)


def crop_transform(transform: Shaped[Tensor, "*batch y half_x"], box: int) -> Shaped[Tensor, "*batch box half_k"]:
    """The coefficients (or weights laid out like them) of a smaller box over the same field of view, as they are.

    An even box's Nyquist row and column alias two frequencies of the larger box; one of them is taken, which is
    right for work inside a resolution limit below that Nyquist.
    """
    upper, lower = (box + 1) // 2, box // 2
    rows = torch.cat([transform[..., :upper, :], transform[..., transform.shape[-2] - lower :, :]], dim=-2)
    return rows[..., : box // 2 + 1]


def fourier_crop(images: Float[Tensor, "*batch y x"], box: int) -> Float[Tensor, "*batch box box"]:
    """Images resampled to a smaller box over the same field of view; the mean, so the grey scale, is kept."""
    size = images.shape[-1]
    if box == size:
        return images
    transform = crop_transform(to_fourier(images), box)
    if box % 2 == 0:  # what both signs of an even box's Nyquist alias to would otherwise be counted once for two
        transform = transform.clone()
        transform[..., box // 2, :] = 0
        transform[..., :, -1] = 0
    return to_real(transform, box) * (box / size) ** 2


def band_box(box: int, pixel_size: float, resolution: float) -> int:
    """Smallest even box over the same field of view whose rings reach `resolution` Å, at most `box`."""
    rings = int(box * pixel_size / resolution) + 1
    return min(box, 2 * (rings + 1))
