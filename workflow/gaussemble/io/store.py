"""The particle image store: images at the working box on disk, memory-mapped, with what is known of each particle.

A folder with `images.npy` (image, y, x), float32 or float16, and `particles.npz` (the fields of `quantities.Particles`,
flat, with `box`, `pixel_size`, `format`, and of each particle its `half` and its `image`). Copies of a particle, as
symmetry expansion makes them, are rows of their own that share an image.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from io import BufferedRandom
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.io.files import read_npz, written
from gaussemble.quantities import ContrastTransfer, Particles

FORMAT = 2
IMAGES, PARTICLES = "images.npy", "particles.npz"
Precision = Literal["float32", "float16"]
PRECISIONS = {"float32": "<f4", "float16": "<f2"}


@dataclass(frozen=True)
class ImageStore:
    """Particles and their images; the images stay on disk until read."""

    folder: Path
    particles: Particles
    images: np.ndarray  # (image, y, x) memory map, float32 or float16
    pixel_size: float  # Å, of the stored images
    half: Int[Tensor, " row"]  # 0 or 1: the half-map that each particle belongs to; copies share it
    image: Int[Tensor, " row"]  # position of each particle's image in `images`

    @property
    def box(self) -> int:
        """Pixels along one edge."""
        return self.images.shape[-1]

    def __len__(self) -> int:
        return len(self.particles)

    def blocks(self, size: int) -> Iterator[slice]:
        """Consecutive slices of at most `size` particles that cover all."""
        for start in range(0, len(self), size):
            yield slice(start, min(start + size, len(self)))

    def read(self, rows: slice | Tensor | np.ndarray) -> Float[Tensor, "image y x"]:
        """The images of some rows, in memory; rows are positions in the store, not particle numbers.

        Raises:
            InputError: a pixel that is not finite, which the stage particles does not let pass: the file was damaged.
        """
        index = self.image[rows].numpy()
        first, last = (int(index[0]), int(index[-1]) + 1) if len(index) else (0, 0)
        whole = last - first == len(index) and bool((np.diff(index) == 1).all())  # a slice is quicker than an index
        images = torch.from_numpy(np.array(self.images[slice(first, last) if whole else index], np.float32))
        if not images.sum().isfinite():  # one sum is much quicker than a look at every pixel
            number = self.particles.particle[rows][~images.isfinite().all(dim=2).all(dim=1)]
            raise InputError(
                f"{self.folder / IMAGES}: particle {int(number[0])}: pixels that are not finite numbers, in "
                f"{len(number)} images; the file is damaged, run the stage particles again"
            )
        return images


def open_store(folder: Path) -> ImageStore:
    """Open the store that the stage `particles` wrote.

    Raises:
        InputError: a file is missing, is not ours, or they do not belong together.
    """
    for name in (IMAGES, PARTICLES):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: no such file; expected an image store made by the stage particles")
    try:
        images = np.lib.format.open_memmap(folder / IMAGES, mode="r")
    except (ValueError, EOFError) as error:
        raise InputError(f"{folder / IMAGES}: damaged ({error}); run the stage particles again") from error
    arrays = read_npz(folder / PARTICLES, "the particles of an image store")
    try:
        particles, pixel_size = _unpack(arrays), float(arrays["pixel_size"])
        half, image = (torch.from_numpy(arrays[name]).long() for name in ("half", "image"))
    except KeyError as error:
        raise InputError(f"{folder / PARTICLES}: no array {error}; run the stage particles again") from error
    expected = (int(image.max()) + 1 if len(image) else 0, int(arrays["box"]), int(arrays["box"]))
    if images.shape != expected:
        raise InputError(f"{folder}: {IMAGES} has shape {images.shape}, {PARTICLES} {expected}; run particles again")
    return ImageStore(folder, particles, images, pixel_size, half, image)


def write_particles(
    folder: Path,
    particles: Particles,
    box: int,
    pixel_size: float,
    half: Int[np.ndarray, " row"] | None = None,
    image: Int[np.ndarray, " row"] | None = None,
) -> None:
    """Write `particles.npz` of a store.

    Args:
        folder: of the store.
        particles: one row each, copies too.
        box: pixels along an edge of the stored images.
        pixel_size: Å, of the stored images.
        half: 0 or 1, the half-map of each row; alternately if None.
        image: position of each row's image in images.npy; its own if None.
    """
    own = np.arange(len(particles))
    arrays = {"half": own % 2 if half is None else half, "image": own if image is None else image}
    arrays |= {"box": box, "pixel_size": pixel_size, "format": FORMAT}
    with written(folder / PARTICLES) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays, **_pack(particles))


class ImageWriter:
    """Appends images to an open images.npy, whose number need not be known before."""

    def __init__(self, file: BufferedRandom, box: int, precision: Precision) -> None:
        self.file, self.box, self.dtype = file, box, np.dtype(PRECISIONS[precision])
        self.count = 0
        self._lost = self._whole = 0.0
        self.write_header()
        self.start = file.tell()

    def write_header(self) -> None:
        """Write the header for the images that are there; it is padded, so that their number may grow."""
        self.file.seek(0)
        shape = (self.count, self.box, self.box)
        described = {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, described)

    def append(self, images: Tensor | np.ndarray) -> None:
        """Add images (image, y, x).

        Raises:
            InputError: float16 cannot hold a pixel.
        """
        exact = np.ascontiguousarray(images, "<f4")
        if exact.shape[1:] != (self.box, self.box):
            raise ValueError(f"images of shape {exact.shape} in a store of box {self.box}")
        self.file.write((exact if self.dtype == exact.dtype else self._rounded(exact)).data)
        self.count += len(exact)

    def _rounded(self, exact: Float[np.ndarray, "image y x"]) -> Shaped[np.ndarray, "image y x"]:
        """In float16, with a count of what that loses."""
        largest, most = float(np.abs(exact).max(initial=0)), float(np.finfo(np.float16).max)
        if largest > most:
            raise InputError(
                f"particles.precision float16 holds numbers up to {most:.0f}, an image has "
                f"{largest:.4g}; set particles.normalise to true or particles.precision to float32"
            )
        rounded = exact.astype(self.dtype)
        self._lost += float(np.square(rounded.astype(np.float32) - exact).sum(dtype=np.float64))
        self._whole += float(exact.var(axis=(1, 2), dtype=np.float64).sum()) * self.box**2
        return rounded

    @property
    def error(self) -> float:
        """Root mean square of what rounding took away, over the images' standard deviation; 0 in float32."""
        return (self._lost / self._whole) ** 0.5 if self._whole > 0 else 0.0

    def negate(self) -> None:
        """Reverse the sign of all images that are there."""
        self.file.flush()
        if not self.count:
            return
        shape = (self.count, self.box, self.box)
        images = np.memmap(self.file, self.dtype, "r+", self.start, shape)
        for start in range(0, self.count, 1024):
            np.negative(images[start : start + 1024], out=images[start : start + 1024])


