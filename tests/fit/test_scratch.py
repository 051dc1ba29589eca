"""Tables in temporary files: what is written is read, in any order, and nothing is left behind."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from gaussemble.errors import InputError
from gaussemble.fit import scratch
from gaussemble.fit.scratch import make_table


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where temporary files lie."""
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("shape", [(), (3,), (4, 5)])
@pytest.mark.parametrize("dtype", [np.complex64, np.float32])
def test_what_is_written_is_read_in_any_order(folder, generator, shape, dtype, monkeypatch):
    monkeypatch.setattr(scratch, "PIECE", 700)  # several pieces, whose ends fall inside runs of wanted rows
    monkeypatch.setattr(scratch, "READ_THROUGH", 90)
    kind = torch.complex64 if dtype is np.complex64 else torch.float32
    values = torch.randn(200, *shape, generator=generator, dtype=kind)
    table = make_table(200, shape, dtype)
    table.write(64, values[64:])
    table.write(0, values[:64])
    some = torch.randint(0, 200, (150,), generator=generator)  # some of them twice
    for rows in (torch.arange(200), torch.arange(20, 90), torch.arange(0, 200, 7), some, torch.arange(199, -1, -1)):
        assert torch.equal(table.read(rows), values[rows])
    assert table.read(torch.arange(0)).shape == (0, *shape)


def test_rows_of_nothing_take_no_room(folder):
    table = make_table(10, (0,), np.float32)
    table.write(0, torch.empty(10, 0))
    assert table.read(torch.tensor([3, 1])).shape == (2, 0)


def test_far_rows_are_read_alone_and_near_ones_together(folder, monkeypatch):
    table = make_table(100_000, (64,), np.float32)  # 256 bytes a row
    read = []
    plain = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *arguments: read.append(plain(*arguments)) or read[-1])
    table.read(torch.tensor([0, 99_999, 50_000, 50_100]))
    assert read == [256, 101 * 256, 256]
    read.clear()
    table.read(torch.arange(0, 100_000, 3))
    assert max(read) <= scratch.PIECE
    assert len(read) == -(-100_000 * 256 // scratch.PIECE)


def test_no_file_is_left_and_no_handle(folder):
    table = make_table(10, (3,), np.float32)
    assert not list(folder.iterdir())
    handle = table.handle
    os.fstat(handle)
    del table
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)


def test_a_full_disk_is_one_line(folder, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.chdir(folder)
    with pytest.raises(
        InputError, match=rf"^0\.0004 GB of temporary data .*{folder}: no room\).* TMPDIR .* resolution$"
    ):
        make_table(10**5, (), np.float32)
    assert not list(folder.iterdir())


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A node's own disk, its TMPDIR and the working directory."""
    for name in ("own", "temporary", "working"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "own"))
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "working")
    return tmp_path


def lies_in(table: scratch.Table) -> str:
    """The folder of a table's file."""
    return Path(f"/proc/self/fd/{table.handle}").readlink().parent.name


def test_tables_lie_on_the_nodes_own_disk(places):
    assert lies_in(make_table(10, (), np.float32)) == "own"


def test_the_next_folder_serves_where_one_is_not_there_or_full(places, monkeypatch):
    (places / "own").rmdir()
    assert lies_in(make_table(10, (), np.float32)) == "temporary"
    plain = scratch.reserve

    def no_room_here(path: Path) -> None:
        if path.parent.name == "temporary":
            raise InputError("no room")
        plain(path)

    monkeypatch.setattr(scratch, "reserve", no_room_here)
    assert lies_in(make_table(10, (), np.float32)) == "working"
    assert not list((places / "temporary").iterdir())


def test_a_folder_in_memory_comes_last(places, monkeypatch):
    monkeypatch.setattr(scratch, "in_memory", lambda folder: folder.name in ("own", "temporary"))
    assert [folder.name for folder in scratch.folders()] == ["working", "own", "temporary"]


def test_file_systems_in_memory_are_known_through_links(tmp_path):
    assert not scratch.in_memory(Path("/proc"))
    if "/dev/shm tmpfs" in Path("/proc/mounts").read_text():
        assert scratch.in_memory(Path("/dev/shm/some/folder"))
        (tmp_path / "link").symlink_to("/dev/shm")
        assert scratch.in_memory(tmp_path / "link/some/folder")
    assert scratch._unescaped(r"/media/my\040disk") == "/media/my disk"
