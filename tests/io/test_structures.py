"""Of PDB and mmCIF files the atoms that are meant are taken, each once, and what is not taken is counted."""

import gzip
from pathlib import Path

import gemmi
import numpy as np
import pytest
from scipy.spatial import KDTree

from gaussemble.errors import InputError
from gaussemble.io.atoms import group_atoms, read_atoms
from gaussemble.io.structures import Choice
from made_models import LINES, line, write_pdb


@pytest.fixture
def pdb(tmp_path) -> Path:
    return write_pdb(tmp_path / "model.pdb", LINES)


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
    assert atoms.left_out == {"water": 1, "hydrogen": 1, "other conformers": 2}
    told = capsys.readouterr().err
    assert "8 atoms in 4 residues of 2 chains; left out: 1 water, 1 hydrogen, 2 other conformers" in told
    assert "1 atoms of occupancy 0 are taken like others" in told


def test_one_residue_where_two_share_a_place(tmp_path):
    lines = [
        line(1, "CA", "SER", "A", 5, 1, 0, 0, "C", "A", 0.4),
        line(2, "CA", "THR", "A", 5, 2, 0, 0, "C", "B", 0.6),
        line(3, "CA", "GLY", "A", 6, 3, 0, 0, "C"),
    ]
    atoms = read_atoms(write_pdb(tmp_path / "two.pdb", lines))
    assert list(atoms.residue_name) == ["THR", "GLY"]


def test_conformer_with_some_of_the_atoms_is_completed(tmp_path):
    lines = [
        line(1, "CA", "SER", "A", 5, 1, 0, 0, "C", "A", 0.3),
        line(2, "CA", "SER", "A", 5, 2, 0, 0, "C", "B", 0.7),
        line(3, "OG", "SER", "A", 5, 3, 0, 0, "O", "A", 0.3),
    ]
    atoms = read_atoms(write_pdb(tmp_path / "part.pdb", lines))
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


def test_first_of_several_models_or_the_chosen_one(pdb, tmp_path, capsys):
    structure = gemmi.read_structure(str(pdb))
    for number in (5, 7):
        other = structure[0].clone()
        other.num = number
        for site in other.all():
            site.atom.pos = gemmi.Position(90 + number, 0, 0)
        structure.add_model(other)
    structure.write_pdb(str(tmp_path / "three.pdb"))
    assert read_atoms(tmp_path / "three.pdb").position.max() < 50
    assert "3 models, the first is used" in capsys.readouterr().err
    chosen = read_atoms(tmp_path / "three.pdb", Choice(model_number=7))
    assert len(chosen) == 8
    assert np.all(chosen.position[:, 0] == 97)
    assert "3 models, number 7 is used" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"three.pdb: option model_number, 2: no such model; it has 1, 5, 7"):
        read_atoms(tmp_path / "three.pdb", Choice(model_number=2))


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


def test_refuses_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_atoms(tmp_path / "absent.pdb")
    with pytest.raises(InputError, match="no such file"):
        read_atoms(tmp_path)


def test_file_that_is_no_text_of_ours_is_read_all_the_same(pdb, tmp_path):
    # a Windows file with the mark of UTF-8, and an author's name in Latin-1 before the atoms' columns
    content = b"\xef\xbb\xbf" + "AUTHOR    J.MÜLLER\n".encode("latin-1") + pdb.read_bytes()
    (tmp_path / "odd.pdb").write_bytes(content.replace(b"\n", b"\r\n"))
    assert np.array_equal(read_atoms(tmp_path / "odd.pdb").position, read_atoms(pdb).position)


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        ("A", ["N", "CA", "N", "CA", "OG"]),
        ("A/5", ["N", "CA"]),
        ("A/5-6", ["N", "CA"]),  # 6B is another residue
        ("R", ["P", "C1'", "CA"]),  # and not the water
        ("A,R//CA", ["CA", "CA", "CA"]),
        ("(SER)", ["N", "CA", "OG"]),
        (";q>0", ["N", "CA", "N", "CA", "OG", "P", "CA"]),  # without the atom of occupancy 0
        ("/1/R/1", ["P", "C1'"]),
    ],
)
def test_selection(pdb, selection, names):
    atoms = read_atoms(pdb, Choice(selection=selection))
    assert list(atoms.name) == names
    assert sum(atoms.left_out.values()) + len(atoms) == 12


@pytest.mark.parametrize(
    ("selection", "told"),
    [
        ("X", "model.pdb: option selection, X, finds no atom; the chains are A, R"),
        ("/2/A", "finds no atom; the chains are A, R"),
        ("A/300-400", "finds no atom"),
        ("R/102", "none of them left without waters"),
        ("[[", r"option selection, \[\[: no selection such as A or A,B/220-334"),
        ("A/five", "option selection, A/five: no selection such as"),
        (";q>much", "no selection such as"),
    ],
)
def test_refuses_selections(pdb, selection, told):
    with pytest.raises(InputError, match=told) as error:
        read_atoms(pdb, Choice(selection=selection))
    assert "\n" not in str(error.value)


def test_hydrogens_do_not_change_beads(pdb, tmp_path):
    """A model that a program has given hydrogens stands for the same density."""
    bare = write_pdb(tmp_path / "bare.pdb", [each for each in LINES if "HA2" not in each])
    with_them, without = group_atoms(read_atoms(pdb), "residue"), group_atoms(read_atoms(bare), "residue")
    assert np.array_equal(with_them.position, without.position)
    assert np.array_equal(with_them.weight, without.weight)


