"""A finished refinement as a user gives it, of RELION, cryoSPARC or cryoDRGN; inside, all of them are a STAR file.

`cryosparc` and `cryodrgn` say how the fields of their files become RELION's columns. Subsets go back to the user in
the format that came in (`Refinement.write`).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gaussemble.errors import InputError
from gaussemble.io.star import StarFile, read_star, write_star


@dataclass(frozen=True)
class Refinement:
    """Particles with poses and CTF, in RELION's terms."""

    star: StarFile

    def __len__(self) -> int:
        return len(self.star)

    def rows(self, index: Any) -> "Refinement":
        """The particles of these 0-based rows, ascending; a row that is named twice stands twice."""
        return replace(self, star=self.star.rows(index))

    def write(self, folder: Path) -> None:
        """Write particles.star."""
        write_star(folder / "particles.star", self.star)


def read_refinement(
    path: Path, passthrough: Path | None = None, poses: Path | None = None, ctf: Path | None = None
) -> Refinement:
    """Read the particles of a refinement.

    Args:
        path: RELION's STAR file.
        passthrough: not yet read.
        poses: not yet read.
        ctf: not yet read.

    Raises:
        InputError: as `star.read_star`.
    """
    for given in (passthrough, poses, ctf):
        if given is not None:
            raise InputError(f"{given}: belongs to a .cs file or to cryoDRGN; {path} is read alone")
    return Refinement(read_star(path))
