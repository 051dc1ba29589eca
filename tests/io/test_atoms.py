"""Atomic models become arrays, are grouped without loss, and written back with their names and numbers."""

from pathlib import Path

import gemmi
import numpy as np
import pytest

from gaussemble.errors import InputError
from gaussemble.io.atoms import gather, group_atoms, read_atoms, write_models
from made_models import LINES, line, write_pdb


@pytest.fixture
def pdb(tmp_path) -> Path:
    return write_pdb(tmp_path / "model.pdb", LINES)


def test_refuses_missing_coordinates(pdb, tmp_path):
    structure = gemmi.read_structure(str(pdb))
    structure[0]["R"][0][0].pos = gemmi.Position(np.nan, 0, 0)
    structure.make_mmcif_document().write_file(str(tmp_path / "nan.cif"))
    with pytest.raises(InputError, match="1 atoms without coordinates, the first is R/G 1/P"):
        read_atoms(tmp_path / "nan.cif")


def test_groups_keep_all_electrons_and_the_trace(pdb):
    atoms = read_atoms(pdb)
    assert len(group_atoms(atoms, "atom")) == 8
    residue, calpha = group_atoms(atoms, "residue"), group_atoms(atoms, "calpha")
    assert len(residue) == len(calpha) == 4
    for beads in (residue, calpha):
        assert beads.weight.sum() == atoms.electrons.sum()
    # GLY: N (7 electrons) at 0, CA (6) at (1, 2, 3)
    assert np.allclose(residue.position[0], np.array([1, 2, 3]) * 6 / 13)
    assert np.allclose(calpha.position, [[1, 2, 3], [6, 0, 0], [10, 10, 10], [20, 20, 20]])
    assert residue.spread[3] == 0
    # second moment: residue P at x = 10 (15 electrons) and C at 13 (6): variance 9 * 15 * 6 / 21² over three axes
    assert residue.spread[2] == pytest.approx(np.sqrt(9 * 15 * 6 / 21**2 / 3))
    # round the phosphorus rather than the centroid it is larger: 9 * 6 / 21
    assert calpha.spread[2] == pytest.approx(np.sqrt(9 * 6 / 21 / 3))


def test_phosphorus_is_a_trace_in_nucleotides_alone(tmp_path):
    lines = [
        line(1, "P", "A", "R", 1, 1, 0, 0, "P"),  # a model of the trace alone
        line(2, "P", "XXX", "R", 2, 2, 0, 0, "P"),  # a modified nucleotide, known by its sugar
        line(3, "C4'", "XXX", "R", 2, 12, 0, 0, "C"),
        line(4, "CA", "SEP", "A", 3, 3, 0, 0, "C"),  # phosphoserine
        line(5, "P", "SEP", "A", 3, 13, 0, 0, "P"),
        line(6, "P", "POV", "A", 4, 4, 0, 0, "P"),  # a lipid stays at its centroid
        line(7, "C1", "POV", "A", 4, 25, 0, 0, "C"),
    ]
    beads = group_atoms(read_atoms(write_pdb(tmp_path / "p.pdb", lines)), "calpha")
    assert np.allclose(beads.position[:, 0], [1, 2, 3, 4 + 21 * 6 / 21])


def test_gather_has_the_moments_of_its_points():
    rng = np.random.default_rng(0)
    point = rng.normal([1, 2, 3], 2.0, size=(200_000, 3))
    beads = gather(point, np.ones(len(point)), np.zeros(len(point), dtype=int), 1)
    assert np.allclose(beads.position, [[1, 2, 3]], atol=0.02)  # 4 standard errors
    assert beads.spread[0] == pytest.approx(2.0, rel=0.01)


def test_written_models_keep_names_numbers_and_order(pdb, tmp_path):
    atoms = read_atoms(pdb)
    moves = [np.zeros(3), np.array([1, 2, 3.5]), np.array([-7, 0, 0])]
    write_models(tmp_path / "out.cif", atoms, [atoms.position + move for move in moves])
    structure = gemmi.read_structure(str(tmp_path / "out.cif"))
    assert [model.num for model in structure] == [1, 2, 3]
    for model, move in zip(structure, moves, strict=True):
        sites = list(model.all())
        assert [site.atom.name for site in sites] == list(atoms.name)
        assert [site.chain.name for site in sites] == list(atoms.chain[atoms.residue])
        assert [str(site.residue.seqid) for site in sites] == list(atoms.number[atoms.residue])
        assert [site.residue.name for site in sites] == list(atoms.residue_name[atoms.residue])
        # mmCIF has three decimals or more
        assert np.allclose([site.atom.pos.tolist() for site in sites], atoms.position + move, atol=1e-3)
    again = read_atoms(tmp_path / "out.cif")
    assert np.allclose(again.position, atoms.position, atol=1e-3)


def test_writing_leaves_the_atoms_as_they_are_and_no_half_file(pdb, tmp_path):
    atoms = read_atoms(pdb)
    before = atoms.position.copy()
    with pytest.raises(ValueError, match="zip"):
        write_models(tmp_path / "out.cif", atoms, [atoms.position[:-1]])
    assert list(tmp_path.iterdir()) == [pdb]
    write_models(tmp_path / "out.cif", atoms, [atoms.position + 5])
    assert np.array_equal(atoms.position, before)
    assert atoms.structure[0][0][0][0].pos.tolist() == before[0].tolist()
