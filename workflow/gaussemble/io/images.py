"""From rlnImageName (`n@path`, counted from 1) to images in stacks that are found and checked before they are read."""

import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from gaussemble.errors import InputError
from gaussemble.io.mrc import Stack, read_stack_header
from gaussemble.io.star import IMAGE_NAME, StarFile
from gaussemble.progress import progress, say

STACK_SUFFIX = ":mrcs"  # after a path: RELION shall read the file as a stack, whatever its name ends in
LISTED = 10  # missing stacks that a message names


@dataclass(frozen=True)
class ParticleImages:
    """The images of a STAR file's particles, on disk."""

    stacks: list[Stack]
    stack: Int[np.ndarray, " image"]  # which of the stacks
    index: Int[np.ndarray, " image"]  # 0-based position in it

    @cached_property
    def sizes(self) -> Int[np.ndarray, " image"]:
        """Pixels along an edge of each image."""
        return np.array([stack.shape[-1] for stack in self.stacks], np.int64)[self.stack]

    def __len__(self) -> int:
        return len(self.stack)

    def read(self, rows: np.ndarray | slice) -> Float[np.ndarray, "image y x"]:
        """Images of some rows, all of one size, as float32; each stack opened once.

        Raises:
            InputError: a stack cannot be read.
        """
        stack, index = self.stack[rows], self.index[rows]
        size = self.sizes[rows][0]
        images = np.empty((len(stack), size, size), np.float32)
        for which in np.unique(stack).tolist():
            mine = np.flatnonzero(stack == which)
            first, last = int(mine[0]), int(mine[-1]) + 1
            if last - first == len(mine):
                self.stacks[which].read(index[mine], images[first:last])
            else:
                images[mine] = self._scattered(which, index[mine])
        return images

    def _scattered(self, which: int, index: Int[np.ndarray, " image"]) -> Float[np.ndarray, "image y x"]:
        """Images of one stack that do not stand together among those that are wanted."""
        found = np.empty((len(index), *self.stacks[which].shape[1:]), np.float32)
        self.stacks[which].read(index, found)
        return found

    def name(self, row: int) -> str:
        """`n@path` of the file as it was found."""
        return f"{self.index[row] + 1}@{self.stacks[self.stack[row]].path}"

    def first_rows(self) -> Int[np.ndarray, " image"]:
        """For each row the first that has the same image of the same file, however its path is written."""
        files, _ = pd.factorize(np.array([os.path.realpath(stack.path) for stack in self.stacks], object))
        key = files[self.stack] * (int(self.index.max()) + 1) + self.index
        which, distinct = pd.factorize(key)
        return _first_rows(which, len(distinct))[which]


def open_images(star: StarFile, datadir: Path | None = None) -> ParticleImages:
    """Find and check the stacks of all particles.

    A path is looked for in the working directory (RELION's way), in the STAR file's folder and the folders above it,
    and in `datadir`, there also without its own folders.

    Raises:
        InputError: an image name that is not `n@path`, stacks that are missing or broken, an image beyond its end,
            images that are not square.
    """
    names, stack, number = image_references(star)
    first = _first_rows(stack, len(names))
    paths = _found(star.path, names, first, datadir)
    _refuse_merged(star.path, names, paths)
    stacks = [read_stack_header(path) for path in progress(paths, "checking stacks")]
    for one, row in zip(stacks, first, strict=True):
        _check_square(star.path, one, int(row))
    packed = sum(one.packing is not None for one in stacks)
    if packed:
        say(
            f"{star.path}: {packed} of {len(stacks)} stacks are compressed; each is unpacked into a file in "
            f"{tempfile.gettempdir()} (TMPDIR) while it is read, which takes longer than all else"
        )
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
    new += np.where(star.particles[IMAGE_NAME].astype(str).str.endswith(STACK_SUFFIX), STACK_SUFFIX, "")
    return star.with_column(IMAGE_NAME, new.where(path == "", number + "@" + new))


def image_references(star: StarFile) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the stacks as written (without RELION's `:mrcs`), (image,) which of them, (image,) number in it.

    The number is 0 where a file is named alone.

    Raises:
        InputError: an image name that is empty or whose number is not a whole number from 1.
    """
    text = star.particles[IMAGE_NAME]
    parts = text.astype(str).str.partition("@")
    numbered = parts[1] == "@"
    path = parts[2].where(numbered, parts[0]).str.removesuffix(STACK_SUFFIX)
    number = np.asarray(pd.to_numeric(parts[0].where(numbered, "0"), errors="coerce"), np.float64)
    wrong = (
        ~(number % 1 == 0)
        | (numbered.to_numpy() & (number < 1))
        | path.isin(("", "nan")).to_numpy()
        | text.isna().to_numpy()
    )
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


def _found(star: Path, names: list[str], first: np.ndarray, datadir: Path | None) -> list[Path]:
    """Where the stacks are.

    Raises:
        InputError: some are nowhere; all are looked for, and the first of them listed.
    """
    folders = [Path(), *star.absolute().parents]
    paths = [_find(name, folders, datadir) for name in progress(names, "looking for stacks")]
    missing = [i for i, path in enumerate(paths) if path is None]
    if missing:
        listed = ", ".join(f"row {first[i]} (from 0) '{names[i]}'" for i in missing[:LISTED])
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        searched = f"the working directory {Path.cwd()}, {star.absolute().parent} or above"
        searched += f", or {datadir}" if datadir is not None else ""
        raise InputError(
            f"{star}: {len(missing)} of {len(names)} stacks are missing: {listed}{more}; looked for in {searched}; "
            "give their folder as particles.datadir"
        )
    return [path for path in paths if path is not None]


def _find(name: str, folders: list[Path], datadir: Path | None) -> Path | None:
    """Where a stack is; None if nowhere."""
    for folder in folders:
        if (place := folder / name).is_file():
            return place
    if datadir is not None:
        return next((place for place in (datadir / name, datadir / Path(name).name) if place.is_file()), None)
    return None


def _refuse_merged(star: Path, names: list[str], paths: list[Path]) -> None:
    """Two stacks of one name must not be found as one file in a flat folder."""
    seen: dict[str, str] = {}
    for name, path in zip(names, paths, strict=True):
        other = seen.setdefault(os.path.realpath(path), os.path.normpath(name))
        if other != os.path.normpath(name):
            raise InputError(f"{star}: '{other}' and '{name}' are both found as {path}; keep their folders apart")


def _check_square(star: Path, stack: Stack, row: int) -> None:
    """Only square images can be turned."""
    _, height, width = stack.shape
    if height != width:
        raise InputError(
            f"{stack.path} ({star} row {row}, from 0): images of {width} x {height} pixels, expected square"
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


def _portable(path: Path) -> str:
    """Relative to the working directory where it lies in it, absolute otherwise."""
    absolute, here = Path(os.path.normpath(Path.cwd() / path)), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)
