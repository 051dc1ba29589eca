"""Small atomic models as text and as files."""

from pathlib import Path

import gemmi
import numpy as np


def line(serial, name, residue, chain, number, x, y, z, element, altloc=" ", occupancy=1.0, insertion=" ") -> str:
    """An atom's line of a PDB file."""
    record = "HETATM" if residue in ("HOH", "MN", "CA") else "ATOM  "
    padded = f" {name:<3s}" if len(element) == 1 else f"{name:<4s}"
    return (
        f"{record}{serial:5d} {padded}{altloc}{residue:>3s} {chain}{number:4d}{insertion}   "
        f"{x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{20.0:6.2f}          {element:>2s}"
    )


# a residue with hydrogen, one with two conformers and an insertion code, a nucleotide, a calcium ion, a water
LINES = [
    line(1, "N", "GLY", "A", 5, 0, 0, 0, "N"),
    line(2, "CA", "GLY", "A", 5, 1, 2, 3, "C"),
    line(3, "HA2", "GLY", "A", 5, 9, 9, 9, "H"),
    line(4, "N", "SER", "A", 6, 4, 0, 0, "N", insertion="B"),
    line(5, "CA", "SER", "A", 6, 5, 0, 0, "C", "A", 0.3, "B"),
    line(6, "CA", "SER", "A", 6, 6, 0, 0, "C", "B", 0.7, "B"),
    line(7, "OG", "SER", "A", 6, 7, 0, 0, "O", "A", 0.3, "B"),
    line(8, "OG", "SER", "A", 6, 8, 0, 0, "O", "B", 0.7, "B"),
    "TER",
    line(9, "P", "G", "R", 1, 10, 10, 10, "P"),
    line(10, "C1'", "G", "R", 1, 13, 10, 10, "C", occupancy=0.0),
    line(11, "CA", "CA", "R", 101, 20, 20, 20, "CA"),
    line(12, "O", "HOH", "R", 102, 30, 30, 30, "O"),
]


def write_pdb(path: Path, lines: list[str]) -> Path:
    """A PDB file of these lines."""
    path.write_text("\n".join([*lines, "END", ""]))
    return path


def write_points(path: Path, position: np.ndarray, element: str = "C", name: str = "CA") -> Path:
    """An mmCIF file with an atom at each position (Å, map frame), each its own residue."""
    chain = gemmi.Chain("A")
    for number, place in enumerate(position, start=1):
        atom, residue = gemmi.Atom(), gemmi.Residue()
        atom.name, atom.element, atom.pos = name, gemmi.Element(element), gemmi.Position(*place)
        residue.name, residue.seqid = "ALA", gemmi.SeqId(number, " ")
        residue.add_atom(atom)
        chain.add_residue(residue)
    model, structure = gemmi.Model(1), gemmi.Structure()
    model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(path))
    return path