@contextmanager
def written_images(folder: Path, box: int, precision: Precision = "float32") -> Iterator[ImageWriter]:
    """What appends images (image, y, x) to `images.npy`, which appears when the block ends well."""
    with written(folder / IMAGES) as temporary, temporary.open("w+b") as file:
        writer = ImageWriter(file, box, precision)
        yield writer
        writer.write_header()
        if file.tell() != writer.start:
            raise RuntimeError("the header of images.npy changed its length")


def write_store(folder: Path, particles: Particles, images: Tensor | np.ndarray, pixel_size: float) -> None:
    """Write a whole store at once, for images that fit in memory."""
    with written_images(folder, images.shape[-1]) as writer:
        writer.append(images)
    write_particles(folder, particles, images.shape[-1], pixel_size)


def _pack(particles: Particles) -> dict[str, Any]:
    """The fields of the particles and of their CTF side by side."""
    packed = {}
    for part in (particles, particles.ctf):
        for name in (field.name for field in fields(part) if field.name != "ctf"):
            packed[name] = getattr(part, name).cpu().numpy()
    return packed


def _unpack(arrays: dict[str, np.ndarray]) -> Particles:
    """The inverse of `_pack`."""
    ctf = ContrastTransfer(**{field.name: torch.from_numpy(arrays[field.name]) for field in fields(ContrastTransfer)})
    own = {field.name: torch.from_numpy(arrays[field.name]) for field in fields(Particles) if field.name != "ctf"}
    return Particles(ctf=ctf, **own)
