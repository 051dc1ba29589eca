"""STAR text in any spelling is read with the right rows and values; damaged text is refused in one line or read whole.

The same examples every time: a failure is no matter of luck.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from gemmi import cif
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gaussemble.errors import InputError
from gaussemble.io.relion import interpret
from gaussemble.io.star import numbers, read_star, write_star
from made_particles import OPTICS, rows, star_text

SAME_EVERY_TIME = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
BLANK = st.sampled_from(["", "", "\n", "   \n\t\n", "# a comment with 'an odd quote\n", "\n# version 30001\n\n"])
GAP = st.sampled_from([" ", "  ", "\t", " \t ", "      "])
NUMBER = st.floats(-1e6, 1e6, allow_nan=False) | st.integers(-(10**6), 10**6)
WORD = st.text("abcXYZ0189.-+/@_#'\"$[],;:=é() ", max_size=12).filter(
    lambda text: not re.search(r"""['"]\s""", text)  # would close the quotes
)
JUNK = 'junk \'before\n\nthe "first" block _rlnX loop_\n'


def spelled(value: str, quote: str) -> str:
    """A value as it may stand in a file: quoted where it must be, or where one likes."""
    if value and not quote and not re.search(r"\s|^['\"#_]|^(data_|loop_)", value):
        return value
    quote = quote or '"'
    return f"{quote}{value}{quote}"


@st.composite
def tables(draw, names: list[str], count: int) -> dict[str, list[str]]:
    """Columns of texts: images, and numbers or words."""
    columns = {}
    for name in names:
        if name == "rlnImageName":
            columns[name] = [
                f"{i + 1:06d}@{draw(st.sampled_from(['a.mrcs', 'b c.mrcs', 'd#e/it.mrcs']))}" for i in range(count)
            ]
        elif name.startswith("word"):
            columns[name] = draw(st.lists(WORD, min_size=count, max_size=count))
        else:
            columns[name] = [str(value) for value in draw(st.lists(NUMBER, min_size=count, max_size=count))]
    return columns


@st.composite
def spelled_blocks(draw, name: str, table: dict[str, list[str]]) -> str:
    """One block in some spelling; as a list where it has a single row."""
    count = len(next(iter(table.values())))
    quote = st.sampled_from(["", "", "", "'", '"'])
    text = f"data_{name}{draw(st.sampled_from(['', ' ']))}\n{draw(BLANK)}"
    if count == 1 and draw(st.booleans()):
        for label, (value,) in table.items():
            text += f"_{label}{draw(GAP)}{spelled(value, draw(quote))}\n{draw(BLANK)}"
        return text
    text += f"loop_{draw(st.sampled_from(['', ' ']))}\n"
    for index, label in enumerate(table, 1):
        text += f"_{label}{draw(st.sampled_from(['', ' ', f' #{index}', f' #{index} ', chr(9) + '#']))}\n"
    for values in zip(*table.values(), strict=True):
        start, end = draw(st.sampled_from(["", " ", "\t"])), draw(st.sampled_from(["", "  ", " # trailing"]))
        text += draw(BLANK) + start + draw(GAP).join(spelled(value, draw(quote)) for value in values) + end + "\n"
    return text + draw(BLANK)


@st.composite
def spellings(draw) -> tuple[bytes, dict[str, list[str]], dict[str, list[str]] | None]:
    """A file, and what stands in it: particles and optics."""
    names = [
        "rlnImageName",
        *draw(st.lists(st.sampled_from(["a", "b", "c", "word1", "word2"]), unique=True, max_size=4)),
    ]
    particles = draw(tables(draw(st.permutations(names)), draw(st.integers(1, 6))))
    optics = draw(st.none() | tables(["rlnOpticsGroup", "word3"], 2))
    blocks = [
        draw(
            spelled_blocks(
                draw(st.sampled_from(["", "particles", "images"])) if optics is None else "particles", particles
            )
        )
    ]
    if optics is not None:
        blocks.append(draw(spelled_blocks("optics", optics)))
    if draw(st.booleans()):
        blocks.append(draw(spelled_blocks("general", {"word4": ["1"]})))
    text = draw(st.sampled_from(["", "", "\n", "# version\n", JUNK])) + "".join(draw(st.permutations(blocks)))
    if draw(st.booleans()):
        text = text.rstrip("\n")
    ends = draw(st.sampled_from(["\n", "\n", "\r\n", "\r"]))
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.replace("\n", ends).encode(), particles, optics


