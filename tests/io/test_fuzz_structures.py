"""Whatever a damaged model file holds, the answer is atoms or one clear line, never a traceback."""

import gzip
import tempfile
from pathlib import Path

import gemmi
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaussemble.errors import InputError
from gaussemble.io.atoms import group_atoms, read_atoms, write_models
from gaussemble.io.structures import Choice
from made_models import LINES, line

EXTRA = [
    "HEADER    TEST                                    01-JAN-00   1ABC",
    "CRYST1   50.000   50.000   50.000  90.00  90.00  90.00 P 1           1",
    "REMARK 350 BIOMOLECULE: 1",
    "REMARK 350 APPLY THE FOLLOWING TO CHAINS: A, R",
    "REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000",
    "REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000",
    "REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000",
    "MTRIX1   2 -1.000000  0.000000  0.000000       20.00000",
    "MTRIX2   2  0.000000 -1.000000  0.000000       20.00000",
    "MTRIX3   2  0.000000  0.000000  1.000000        0.00000",
    "MODEL        1",
]
PDB = "\n".join([*EXTRA, *LINES, "ENDMDL", "MODEL        2", *LINES[:3], "ENDMDL", "END", ""]).encode()
CIF = gemmi.read_pdb_string(PDB.decode()).make_mmcif_document().as_string().encode()
FILES = {"pdb": PDB, "cif": CIF, "pdb.gz": gzip.compress(PDB, mtime=0), "cif.gz": gzip.compress(CIF, mtime=0)}
CHOICES = st.sampled_from(
    [Choice(), Choice(selection="A"), Choice(selection=";q>0"), Choice(assembly="1"), Choice(ncs=True), Choice(2)]
)
TOKENS = [b"nan", b"inf", b"?", b".", b"'", b'"', b";", b"\n;", b"loop_", b"data_", b"save_", b"1e999", b"-", b"\0"]
TOKENS += [b"\xff", b"_atom_site.Cartn_x", b"TER", b"END", b"ATOM", b"99999999999", b"*****", b"\r", b" " * 80, b"#"]


WHOLE = Choice()


def outcome(content: bytes, suffix: str, choice: Choice = WHOLE) -> str:
    """Read what is there as a stage would; what was said if it was refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model.{suffix}"
        path.write_bytes(content)
        try:
            atoms = read_atoms(path, choice)
        except InputError as error:
            assert "\n" not in str(error)
            assert str(error).startswith((str(path), "option "))
            assert len(str(error)) < 1000
            return str(error)
        assert len(atoms) > 0
        assert np.isfinite(atoms.position).all()
        for grouping in ("atom", "residue", "calpha"):
            beads = group_atoms(atoms, grouping)
            assert np.isfinite(beads.position).all()
            assert beads.weight.min() > 0
        write_models(Path(folder) / "out.cif", atoms, [atoms.position])
        return ""


@pytest.mark.parametrize("suffix", FILES)
def test_whole_files_are_read(suffix):
    assert outcome(FILES[suffix], suffix) == ""


@pytest.mark.parametrize("suffix", ["pdb", "cif"])
def test_every_truncation(suffix):
    """Cut after each line and within it; where a compressed file is cut it is always known."""
    content = FILES[suffix]
    ends = [index for index, byte in enumerate(content) if byte == 10]
    for end in ends:
        for cut in (end, max(0, end - 7), max(0, end - 33)):
            outcome(content[:cut], suffix)


@pytest.mark.parametrize("suffix", ["pdb.gz", "cif.gz"])
def test_every_truncation_of_gzip_is_refused(suffix):
    content = FILES[suffix]
    for cut in range(2, len(content), 17):
        assert "cannot be read" in outcome(content[:cut], suffix)


@settings(max_examples=300, deadline=None)
@given(
    suffix=st.sampled_from(["pdb", "cif"]),
    choice=CHOICES,
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 12), st.one_of(st.sampled_from(TOKENS), st.binary(max_size=6))),
        min_size=1,
        max_size=5,
    ),
)
def test_mutated_text(suffix, choice, edits):
    content = bytearray(FILES[suffix])
    for where, removed, inserted in edits:
        start = int(where * len(content))
        content[start : start + removed] = inserted
    outcome(bytes(content), suffix, choice)


@settings(max_examples=100, deadline=None)
@given(
    suffix=st.sampled_from(["pdb.gz", "cif.gz"]),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=3),
)
def test_damaged_gzip(suffix, flips):
    content = bytearray(FILES[suffix])
    for where, bits in flips:
        content[int(where * (len(content) - 1))] ^= bits
    outcome(bytes(content), suffix)


@settings(max_examples=100, deadline=None)
@given(content=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_anything_else(content):
    for suffix in ("pdb", "cif"):
        outcome(content, suffix)


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(st.text("AR/0123456789-,.*!;qb<>()[]: CP'NO\n\0é", min_size=1, max_size=12), st.text(min_size=1)))
def test_any_selection(text):
    outcome(PDB, "pdb", Choice(selection=text))


@settings(max_examples=150, deadline=None)
@given(
    column=st.sampled_from(["x", "occupancy", "number", "serial", "element", "name", "altloc", "chain"]),
    text=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=8),
)
def test_any_value_in_a_column(column, text):
    """A line whose column holds something else, as programs that write beyond their columns do."""
    start, width = {
        "x": (30, 8),
        "occupancy": (54, 6),
        "number": (22, 4),
        "serial": (6, 5),
        "element": (76, 2),
        "name": (12, 4),
        "altloc": (16, 1),
        "chain": (21, 1),
    }[column]
    good = line(1, "CA", "GLY", "A", 1, 1, 2, 3, "C")
    bad = good[:start] + text[:width].rjust(width) + good[start + width :]
    outcome("\n".join([good, bad, "END", ""]).encode(), "pdb")


def test_coordinates_that_are_no_numbers_are_refused():
    good = line(1, "CA", "GLY", "A", 1, 1, 2, 3, "C")
    for text in ("     nan", "     inf", "  ******", "        "):
        told = outcome(f"{good}\n{good[:30]}{text}{good[38:]}\nEND\n".encode(), "pdb")
        assert told, text
    for text in (b" nan ", b" ? ", b" inf ", b" 1e999 "):
        told = outcome(CIF.replace(b" 13 ", text).replace(b" 13.0 ", text), "cif")
        assert "without coordinates" in told or "cannot be read" in told, text
