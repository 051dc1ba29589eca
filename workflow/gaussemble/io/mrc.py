"""MRC files: maps (any axis order, endianness, mode) and stacks of images, memory-mapped or read by runs."""

import os
import sys
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import torch
from jaxtyping import Float, Int
from mrcfile.dtypes import HEADER_DTYPE
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.io.files import reserve, written
from gaussemble.io.packed import packing_of, read_start, unpacked
from gaussemble.progress import say
from gaussemble.quantities import Map

MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
HEADERS = {"<": HEADER_DTYPE.newbyteorder("<"), ">": HEADER_DTYPE.newbyteorder(">")}
SAME_SIZE = 0.01  # relative: pixel sizes that differ by less are the same one, rounded


@dataclass(frozen=True)
class Stack:
    """Where the images of a stack lie in its file."""

    path: Path
    shape: tuple[int, int, int]  # image, y, x
    dtype: np.dtype
    offset: int  # bytes
    pixel_size: float | None  # Å, of the header; None where it has none
    packing: str | None = None  # how the file is compressed

    @property
    def image_bytes(self) -> int:
        """Bytes of one image in the file."""
        return self.shape[1] * self.shape[2] * self.dtype.itemsize

    def open(self) -> np.ndarray:
        """The images (image, y, x) as a read-only memory map, in the file's own number type."""
        if self.packing is None:
            return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
        whole = unpacked(self.path, self.packing, self.offset + self.shape[0] * self.image_bytes)
        return whole[self.offset :].view(self.dtype).reshape(self.shape)

    def read(self, index: Int[np.ndarray, " image"], into: Float[np.ndarray, "image y x"]) -> None:
        """Fill a float32 array with images by position: a read for each run of them.

        On a disk that has not been read before this is twice as quick as a memory map.

        Raises:
            InputError: the file ended before, or cannot be read or unpacked.
        """
        if self.packing is not None:
            into[:] = self.open()[index]
            return
        starts = np.flatnonzero(np.diff(index, prepend=index[0] - 2) != 1)
        try:
            with self.path.open("rb", buffering=0) as file:
                for first, last in zip(starts, [*starts[1:], len(index)], strict=True):
                    file.seek(self.offset + int(index[first]) * self.image_bytes)
                    self._fill(file, into[first:last])
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror or error}") from error

    def _fill(self, file: RawIOBase, into: Float[np.ndarray, "image y x"]) -> None:
        """The images that follow in the file."""
        direct = self.dtype == np.float32  # in this machine's byte order
        images = into if direct else np.empty(into.shape, self.dtype)
        left = images.data.cast("B")
        while len(left):
            count = file.readinto(left)
            if not count:
                raise InputError(f"{self.path}: ended {len(left)} bytes early; was it changed since it was checked?")
            left = left[count:]
        if not direct:
            into[:] = images


def open_stack(path: Path) -> np.ndarray:
    """The images (image, y, x) of a stack as a read-only memory map.

    Raises:
        InputError: as `read_stack_header`.
    """
    return read_stack_header(path).open()


def read_stack_header(path: Path) -> Stack:
    """What the header says of a stack; nothing but number of images, size and mode is believed.

    The machine stamp says the byte order, unless only the other one makes sense. A compressed file's length is seen
    only when it is unpacked.

    Raises:
        InputError: no such file, not MRC, complex, or shorter than its header says.
    """
    return _read_header(path)[0]


def _read_header(path: Path) -> tuple[Stack, np.void]:
    """The images or sections of a file, and its whole header."""
    start, size, packing = _start(path)
    if len(start) < HEADER_DTYPE.itemsize:
        raise InputError(
            f"{path}: cannot be read as MRC ({len(start)} bytes, a header has {HEADER_DTYPE.itemsize}); copy it again"
        )
    orders = "><" if start[212:214] == b"\x11\x11" else "<>"
    headers = [np.frombuffer(start, HEADERS[order])[0] for order in orders]
    described = [_described(path, header, order, packing) for header, order in zip(headers, orders, strict=True)]
    sound = [(one, header) for one, header in zip(described, headers, strict=True) if one is not None]
    if not sound:
        shape = tuple(int(headers[0][name]) for name in ("nz", "ny", "nx"))
        raise InputError(
            f"{path}: MRC mode {int(headers[0]['mode'])}, {shape} pixels; expected real images or a map of mode 0, 1, "
            "2, 6 or 12"
        )
    stack, header = next((pair for pair in sound if _end(pair[0]) <= size), sound[0])
    if _end(stack) > size:
        images, height, width = stack.shape
        raise InputError(
            f"{path}: {_end(stack) - size} bytes short of the {images} images of {width} x {height} pixels that its "
            "header promises; copy the file again"
        )
    return stack, header


def _start(path: Path) -> tuple[bytes, int, str | None]:
    """A file's header, its size in bytes (not known, so no limit, where it is compressed) and its compression."""
    try:
        with path.open("rb", buffering=0) as file:
            start, size = file.read(HEADER_DTYPE.itemsize), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected an MRC file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    packing = packing_of(start)
    if packing is None:
        return start, size, None
    return read_start(path, packing, HEADER_DTYPE.itemsize), sys.maxsize, packing