def same(found, expected: dict[str, list[str]]) -> None:
    assert {name: list(found[name]) for name in found} == expected


@settings(max_examples=250, **SAME_EVERY_TIME)
@given(spellings())
def test_every_spelling_has_the_same_rows_and_values(tmp_path: Path, made):
    content, particles, optics = made
    (tmp_path / "in.star").write_bytes(content)
    star = read_star(tmp_path / "in.star")
    same(star.particles, particles)
    for name in particles:
        if len(name) == 1:
            assert np.array_equal(numbers(star, name), [float(value) for value in particles[name]])
    if optics is not None:
        same(star.optics, optics)
    write_star(tmp_path / "out.star", star)
    again = read_star(tmp_path / "out.star")
    same(again.particles, particles)
    assert set(again.other) == set(star.other)


MICROSCOPE = {"rlnVoltage": "300", "rlnSphericalAberration": "2.7", "rlnAmplitudeContrast": "0.1"}
WHOLE = {
    "RELION 3.1": star_text(rows(4, rlnRandomSubset=["1", "2"] * 2)),
    "RELION 3.0": star_text(rows(4, rlnOpticsGroup=None, rlnPixelSize="1.5", **MICROSCOPE), None, ""),
    "two groups": star_text(
        rows(4, rlnOpticsGroup=["1", "2"] * 2),
        {name: values * 2 for name, values in OPTICS.items()} | {"rlnOpticsGroup": ["1", "2"]},
    ),
    "quotes": star_text(rows(3, rlnMicrographName=["'a b'", '""', '"it\'s"'])),
}
PIECES = st.sampled_from(
    [
        b"data_",
        b"data_particles\n",
        b"data_optics\n",
        b"loop_\n",
        b"stop_\n",
        b"_",
        b"\n_rlnImageName\n",
        b"\n\n",
        b"\n",
    ]
    + [bytes([byte]) for byte in b"'\"# \t\r\v\0\x1f\xff;@-09"]
    + [b"_rlnOpticsGroup #1\n", b"\xef\xbb\xbf", b"\xc3\xa9", b"nan", b"inf", b"1e999", b"1e308", b"1 " * 40]
)


@st.composite
def damaged(draw) -> bytes:
    """A STAR file after some accidents."""
    content = draw(st.sampled_from([text.encode() for text in WHOLE.values()]))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.integers(0, 60)))
        accident = draw(st.sampled_from(["insert", "replace", "remove", "repeat", "cut off", "insert", "garble"]))
        part = content[start:stop]
        new = {
            "insert": draw(PIECES) + part,
            "replace": draw(PIECES),
            "remove": b"",
            "repeat": part + part,
            "cut off": part,
            "garble": draw(st.binary(max_size=8)),
        }[accident]
        content = content[:start] + new + (b"" if accident == "cut off" else content[stop:])
    return content


def count_by_gemmi(path: Path, block: str) -> int | None:
    """Rows of rlnImageName; None where gemmi refuses the file, or reads it by another rule than RELION."""
    try:
        document = cif.read(str(path))
        return len(document.find_block(block).find_loop("_rlnImageName")) or 1
    except (ValueError, RuntimeError, AttributeError, UnicodeDecodeError):
        return None


@settings(max_examples=700, **SAME_EVERY_TIME)
@given(damaged() | st.binary(max_size=200) | st.lists(PIECES, max_size=30).map(b"".join))
def test_what_is_damaged_is_refused_or_read_whole(tmp_path: Path, content: bytes):
    path = tmp_path / "in.star"
    path.write_bytes(content)
    try:
        star = read_star(path)
    except InputError as refusal:
        assert str(path) in str(refusal)
        return
    expected = count_by_gemmi(path, star.block)
    if expected is not None:
        assert len(star) == expected
    try:
        found = interpret(star)
    except InputError as refusal:
        assert str(path) in str(refusal)
        return
    assert len(found.angles) == len(found.shift) == len(found.ctf) == len(star)
    assert np.isfinite(found.angles).all()
    assert np.isfinite(found.shift).all()


@pytest.mark.parametrize("name", WHOLE)
def test_the_files_that_are_damaged_were_whole(tmp_path, name):
    (tmp_path / "in.star").write_text(WHOLE[name])
    assert len(interpret(read_star(tmp_path / "in.star")).angles) == (3 if name == "quotes" else 4)
