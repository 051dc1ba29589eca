"""From rlnImageName (`n@path`, counted from 1) to images in stacks that are found and checked before they are read."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from gaussemble.errors import InputError
from gaussemble.io.mrc import Stack, read_stack_header
from gaussemble.io.star import IMAGE_NAME, StarFile
from gaussemble.progress import progress


@dataclass(frozen=True)
class ParticleImages:
    """The images of a STAR file's particles, on disk."""

    stacks: list[Stack]
    stack: np.ndarray  # (image,) which of the stacks
    index: np.ndarray  # (image,) 0-based position in it

    @property
    def size(self) -> int:
        """Pixels along an image's edge."""
        return self.stacks[0].shape[-1]

    def __len__(self) -> int:
        return len(self.stack)

    def read(self, rows: np.ndarray | slice) -> Float[np.ndarray, "image y x"]:
        """Images of some rows as float32, each stack opened once."""
        stack, index = self.stack[rows], self.index[rows]
        images = np.empty((len(stack), self.size, self.size), np.float32)
        for which in np.unique(stack):
            mine = np.flatnonzero(stack == which)
            images[mine] = _take(self.stacks[which].open(), index[mine])
        return images

    def name(self, row: int) -> str:
        """`n@path` of the file as it was found."""
        return f"{self.index[row] + 1}@{self.stacks[self.stack[row]].path}"


def open_images(star: StarFile, datadir: Path | None = None) -> ParticleImages:
    """Find and check the stacks of all particles.

    A path is looked for in the working directory (RELION's way), in the STAR file's folder and the folders above it,
    and in `datadir`, there also without its own folders.

    Raises:
        InputError: an image name that is not `n@path`, a stack that is missing or broken, an image beyond its end,
            images that are not square or not all of one size.
    """
    names, stack, number = image_references(star)
    first = _first_rows(stack, len(names))
    paths = [_find(name, star.path, datadir, int(row)) for name, row in zip(names, first, strict=True)]
    _refuse_merged(star.path, names, paths)
    stacks = [read_stack_header(path) for path in progress(paths, "checking stacks")]
    for one, row in zip(stacks, first, strict=True):
        _check_size(star.path, one, stacks[0], int(row))
    return ParticleImages(stacks, stack, _check_index(star.path, stacks, stack, number))


def with_paths_from_here(star: StarFile, images: ParticleImages) -> StarFile:
    """The same particles; image paths that do not resolve from the working directory are replaced by ones that do."""
    names, stack, _ = image_references(star)
    found = [name if Path(name).is_file() else _portable(images.stacks[i].path) for i, name in enumerate(names)]
    if found == names:
        return star
    old = star.particles[IMAGE_NAME].astype(str).str
    number, _, path = (old.partition("@")[part] for part in range(3))
    new = pd.Series(np.asarray(found, object)[stack], index=star.particles.index)
    return star.with_column(IMAGE_NAME, new.where(path == "", number + "@" + new))


def image_references(star: StarFile) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the stacks as written, (image,) which of them, (image,) number in it; 0 where a file is named alone.

    Raises:
        InputError: an image name that is empty or whose number is not a whole number from 1.
    """
    text = star.particles[IMAGE_NAME]
    parts = text.astype(str).str.partition("@")
    numbered = parts[1] == "@"
    path = parts[2].where(numbered, parts[0])
    number = np.asarray(pd.to_numeric(parts[0].where(numbered, "0"), errors="coerce"), np.float64)
    wrong = ~(number % 1 == 0) | (numbered.to_numpy() & (number < 1)) | (path == "").to_numpy() | text.isna().to_numpy()
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{star.path}: row {row} (from 0): {IMAGE_NAME} is '{text.iloc[row]}', expected n@path with n from 1"
        )
    stack, names = pd.factorize(path)
    return list(names), stack, number.astype(np.int64)


def _first_rows(stack: np.ndarray, count: int) -> np.ndarray:
    """(stack,) the first row that names each."""
    first = np.full(count, len(stack))
    np.minimum.at(first, stack, np.arange(len(stack)))
    return first


def _find(name: str, star: Path, datadir: Path | None, row: int) -> Path:
    """Where a stack is."""
    folders = [Path(), *star.absolute().parents]
    places = [folder / name for folder in folders]
    if datadir is not None:
        places += [datadir / name, datadir / Path(name).name]
    for place in places:
        if place.is_file():
            return place
    searched = f"the working directory {Path.cwd()}, {star.absolute().parent} or above"
    searched += f", or {datadir}" if datadir is not None else ""
    raise InputError(
        f"{star}: row {row} (from 0): no stack '{name}' in {searched}; give its folder as particles.datadir"
    )


def _refuse_merged(star: Path, names: list[str], paths: list[Path]) -> None:
    """Two stacks of one name must not be found as one file in a flat folder."""
    seen: dict[str, str] = {}
    for name, path in zip(names, paths, strict=True):
        other = seen.setdefault(os.path.realpath(path), os.path.normpath(name))
        if other != os.path.normpath(name):
            raise InputError(f"{star}: '{other}' and '{name}' are both found as {path}; keep their folders apart")


def _check_size(star: Path, stack: Stack, first: Stack, row: int) -> None:
    """Square, and as the first."""
    _, height, width = stack.shape
    if height != width:
        raise InputError(
            f"{stack.path} ({star} row {row}, from 0): images of {width} x {height} pixels, expected square"
        )
    if width != first.shape[-1]:
        raise InputError(
            f"{stack.path} ({star} row {row}, from 0): images of {width} pixels, but those of {first.path} have "
            f"{first.shape[-1]}; different image sizes are not supported"
        )


def _check_index(star: Path, stacks: list[Stack], stack: np.ndarray, number: np.ndarray) -> np.ndarray:
    """(image,) 0-based positions; a file's name alone means its only image."""
    counts = np.array([one.shape[0] for one in stacks])[stack]
    for wrong, what in (
        (number > counts, "image {number} of a stack of {count}: {path}"),
        ((number == 0) & (counts > 1), "no image number, but {count} images (or a volume) in {path}; expected n@path"),
    ):
        if wrong.any():
            row = int(np.argmax(wrong))
            found = what.format(number=number[row], count=counts[row], path=stacks[stack[row]].path)
            raise InputError(f"{star}: row {row} (from 0): {found}")
    return np.maximum(number, 1) - 1


def _take(images: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Images by position; a contiguous run is read at once."""
    if (np.diff(index) == 1).all():
        return images[index[0] : index[-1] + 1]
    return images[index]


def _portable(path: Path) -> str:
    """Relative to the working directory where it lies in it, absolute otherwise."""
    absolute, here = Path(os.path.normpath(Path.cwd() / path)), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)
