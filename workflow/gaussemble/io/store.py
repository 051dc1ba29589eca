"""The particle image store: images at the working box on disk, memory-mapped, with what is known of each particle.

A folder with `images.npy` (image, y, x) float32 and `particles.npz` (the fields of `quantities.Particles`, flat, with
`box`, `pixel_size`, `format`, and of each particle its `half` and its `image`). Copies of a particle, as symmetry
expansion makes them, are rows of their own that share an image.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.io.files import read_npz, written
from gaussemble.quantities import ContrastTransfer, Particles

FORMAT = 2
IMAGES, PARTICLES = "images.npy", "particles.npz"


@dataclass(frozen=True)
class ImageStore:
    """Particles and their images; the images stay on disk until read."""

    folder: Path
    particles: Particles
    images: np.ndarray  # (image, y, x) float32 memory map
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
        images = torch.from_numpy(np.array(self.images[index], np.float32))
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


@contextmanager
def written_images(folder: Path, box: int) -> Iterator[Callable[[Tensor | np.ndarray], None]]:
    """A function that appends images (image, y, x) to `images.npy`, whose number need not be known before."""
    with written(folder / IMAGES) as temporary, temporary.open("wb") as file:
        count = 0

        def header() -> None:
            described = {"descr": "<f4", "fortran_order": False, "shape": (count, box, box)}
            np.lib.format.write_array_header_1_0(file, described)

        def append(images: Tensor | np.ndarray) -> None:
            nonlocal count
            block = np.ascontiguousarray(images, "<f4")
            if block.shape[1:] != (box, box):
                raise ValueError(f"images of shape {block.shape} in a store of box {box}")
            file.write(block.tobytes())
            count += len(block)

        header()
        first = file.tell()
        yield append
        file.seek(0)
        header()  # numpy pads it so that the number of images may grow without moving the data
        if file.tell() != first:
            raise RuntimeError("the header of images.npy changed its length")


def write_store(folder: Path, particles: Particles, images: Tensor | np.ndarray, pixel_size: float) -> None:
    """Write a whole store at once, for images that fit in memory."""
    with written_images(folder, images.shape[-1]) as append:
        append(images)
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
