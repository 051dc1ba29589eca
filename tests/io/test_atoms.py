"""Atomic models are read whole, grouped without loss, and written back with their names and numbers."""

import gzip
from pathlib import Path

import gemmi
import numpy as np
import pytest

from gaussemble.errors import InputError
from gaussemble.io.atoms import gather, group_atoms, read_atoms, write_models


def line(serial, name, residue, chain, number, x, y, z, element, altloc=" ", occupancy=1.0, insertion=" ") -> str:
    record = "HETATM" if residue in ("HOH", "MN", "CA") else "ATOM  "
    padded = f" {name:<3s}" if len(element) == 1 else f"{name:<4s}"
    return (
        f"{record}{serial:5d} {padded}{altloc}{residue:>3s} {chain}{number:4d}{insertion}   "
        f"{x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{20.0:6.2f}          {element:>2s}"
    )


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


@pytest.fixture
def pdb(tmp_path) -> Path:
    path = tmp_path / "model.pdb"
    path.write_text("\n".join([*LINES, "END", ""]))
    return path


def test_what_is_kept_and_what_is_left_out(pdb, capsys):
    atoms = read_atoms(pdb)
    assert list(atoms.name) == ["N", "CA", "N", "CA", "OG", "P", "C1'", "CA"]
    assert list(atoms.electrons) == [7, 6, 7, 6, 8, 15, 6, 20]
    assert list(atoms.residue) == [0, 0, 1, 1, 1, 2, 2, 3]
    assert list(atoms.chain) == ["A", "A", "R", "R"]
    assert list(atoms.number) == ["5", "6B", "1", "101"]
    assert list(atoms.residue_name) == ["GLY", "SER", "G", "CA"]
    assert np.allclose(atoms.position[1], [1, 2, 3])  # x, y, z, not reversed
    assert np.allclose(atoms.position[[3, 4], 0], [6, 8])  # conformer B, which is occupied more
    assert "8 atoms in 4 residues; left out 4 sites" in capsys.readouterr().err


def test_one_residue_where_two_share_a_place(tmp_path):
    lines = [
        line(1, "CA", "SER", "A", 5, 1, 0, 0, "C", "A", 0.4),
        line(2, "CA", "THR", "A", 5, 2, 0, 0, "C", "B", 0.6),
        line(3, "CA", "GLY", "A", 6, 3, 0, 0, "C"),
    ]
    (tmp_path / "two.pdb").write_text("\n".join([*lines, "END", ""]))
    atoms = read_atoms(tmp_path / "two.pdb")
    assert list(atoms.residue_name) == ["THR", "GLY"]


def test_conformer_with_some_of_the_atoms_is_completed(tmp_path):
    lines = [
        line(1, "CA", "SER", "A", 5, 1, 0, 0, "C", "A", 0.3),
        line(2, "CA", "SER", "A", 5, 2, 0, 0, "C", "B", 0.7),
        line(3, "OG", "SER", "A", 5, 3, 0, 0, "O", "A", 0.3),
    ]
    (tmp_path / "part.pdb").write_text("\n".join([*lines, "END", ""]))
    atoms = read_atoms(tmp_path / "part.pdb")
    assert list(atoms.name) == ["CA", "OG"]
    assert np.allclose(atoms.position[:, 0], [2, 3])


def test_gzip_and_mmcif_read_the_same(pdb, tmp_path):
    with gzip.open(tmp_path / "model.pdb.gz", "wb") as file:
        file.write(pdb.read_bytes())
    gemmi.read_structure(str(pdb)).make_mmcif_document().write_file(str(tmp_path / "model.cif"))
    atoms = read_atoms(pdb)
    for other in (read_atoms(tmp_path / "model.pdb.gz"), read_atoms(tmp_path / "model.cif")):
        assert np.allclose(other.position, atoms.position)
        assert list(other.number) == list(atoms.number)
        assert list(other.chain) == list(atoms.chain)


def test_first_of_several_models_and_says_so(pdb, tmp_path, capsys):
    structure = gemmi.read_structure(str(pdb))
    second = structure[0].clone()
    second.num = 2
    for site in second.all():
        site.atom.pos = gemmi.Position(99, 99, 99)
    structure.add_model(second)
    structure.write_pdb(str(tmp_path / "two.pdb"))
    atoms = read_atoms(tmp_path / "two.pdb")
    assert len(atoms) == 8
    assert atoms.position.max() < 50
    assert "2 models, the first is used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("junk.pdb", "junk\n", "cannot be read"),
        ("empty.cif", "", "cannot be read"),
        ("table.cif", "data_x\n_a.b 1\n", "no atoms"),
        ("broken.cif", "data_x\nloop_\n_a.b\n_a.c\n1 2 3\n", "cannot be read"),
        ("other.dat", b"\0\xff\2", "cannot be read"),
        ("truncated.pdb.gz", gzip.compress("\n".join(LINES).encode())[:-20], "cannot be read"),
        ("water.pdb", line(1, "O", "HOH", "A", 1, 1, 2, 3, "O"), "1 atom sites, none of them left"),
    ],
)
def test_refuses_what_holds_no_model(tmp_path, name, content, told):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=told) as error:
        read_atoms(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_refuses_missing_file_and_missing_coordinates(pdb, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_atoms(tmp_path / "absent.pdb")
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