def test_unknown_atoms_and_residues_are_kept(tmp_path, capsys):
    lines = [
        line(1, "CA", "UNK", "A", 5, 1, 2, 3, "C"),
        line(2, "UNK", "UNX", "A", 6, 4, 5, 6, "X"),
        line(3, "XX", "UNL", "A", 7, 7, 8, 9, "??"),
    ]
    atoms = read_atoms(write_pdb(tmp_path / "unknown.pdb", lines))
    assert list(atoms.residue_name) == ["UNK", "UNX", "UNL"]
    assert list(atoms.electrons) == [6, 6, 6]
    assert "2 atoms of unknown element count as carbon" in capsys.readouterr().err


def test_ligands_sugars_and_lipids_stay_and_all_kinds_of_water_go(tmp_path):
    kept = ["NAG", "POV", "ATP", "MG", "DA"]
    gone = ["HOH", "WAT", "DOD", "TIP", "SOL"]
    lines = [line(n, "O1", name, "A", n, n, 0, 0, "O") for n, name in enumerate([*kept, *gone], start=1)]
    atoms = read_atoms(write_pdb(tmp_path / "many.pdb", lines))
    assert list(atoms.residue_name) == kept
    assert atoms.left_out["water"] == len(gone)


def operators(count: int, record: str, given: str = "") -> list[str]:
    """Rotations about z by multiples of 360 degrees over `count`, as three lines of a PDB file each."""
    lines = []
    for number in range(1, count + 1):
        angle = 2 * np.pi * (number - 1) / count
        cosine, sine = np.cos(angle), np.sin(angle)
        rows = [(cosine, -sine, 0.0), (sine, cosine, 0.0), (0.0, 0.0, 1.0)]
        for row, (a, b, c) in enumerate(rows, start=1):
            lines.append(f"{record}{row} {number:3d}{a:10.6f}{b:10.6f}{c:10.6f}     {0.0:10.5f}    {given}")
    return lines


BIOMOLECULES = [
    "REMARK 350 BIOMOLECULE: 1",
    "REMARK 350 APPLY THE FOLLOWING TO CHAINS: A, R",
    *operators(3, "REMARK 350   BIOMT"),
    "REMARK 350 BIOMOLECULE: 2",
    "REMARK 350 APPLY THE FOLLOWING TO CHAINS: A",
    *operators(1, "REMARK 350   BIOMT"),
]


@pytest.mark.parametrize("suffix", ["pdb", "cif"])
def test_assembly_on_request(tmp_path, capsys, suffix):
    path = write_pdb(tmp_path / "trimer.pdb", [*BIOMOLECULES, *LINES])
    if suffix == "cif":
        structure = gemmi.read_structure(str(path))
        structure.setup_entities()
        path = tmp_path / "trimer.cif"
        structure.make_mmcif_document().write_file(str(path))
    one = read_atoms(path)
    assert len(one) == 8
    assert "assembly 1 would be 3 copies; not made" in capsys.readouterr().err
    three = read_atoms(path, Choice(assembly="1"))
    # the glycine's N stands on the axis, and is one atom, not three
    assert "assembly 1: 8 atoms became 22, 2.75 times as many" in capsys.readouterr().err
    assert len(set(three.chain)) == 6
    # the first copy as it stands; each other one turned by 120 degrees from x to y (the file has six decimals)
    copies = [one.position]
    for _ in range(2):
        x, y, z = copies[-1].T
        copies.append(np.stack([-x / 2 - y * np.sqrt(3) / 2, x * np.sqrt(3) / 2 - y / 2, z], 1))
    expected = np.concatenate([copies[0], copies[1][1:], copies[2][1:]])
    distance, nearest = KDTree(three.position).query(expected)
    assert sorted(np.asarray(nearest).tolist()) == list(range(22))
    assert distance.max() < 1e-3
    assert three.electrons.sum() == 3 * one.electrons.sum() - 2 * 7
    assert list(read_atoms(path, Choice(assembly="2")).residue_name) == ["GLY", "SER"]


def test_part_of_an_assembly(tmp_path):
    path = write_pdb(tmp_path / "trimer.pdb", [*BIOMOLECULES, *LINES])
    part = read_atoms(path, Choice(assembly="1", selection="R/1"))
    assert list(part.residue_name) == ["G", "G", "G"]
    with pytest.raises(InputError, match="option assembly, 2: none of the chosen atoms belong to it"):
        read_atoms(path, Choice(assembly="2", selection="R"))


def test_ncs_copies_on_request(tmp_path, capsys):
    operator = operators(2, "MTRIX")
    given = [each + "1" if number < 3 else each for number, each in enumerate(operator)]
    path = write_pdb(tmp_path / "ncs.pdb", [*given, *LINES])
    assert len(read_atoms(path)) == 8
    assert "1 strict NCS copies that the file describes but does not hold are not made" in capsys.readouterr().err
    both = read_atoms(path, Choice(ncs=True))
    assert "1 NCS copies added: 8 atoms became 15" in capsys.readouterr().err
    # the N of the glycine is on the axis, at 0, 0, 0, and stays one atom
    assert np.allclose(np.sort(both.position[:, 0])[[0, -1]], [-20, 20])
    assert np.allclose(both.position[:, 2].min(), 0)


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (Choice(assembly="9"), "option assembly, 9: no such assembly; it has 1, 2"),
        (Choice(ncs=True), "option ncs: the file describes no copies"),
        (Choice(assembly="1", ncs=True), "are both given"),
    ],
)
def test_refuses_copies_that_are_not_described(tmp_path, choice, told):
    path = write_pdb(tmp_path / "trimer.pdb", [*BIOMOLECULES, *LINES])
    with pytest.raises(InputError, match=told):
        read_atoms(path, choice)


def test_refuses_assembly_where_there_is_none(pdb):
    with pytest.raises(InputError, match="no such assembly; it describes none"):
        read_atoms(pdb, Choice(assembly="1"))
