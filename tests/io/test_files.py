"""Files appear whole or not at all; damaged ones are refused in one line."""

import errno
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gaussemble.errors import InputError
from gaussemble.io import files
from gaussemble.io.files import read_csv, read_json, read_npz, reserve, together, write_csv, written


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def full(*arguments, **named):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_what_was_there_and_is_the_users_to_mend(tmp_path, monkeypatch):
    table = pd.DataFrame({"a": [1]})
    write_csv(tmp_path / "a.csv", table)
    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(InputError, match=r"a\.csv: cannot be written: No space left on device"):
        write_csv(tmp_path / "a.csv", table)
    assert names(tmp_path) == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "a\n1\n"


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match=r"out.a\.csv: cannot be written"), written(tmp_path / "out/a.csv"):
        pass


def test_a_read_error_of_another_file_is_not_blamed_on_the_written_one(tmp_path):
    with pytest.raises(FileNotFoundError), written(tmp_path / "a.txt"):
        (tmp_path / "input").read_text()
    assert names(tmp_path) == []


def test_files_that_are_written_together_appear_together(tmp_path):
    with together():
        for name in ("a", "b"):
            with written(tmp_path / name) as temporary:
                temporary.write_text(name)
        assert not {"a", "b"} & set(names(tmp_path))
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_none_appears_where_one_fails(tmp_path, error):
    with pytest.raises(error), together():
        with written(tmp_path / "a") as temporary:
            temporary.write_text("a")
        with written(tmp_path / "b"):
            raise error
    assert names(tmp_path) == []


def test_space_for_a_memory_map_is_taken_before_it_is_written(tmp_path, monkeypatch):
    path = tmp_path / "map"
    path.write_bytes(b"")
    with path.open("r+b") as file:
        file.truncate(2**20)
    assert path.stat().st_blocks == 0, "a sparse file"
    reserve(path)
    assert path.stat().st_blocks * 512 >= 2**20
    monkeypatch.setattr(files.os, "posix_fallocate", full)
    with pytest.raises(InputError, match="map: cannot be written: No space left"):
        reserve(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a table"),
        (b"a,b\n", "no rows under a, b"),
        (b"a,c\n1,2\n", "no column b"),
        (b"a,b\n1,2\n3,x\n", "row 2: b is 'x', expected a number"),
        (b"a,b\n1,2\n1,2,3\n", "cannot be read as a table"),
        (bytes(range(128, 256)), "cannot be read as a table"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.csv: {message}") as caught:
        read_csv(tmp_path / "a.csv", ["a", "b"])
    assert "\n" not in str(caught.value)


def test_words_may_be_anything(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,x\n")
    assert read_csv(tmp_path / "a.csv", ["a"], words=["b"])["b"].tolist() == ["x"]


def test_damaged_json_and_archives_are_refused(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a\.json: cannot be read as JSON"):
        read_json(tmp_path / "a.json")
    np.savez(tmp_path / "whole.npz", a=np.arange(100))
    whole, path = (tmp_path / "whole.npz").read_bytes(), tmp_path / "a.npz"
    flipped = whole[:200] + bytes([whole[200] ^ 255]) + whole[201:]
    for content in (b"", b"text", whole[: len(whole) // 2], flipped):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npz: not a mixture"):
            read_npz(path, "a mixture")
    with pytest.raises(InputError, match="no such file"):
        read_npz(tmp_path / "none.npz", "a mixture")