def _described(path: Path, header: np.void, order: str, packing: str | None) -> Stack | None:
    """The stack by its header in one byte order; None where that makes no sense."""
    mode, shape = int(header["mode"]), (int(header["nz"]), int(header["ny"]), int(header["nx"]))
    if mode not in MODES or min(shape) < 1 or header["nsymbt"] < 0:
        return None
    pixel_size = _pixel_sizes(header)[0]
    offset = HEADER_DTYPE.itemsize + int(header["nsymbt"])
    return Stack(path, shape, np.dtype(order + MODES[mode]), offset, pixel_size if pixel_size > 0 else None, packing)


def _end(stack: Stack) -> int:
    """Bytes up to the last pixel."""
    return stack.offset + stack.shape[0] * stack.image_bytes


def write_stack(path: Path, images: np.ndarray | Tensor, pixel_size: float) -> None:
    """Write images (image, y, x) as an MRC2014 stack of mode 2; `pixel_size` in Å."""
    block = max(1, 2**26 // (4 * images.shape[1] * images.shape[2]))
    shape = tuple(images.shape)
    with written(path) as temporary, mrcfile.new_mmap(temporary, shape, mrc_mode=2, overwrite=True) as file:
        reserve(temporary)
        data: Any = file.data
        for start in range(0, len(images), block):
            data[start : start + block] = np.asarray(images[start : start + block])
        file.set_image_stack()
        file.voxel_size = pixel_size
        file.update_header_stats()
        _sign(file)


def read_map(path: Path, pixel_size: float | None = None) -> Map:
    """Read a cubic density map, its axes brought to (z, y, x).

    The map's place is the header's origin or, where that is zero, its start indices times the voxel size (as ChimeraX
    has it). A given `pixel_size` (Å) wins over the header's.

    Raises:
        InputError: no such file, not MRC, not cubic, voxels that are not cubes, no voxel size, values that are not
            finite.
    """
    stack, header = _read_header(path)
    axes = _axes(path, header)
    size = _voxel_size(path, header, pixel_size)
    origin = _origin(header, axes, size)
    voxels = np.array(stack.open().transpose([axes.index(axis) for axis in (3, 2, 1)]), np.float32)
    if len(set(voxels.shape)) != 1:
        raise InputError(f"{path}: {' x '.join(map(str, voxels.shape[::-1]))} voxels; expected a cubic box, pad it")
    if not np.isfinite(voxels).all():
        raise InputError(f"{path}: {int((~np.isfinite(voxels)).sum())} voxels are not finite numbers")
    return Map(torch.from_numpy(voxels), size, origin)


def write_map(path: Path, density: Map) -> None:
    """Write a map as MRC2014 mode 2 with voxel size and origin."""
    with written(path) as temporary, mrcfile.new(temporary, overwrite=True) as file:
        file.set_data(density.voxels.detach().cpu().numpy().astype(np.float32))
        file.voxel_size = density.pixel_size
        header: Any = file.header
        header.origin.x, header.origin.y, header.origin.z = density.origin
        _sign(file)


def _sign(file: Any) -> None:
    """Our label in place of mrcfile's, whose time stamp would make equal results differ."""
    file.header.nlabl = 1
    file.header.label[0] = "Gaussemble"


def _pixel_sizes(header: Any) -> list[float]:
    """Å along x, y, z; 0 where the header does not say."""
    cell = [float(header["cella"][axis]) for axis in "xyz"]
    sampling = [int(header[name]) for name in ("mx", "my", "mz")]
    return [
        length / count if count > 0 and np.isfinite(length) and length > 0 else 0.0
        for length, count in zip(cell, sampling, strict=True)
    ]


def _axes(path: Path, header: Any) -> list[int]:
    """Which of x = 1, y = 2, z = 3 runs along sections, rows, columns; all zero means the usual order."""
    axes = [int(header["maps"]), int(header["mapr"]), int(header["mapc"])]
    if axes == [0, 0, 0]:
        return [3, 2, 1]
    if sorted(axes) != [1, 2, 3]:
        raise InputError(f"{path}: columns, rows, sections are axes {axes[::-1]}; expected 1, 2, 3 in some order")
    return axes


def _voxel_size(path: Path, header: Any, given: float | None) -> float:
    """The edge of a cubic voxel in Å."""
    angles = [float(header["cellb"][name]) for name in ("alpha", "beta", "gamma")]
    if any(angles) and not np.allclose(angles, 90, atol=0.1):
        raise InputError(f"{path}: cell angles {angles}; expected 90 degrees (a map of single particles)")
    sizes = [size for size in _pixel_sizes(header) if size > 0]
    if sizes and max(sizes) > min(sizes) * (1 + SAME_SIZE):
        raise InputError(f"{path}: voxels of {sizes} Å; expected cubes")
    if given is None and not sizes:
        raise InputError(f"{path}: the header has no voxel size; set it, or give the pixel size")
    if given is None:
        return sizes[0]
    if sizes and not np.isclose(sizes[0], given, rtol=SAME_SIZE):
        say(f"{path}: the header says {sizes[0]:.4g} Å per voxel; {given:.4g} Å is used")
    return given


def _origin(header: Any, axes: list[int], size: float) -> tuple[float, float, float]:
    """Å, (x, y, z) of voxel 0; start indices are stored along columns, rows, sections."""
    origin = [float(header["origin"][axis]) for axis in "xyz"]
    if not any(origin):
        start = [int(header["nzstart"]), int(header["nystart"]), int(header["nxstart"])]
        origin = [start[axes.index(axis)] * size for axis in (1, 2, 3)]
    return origin[0], origin[1], origin[2]
