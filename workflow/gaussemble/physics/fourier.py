"""Fourier transforms, frequency grids and Fourier cropping, with the origin at pixel D//2.

Conventions are in `quantities`. Even and odd boxes are both exact.
"""

import math

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


def pad_transform(transform: Complex[Tensor, "image y half_x"], box: int) -> Complex[Tensor, "image box half_k"]:
    """The coefficients in a larger box over the same field of view: an image on finer pixels.

    An even box's Nyquist row and column are left out.
    """
    reach = (transform.shape[-2] - 1) // 2
    wide = transform.new_zeros(len(transform), box, box // 2 + 1)
    wide[:, : reach + 1, : reach + 1] = transform[:, : reach + 1, : reach + 1]
    wide[:, box - reach :, : reach + 1] = transform[:, transform.shape[-2] - reach :, : reach + 1]
    return wide


def fourier_crop(images: Float[Tensor, "*batch y x"], box: int) -> Float[Tensor, "*batch box box"]:
    """Images resampled to a smaller box over the same field of view; the mean, so the grey scale, is kept.

    An even box's Nyquist is left out: it stands for two frequencies of the larger box. Rows are transformed first and
    only the columns that are kept after them, which takes a third of the time of the whole transform.
    """
    size = images.shape[-1]
    if box == size:
        return images
    reach = (box - 1) // 2  # the last frequency that is kept
    columns = torch.fft.rfft(images)[..., : reach + 1].transpose(-2, -1)
    transform = torch.fft.fft(columns.contiguous())
    gap = transform.new_zeros(*transform.shape[:-1], box - 2 * reach - 1)
    transform = torch.cat([transform[..., : reach + 1], gap, transform[..., size - reach :]], dim=-1)
    if size % 2 or box % 2:  # pixels D//2 of two even boxes are at the same place of the field
        transform = transform * _moved_origin(size, box, reach).to(transform)
    rows = torch.fft.ifft(transform).transpose(-2, -1)
    return torch.fft.irfft(rows, n=box) * (box / size) ** 2


def _moved_origin(size: int, box: int, reach: int) -> Complex[Tensor, "half_x y"]:
    """Phases that bring pixel D//2 of a box to that of another over the same field of view."""
    shift = (size // 2) / size - (box // 2) / box
    y = torch.fft.fftfreq(box, 1 / box, dtype=torch.float64)
    x = torch.arange(reach + 1, dtype=torch.float64)
    return torch.exp(2j * math.pi * shift * (x[:, None] + y))


def resampling(
    size: int, pixel_size: float, box: int, new_pixel_size: float, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "new old"]:
    """The matrix that takes a row of `size` samples to `box` samples of another pixel size, both round sample D//2.

    It is the row's trigonometric interpolation, exact for what is band-limited, without the frequencies from the new
    Nyquist on: `A_ij = 1/D sum_k cos(2 pi k (x_i - x_j) / L)`, |k|/L < 1/(2 new_pixel_size), L the old field of view.
    Over the same field of view it is `fourier_crop`; at the same pixel size the rows in the middle. New samples beyond
    the old field of view are 0.
    """
    field = size * pixel_size
    old = (torch.arange(size, dtype=torch.float64) - size // 2) * pixel_size
    new = (torch.arange(box, dtype=torch.float64) - box // 2) * new_pixel_size
    limit = field / (2 * new_pixel_size)  # the new Nyquist, in frequencies k
    reach = min(math.ceil(limit * (1 - 1e-9)) - 1, (size - 1) // 2)
    phase = 2 * math.pi * (new[:, None] - old) / field
    k = torch.arange(1, reach + 1, dtype=torch.float64)
    matrix = 1 + 2 * torch.cos(phase[..., None] * k).sum(dim=-1)
    if size % 2 == 0 and limit >= size / 2 * (1 - 1e-9):
        matrix = matrix + torch.cos(phase * (size / 2))  # the old Nyquist, where the new pixels are not larger
    inside = (new >= old[0] - pixel_size / 2) & (new <= old[-1] + pixel_size / 2)
    return (matrix * inside[:, None] / size).to(dtype)


def resample(
    images: Float[Tensor, "*batch y x"], pixel_size: float, box: int, new_pixel_size: float
) -> Float[Tensor, "*batch box box"]:
    """Images on another grid about the same pixel D//2: `resampling` along both axes; values keep their scale."""
    matrix = resampling(images.shape[-1], pixel_size, box, new_pixel_size, images.dtype)
    return matrix @ images @ matrix.T


def resample_3d(
    voxels: Float[Tensor, "z y x"], pixel_size: float, box: int, new_pixel_size: float
) -> Float[Tensor, "box box box"]:
    """A map on another grid about the same voxel D//2: `resampling` along its axes; the density keeps its scale."""
    matrix = resampling(voxels.shape[-1], pixel_size, box, new_pixel_size, voxels.dtype)
    return torch.tensordot(matrix, matrix @ voxels @ matrix.T, dims=1)


def band_box(box: int, pixel_size: float, resolution: float) -> int:
    """Smallest even box over the same field of view whose rings reach `resolution` Å, at most `box`."""
    rings = int(box * pixel_size / resolution) + 1
    return min(box, 2 * (rings + 1))
