"""The text of STAR files: blocks of labels and values, each value exactly as it stood. What they mean, `star` says.

Rows are read and written by batches into columns of Arrow strings, so that a million of them take little more memory
than the file. `starfile` and `gemmi.cif` are the witnesses of the tests; they do not read these files themselves since
the first cuts a value at a `#`, fills rows that are too short and holds the text several times, and the second wants
no more than the right number of values in the whole table.

Where the STAR standard and RELION part, RELION's reading counts: a row is a line. Where RELION would leave out the rows
after a blank line, the standard counts.
"""

import bz2
import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedIOBase, BytesIO, TextIOBase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv

from gaussemble.errors import InputError
from gaussemble.io.packed import DAMAGED, packing_of

PIECE = 1 << 24  # bytes that are read at a time
BATCH = 20_000  # rows that are held as Python objects at a time
SEPARATOR = b"\x1f"  # between the values of a row: a character that no text has
TEXT = pd.StringDtype("pyarrow", na_value=np.nan)
BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16
UTF8_MARK = b"\xef\xbb\xbf"
SPECIAL = (b'"', b"'", b"#")
# A quoted value ends at its quote before white space; a comment starts after white space.
TOKEN = re.compile(rb"""(?:"(.*?)"|'(.*?)'|(\#.*)|([^\s"'\#]\S*))(?=\s|$)""")
RESERVED = ("data_", "loop_", "_")  # what a row must not start with unquoted
# Where rows have these, some value needs quotes.
AWKWARD = (" ", '"', "'", "#", "\r", "\v", "\f", "\t\t", "\n\t", "\t\n", "\n\n", "\ndata_", "\nloop_", "\n_")


Blocks = dict[str, dict[str, Any] | pd.DataFrame]  # by name: the values of a list, or the table of a loop


@dataclass
class Block:
    """A block while it is read: a list of values until `loop_` comes, a table then."""

    name: str
    line: int  # where it starts, from 1
    values: dict[str, str] = field(default_factory=dict)
    labels: list[str] | None = None  # of a table
    rows: list[bytes] = field(default_factory=list)  # values between SEPARATOR, not yet in `batches`
    batches: list[pa.Table] = field(default_factory=list)

    def add_row(self, tokens: list[bytes]) -> None:
        """One more row, of the right length."""
        self.rows.append(SEPARATOR.join(tokens))
        if len(self.rows) == BATCH:
            self.pack()

    def pack(self) -> None:
        """Move the rows into columns."""
        if self.rows:
            self.batches.append(_columns(b"\n".join([*self.rows, b""]), self.labels or []))
            self.rows.clear()

    def finish(self) -> dict[str, str] | pd.DataFrame:
        """The list, or the table."""
        if self.labels is None:
            return self.values
        self.pack()
        table = pa.concat_tables(self.batches) if self.batches else None
        self.batches.clear()
        columns: dict[str, Any] = {}
        for label in self.labels:  # one after the other, so that no more than one is there twice
            column = pa.array([], pa.large_string()) if table is None else table[label].combine_chunks()
            columns[label] = TEXT.__from_arrow__(column)
            table = table.drop_columns([label]) if table is not None else None
        return pd.DataFrame(columns)

    @property
    def begun(self) -> bool:
        """Whether it has rows."""
        return bool(self.rows or self.batches)


def _columns(text: bytes, labels: list[str]) -> pa.Table:
    """Rows of values as columns of strings; a value may be empty."""
    return csv.read_csv(
        BytesIO(text),
        csv.ReadOptions(column_names=labels, use_threads=False, block_size=len(text) + 1),
        csv.ParseOptions(
            delimiter=SEPARATOR.decode(), quote_char=False, escape_char=False, newlines_in_values=False,
            ignore_empty_lines=False,
        ),
        csv.ConvertOptions(column_types=dict.fromkeys(labels, pa.large_string()), strings_can_be_null=False),
    )  # fmt: skip


