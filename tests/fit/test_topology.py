"""Which beads follow each other: chains, gaps, ligands, nucleic acids, in every grouping."""

import numpy as np
import pytest

from gaussemble.fit.topology import consecutive
from gaussemble.io.atoms import Atoms, group_atoms, read_atoms


def line(serial: int, name: str, residue: str, chain: str, number: int, x: float, element: str) -> str:
    kind = "ATOM  " if residue in {"ALA", "GLY", "A", "U"} else "HETATM"
    return (
        f"{kind}{serial:5d} {name:<4} {residue:>3} {chain}{number:4d}    {x:8.3f}{0.0:8.3f}{0.0:8.3f}"
        f"{1.0:6.2f}{20.0:6.2f}          {element:>2}"
    )


@pytest.fixture
def atoms(tmp_path) -> Atoms:
    """Chain A: residues 1 2 3, a gap, 5 6, a calcium; chain B close by; chain C: nucleotides, the first without P."""
    places = [("A", 1, 0.0), ("A", 2, 3.8), ("A", 3, 7.6), ("A", 5, 15.0), ("A", 6, 18.8), ("B", 7, 22.6)]
    sites = []
    for chain, number, x in places:
        sites += [(" N", "ALA", chain, number, x - 1.2, "N"), (" CA", "ALA", chain, number, x, "C")]
    sites += [("CA", "CA", "A", 90, 20.0, "CA")]
    sites += [(" C4'", "A", "C", 1, 40.0, "C")]
    for number, x in ((2, 46.0), (3, 52.0)):
        sites += [(" P", "U", "C", number, x, "P"), (" C4'", "U", "C", number, x + 3, "C")]
    path = tmp_path / "model.pdb"
    path.write_text("\n".join(line(i, *site) for i, site in enumerate(sites, 1)) + "\nEND\n")
    return read_atoms(path)


def numbers(atoms: Atoms, beads: np.ndarray, grouping: str) -> list[list[str]]:
    """Chain and residue number of beads."""
    residue = atoms.residue[beads] if grouping == "atom" else beads
    return [[f"{atoms.chain[each]}{atoms.number[each]}" for each in row] for row in residue]


@pytest.mark.parametrize("grouping", ["atom", "residue", "calpha"])
def test_neighbours_in_a_chain_follow_each_other_across_no_gap(atoms, grouping):
    found = consecutive(atoms, grouping)
    assert numbers(atoms, found["bonds"], grouping) == [["A1", "A2"], ["A2", "A3"], ["A5", "A6"], ["C2", "C3"]]
    assert numbers(atoms, found["angles"], grouping) == [["A1", "A2", "A3"]]


def test_beads_of_atoms_are_the_trace(atoms):
    bonds = consecutive(atoms, "atom")["bonds"]
    assert set(atoms.name[bonds].ravel()) == {"CA", "P"}
    assert bonds.max() < len(group_atoms(atoms, "atom"))
    distance = np.linalg.norm(atoms.position[bonds[:, 0]] - atoms.position[bonds[:, 1]], axis=1)
    assert distance == pytest.approx([3.8, 3.8, 3.8, 6.0])


def test_what_has_no_chain_has_none(atoms):
    few = atoms.residue == 0
    alone = Atoms(atoms.structure, atoms.position[few], atoms.electrons[few], atoms.residue[few], atoms.name[few],
                  atoms.chain[:1], atoms.number[:1], atoms.residue_name[:1])  # fmt: skip
    found = consecutive(alone, "residue")
    assert found["bonds"].shape == (0, 2)
    assert found["angles"].shape == (0, 3)
