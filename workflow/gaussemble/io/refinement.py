"""A finished refinement as a user gives it, of RELION, cryoSPARC or cryoDRGN; inside, all of them are a STAR file.

`cryosparc` and `cryodrgn` say how the fields of their files become RELION's columns. Subsets go back to the user in
the format that came in (`Refinement.write`): particles.star always, with particles.cs (the rows of the .cs file with
its own fields and their uid; a passthrough joins it as before) or indices.pkl (rows of cryoDRGN's files, for --ind).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gaussemble.errors import InputError
from gaussemble.io import cryodrgn, cryosparc
from gaussemble.io.cryosparc import CsFile
from gaussemble.io.files import written
from gaussemble.io.star import IMAGE_NAME, StarFile, read_star, write_star

STAR_NAME, CS_NAME, INDEX_NAME = "particles.star", "particles.cs", "indices.pkl"
NAMES = (STAR_NAME, CS_NAME, INDEX_NAME)  # what `Refinement.write` may write
STACKS = (".mrc", ".mrcs", ".txt")  # of cryoDRGN


@dataclass(frozen=True)
class Refinement:
    """Particles with poses and CTF, in RELION's terms."""

    star: StarFile
    cs: CsFile | None = None  # the same rows, where they came from a .cs
    row: Int[np.ndarray, " image"] | None = None  # 0-based rows of the input, where poses.pkl or ctf.pkl go with it
    sign: int | None = None  # of the protein in the stacks: 1 light, -1 dark, where the files say it
    assumed: list[str] = field(default_factory=list)  # for the user: what was filled in, and what is not used

    def __len__(self) -> int:
        return len(self.star)

    def rows(self, index: Any) -> "Refinement":
        """The particles of these 0-based rows (or of a boolean mask), ascending; a row named twice stands twice."""
        index = np.asarray(index)
        chosen = np.flatnonzero(index) if index.dtype == bool else np.sort(index.astype(np.int64))
        return replace(
            self,
            star=self.star.rows(chosen),
            cs=None if self.cs is None else self.cs.rows(chosen),
            row=None if self.row is None else self.row[chosen],
        )

    def with_angles(self, angles: Float[np.ndarray, "image 3"]) -> "Refinement":
        """Other orientations: rot, tilt, psi in radians, in the STAR table and in the .cs."""
        degrees = np.rad2deg(angles)
        star = self.star
        for axis, name in enumerate(("Rot", "Tilt", "Psi")):
            star = star.with_column(f"rlnAngle{name}", degrees[:, axis])
        return replace(self, star=star, cs=None if self.cs is None else self.cs.with_angles(angles))

    def write(self, folder: Path) -> None:
        """Write particles.star and, where they belong to it, particles.cs or indices.pkl."""
        ours = self.cs is not None or self.star.path.suffix in STACKS  # names that the user's STAR file does not have
        write_star(folder / STAR_NAME, _named_as_stacks(self.star) if ours else self.star)
        for name, there in ((CS_NAME, self.cs), (INDEX_NAME, self.row)):
            if there is None:
                (folder / name).unlink(missing_ok=True)
        if self.cs is not None:
            self.cs.write(folder / CS_NAME)
        if self.row is not None:
            with written(folder / INDEX_NAME) as temporary:
                temporary.write_bytes(cryodrgn.index_pickle(self.row))


def read_refinement(
    path: Path,
    passthrough: Path | None = None,
    poses: Path | None = None,
    ctf: Path | None = None,
    datadir: Path | None = None,
) -> Refinement:
    """Read the particles of a refinement.

    Args:
        path: a STAR file, a .cs of cryoSPARC, or cryoDRGN's stack (.mrcs) or list of stacks (.txt).
        passthrough: the .cs with the fields that `path`, a .cs too, lacks.
        poses: poses.pkl of cryoDRGN; wins over the poses of `path`.
        ctf: ctf.pkl of cryoDRGN; wins over the CTF, the pixel size and the optics groups of `path`.
        datadir: folder from which the paths of a list of stacks start too.

    Raises:
        InputError: a file that is missing, is something else, lacks what is needed, or does not belong to the others.
    """
    cs, sign, assumed = None, None, []
    if _is_cs(path):
        cs = cryosparc.read_cs(path)
        fields = cryosparc.join(cs, cryosparc.read_cs(passthrough) if passthrough is not None else None)
        star, assumed = cryosparc.to_star(fields, poses is None)
        sign = cryosparc.contrast_sign(fields)
    elif passthrough is not None:
        raise InputError(f"{passthrough}: a passthrough joins a .cs file of cryoSPARC; {path} is none")
    else:
        star = _read_others(path, poses, datadir)
    if ctf is not None:
        star = cryodrgn.with_ctf(star, ctf)
    if poses is not None:
        star, more = cryodrgn.with_poses(star, poses)
        assumed += more
    drgn = poses is not None or ctf is not None
    return Refinement(star, cs, np.arange(len(star)) if drgn else None, sign, assumed)


def read_written(folder: Path) -> Refinement:
    """What `Refinement.write` wrote.

    Raises:
        InputError: a file that is missing, or files of different numbers of particles.
    """
    star = read_star(folder / STAR_NAME)
    cs = cryosparc.read_cs(folder / CS_NAME) if (folder / CS_NAME).is_file() else None
    row = cryodrgn.read_index(folder / INDEX_NAME) if (folder / INDEX_NAME).is_file() else None
    for name, found in ((CS_NAME, cs), (INDEX_NAME, row)):
        if found is not None and len(found) != len(star):
            raise InputError(f"{folder / name}: {len(found)} rows, {star.path} has {len(star)}; run particles again")
    return Refinement(star, cs, row)


def _read_others(path: Path, poses: Path | None, datadir: Path | None) -> StarFile:
    """A STAR file, or the images of cryoDRGN, which have no poses of their own."""
    if path.suffix not in STACKS:
        return read_star(path)
    if poses is None:
        raise InputError(f"{path}: images alone have no poses; give cryoDRGN's poses.pkl as particles.poses")
    return cryodrgn.read_images(path, datadir)


def _is_cs(path: Path) -> bool:
    """By its first bytes, or by its name."""
    if path.suffix in (".cs", ".csg") or not path.is_file():
        return path.suffix in (".cs", ".csg")
    with path.open("rb") as file:
        return file.read(len(cryosparc.MAGIC)) in (cryosparc.MAGIC, cryosparc.COMPRESSED_MAGIC)


def _named_as_stacks(star: StarFile) -> StarFile:
    """RELION reads n@x.mrc as a map; n@x.mrc:mrcs says that it is a stack."""
    names = star.particles[IMAGE_NAME]
    return star.with_column(IMAGE_NAME, names.where(~names.str.endswith(".mrc"), names + ":mrcs"))