def read_blocks(path: Path) -> Blocks:
    """All blocks by name: a dict of a list of values, a table of a loop. `.gz` and `.bz2` are unpacked as they come.

    Raises:
        InputError: no such file, no text, no block, a block or a column that stands twice, a row with another number
            of values than there are labels.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a particle STAR file")
    blocks: dict[str, Block] = {}
    try:
        for block in _parse(path):
            if block.name in blocks:
                raise InputError(
                    f"{path}: the block data_{block.name} stands twice, in line {blocks[block.name].line} and in line "
                    f"{block.line}; keep one, or join them (relion_star_handler --combine)"
                )
            blocks[block.name] = block
        tables = {name: block.finish() for name, block in blocks.items()}
    except pa.ArrowInvalid:
        raise InputError(f"{path}: has values that are no text in UTF-8; convert it, or copy it again") from None
    if not tables:
        raise InputError(f"{path}: not a STAR file (no data_ block); expected a particle STAR file of RELION")
    return tables


def _pieces(path: Path) -> Iterator[tuple[bool, list[bytes]]]:
    """The lines of a file, whatever ends them, many at a time, and whether they have quotes or comments.

    Raises:
        InputError: it is no text, or damaged.
    """
    start = True
    try:
        with _opened(path) as file:
            while text := file.read(PIECE) + file.readline():
                if start and text.startswith(BYTE_ORDER_MARKS):
                    raise InputError(f"{path}: text in UTF-16; save it as UTF-8")
                if b"\0" in text or SEPARATOR in text:
                    raise InputError(f"{path}: not a text file; expected a particle STAR file")
                text = text.removeprefix(UTF8_MARK) if start else text
                start = False
                yield any(special in text for special in SPECIAL), text.splitlines()
    except (*DAMAGED, OSError) as error:
        raise InputError(f"{path}: cannot be read ({error}); compress or copy the file again") from error


def _lines(path: Path) -> Iterator[tuple[int, bytes, list[bytes]]]:
    """The number, the first word and the values of each line that has some, from the first block on."""
    number, begun = 0, False
    for special, lines in _pieces(path):
        for line in lines:
            number += 1
            if not begun:  # what comes before is no part of the file
                begun = line.lstrip().startswith(b"data_")
                if not begun:
                    continue
            tokens = _tokens(path, number, line) if special else line.split()
            if tokens:
                yield number, tokens[0] if not special else line.split(None, 1)[0], tokens


def _opened(path: Path) -> BufferedIOBase:
    """The file, or what it holds where it is compressed."""
    with path.open("rb") as file:
        packing = packing_of(file.read(4))
    return {"gzip": gzip.open, "bzip2": bz2.open, None: open}[packing](path, "rb")  # type: ignore[return-value]


def _parse(path: Path) -> Iterator[Block]:
    """The blocks of a file, in order; what comes before the first is no part of it."""
    block: Block | None = None
    for number, word, tokens in _lines(path):
        if block is not None and block.labels and len(tokens) == len(block.labels) and not _starts(word, block):
            block.add_row(tokens)
        elif word.startswith(b"data_"):
            if block is not None:
                yield block
            block = Block(_text(path, number, word[5:]), number)
        elif block is not None:
            _add(path, number, block, word, tokens)
    if block is not None:
        yield block


def _starts(word: bytes, block: Block) -> bool:
    """Whether a line that could be a row is a label, the first after loop_, or another block."""
    if word.startswith(b"_"):
        return not block.begun
    return len(block.labels or []) == 1 and word.startswith((b"data_", b"loop_"))


def _add(path: Path, number: int, block: Block, word: bytes, tokens: list[bytes]) -> None:
    """Take a line that is neither a whole row nor the start of a block.

    Raises:
        InputError: it does not belong there.
    """
    table = block.labels is not None
    if word == b"loop_":
        if table or block.values:
            raise _wrong(path, number, block, "a second table or list in one block; give each its own data_ name")
        block.labels = []
    elif word.startswith(b"_") and not block.begun:
        label = _text(path, number, word[1:])
        if label in (block.labels if block.labels is not None else block.values):
            raise _wrong(path, number, block, f"the column {label} stands twice; remove one")
        if block.labels is not None:
            block.labels.append(label)
        else:
            block.values[label] = _text(path, number, b" ".join(tokens[1:]))
    elif block.labels is not None and len(block.labels) == 2 and len(tokens) == 1:
        block.add_row([*tokens, b""])  # RELION leaves the value of a name out where it is empty
    elif table or block.values:
        expected = "expected as many values in each row as the loop has labels" if table else "is loop_ missing?"
        values = f"{len(tokens)} value{'s' * (len(tokens) != 1)}"
        raise _wrong(path, number, block, f"{values} for {len(block.labels or [])} labels; {expected}")


def _wrong(path: Path, number: int, block: Block, what: str) -> InputError:
    return InputError(f"{path}: cannot be read as STAR: line {number}, of data_{block.name}: {what}")


def _tokens(path: Path, number: int, line: bytes) -> list[bytes]:
    """The values of a line that has quotes or a comment.

    Raises:
        InputError: a quote that is not closed.
    """
    if not any(special in line for special in SPECIAL):
        return line.split()
    tokens, position, line = [], 0, line.strip()
    while position < len(line):
        found = TOKEN.match(line, position)
        if found is None:
            raise InputError(f"{path}: cannot be read as STAR: line {number}: a quote is not closed; close it")
        if found[3]:
            break
        tokens.append(next(value for value in (found[1], found[2], found[4]) if value is not None))
        position = found.end()
        while position < len(line) and line[position : position + 1].isspace():
            position += 1
    return tokens


def _text(path: Path, number: int, word: bytes) -> str:
    try:
        return word.decode()
    except UnicodeDecodeError:
        raise InputError(f"{path}: line {number}: not a text file in UTF-8; convert it, or copy it again") from None


def write_blocks(file: TextIOBase, blocks: Blocks) -> None:
    """Write blocks as RELION reads them; numbers with 9 significant digits, which keep a float32 exactly."""
    for name, block in blocks.items():
        file.write(f"\ndata_{name}\n\n")
        if isinstance(block, pd.DataFrame):
            file.write("loop_\n" + "".join(f"_{label} #{i}\n" for i, label in enumerate(block.columns, 1)))
            for start in range(0, len(block), BATCH):
                file.write(_rows(block.iloc[start : start + BATCH]))
        else:
            file.write("".join(f"_{label}\t{_quoted(_as_texts([value])[0])}\n" for label, value in block.items()))
        file.write("\n")


def _rows(table: pd.DataFrame) -> str:
    """The rows of a table, values between tabs, quoted where they must be."""
    columns = [_as_texts(table.iloc[:, column].tolist()) for column in range(table.shape[1])]
    text = "\n" + "\n".join(map("\t".join, zip(*columns, strict=True))) + "\n"
    separators = (len(table) + 1, len(table) * (table.shape[1] - 1))
    if any(part in text for part in AWKWARD) or (text.count("\n"), text.count("\t")) != separators:
        columns = [[_quoted(value) for value in column] for column in columns]
        return "".join(_row(values) for values in zip(*columns, strict=True))
    return text[1:]


def _row(values: tuple[str, ...]) -> str:
    """A line that is not taken for a label or a block."""
    first = f'"{values[0]}"' if values[0].startswith(RESERVED) else values[0]
    return "\t".join([first, *values[1:]]) + "\n"


def _as_texts(values: list[Any]) -> list[str]:
    """Text as it is, numbers so that they are read as the same ones, missing ones as nan."""
    kinds = set(map(type, values))
    if kinds <= {str}:
        return values
    if kinds <= {float}:
        return [f"{value:.9g}" for value in values]
    return ["nan" if value is None else f"{value:.9g}" if isinstance(value, float) else str(value) for value in values]


def _quoted(value: str) -> str:
    """A value as one token.

    Raises:
        InputError: it has line ends, or both quotes before white space: STAR cannot hold it.
    """
    if value and not re.search(r"""\s|^["'#]""", value):
        return value
    for quote in "\"'":
        if not re.search(rf"[\r\n]|{quote}\s", value):
            return f"{quote}{value}{quote}"
    raise InputError(f"the value {value!r} cannot stand in a STAR file; take line ends and quotes out of it")
