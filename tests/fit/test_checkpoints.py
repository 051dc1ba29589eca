"""Checkpoints: whole or not there, refused where they do not belong, no code inside."""

import os
import signal

import pytest
import torch

from gaussemble.fit import checkpoints
from gaussemble.fit.checkpoints import (
    fingerprint,
    leave,
    read_checkpoint,
    remove_checkpoint,
    signals_noted,
    write_checkpoint,
)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "a.pt"
    content = {"weights": {"a": torch.arange(3.0)}, "history": [{"loss": 1.5}], "best": float("inf")}
    write_checkpoint(path, "digest", content)
    found = read_checkpoint(path, "digest")
    assert found is not None
    assert torch.equal(found["weights"]["a"], torch.arange(3.0))
    assert (found["history"], found["best"]) == ([{"loss": 1.5}], float("inf"))
    assert list(path.parent.iterdir()) == [path]


def test_one_of_other_settings_or_damaged_or_missing_is_nothing(tmp_path, capsys):
    path = tmp_path / "a.pt"
    assert read_checkpoint(path, "digest") is None
    assert capsys.readouterr().err == ""
    write_checkpoint(path, "digest", {"weights": torch.arange(100.0)})
    assert read_checkpoint(path, "other") is None
    assert "of other options, particles or code" in capsys.readouterr().err
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"no archive at all", whole[:-30]):
        path.write_bytes(damaged)
        assert read_checkpoint(path, "digest") is None
        assert "cannot be read" in capsys.readouterr().err


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"format": 1, "digest": "digest", "weights": Harmful()}, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt", "digest") is None
    assert not (tmp_path / "harm").exists()


def test_a_write_that_fails_leaves_the_older_one(tmp_path, capsys, monkeypatch):
    path = tmp_path / "a.pt"
    write_checkpoint(path, "digest", {"number": 1})

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.os, "fsync", full)
        write_checkpoint(path, "digest", {"number": 2})
    assert "no checkpoint could be written (No space left on device); going on without" in capsys.readouterr().err
    found = read_checkpoint(path, "digest")
    assert found is not None
    assert found["number"] == 1
    write_checkpoint(path, "digest", {"number": 3})
    assert (read_checkpoint(path, "digest") or {})["number"] == 3


def test_removal_takes_leftovers_and_an_empty_folder(tmp_path):
    path = tmp_path / "checkpoints" / "a.pt"
    remove_checkpoint(path)
    remove_checkpoint(None)
    write_checkpoint(path, "digest", {})
    path.with_name(".a.pt.part").write_bytes(b"half")
    remove_checkpoint(path)
    assert not path.parent.exists()
    write_checkpoint(path, "digest", {})
    (path.parent / "b.pt").touch()
    remove_checkpoint(path)
    assert [each.name for each in path.parent.iterdir()] == ["b.pt"]


def test_a_fingerprint_tells_every_part(tmp_path):
    values = torch.arange(6.0)
    parts = [
        (values,), (values.double(),), (values.view(2, 3),), (values + 1,), (values, values), (values[:3], values[3:]),
        ("a", "bc"), ("ab", "c"), ({"a": 1},), ({"a": 1.5},),
    ]  # fmt: skip
    found = [fingerprint(*each) for each in parts]
    assert len(set(found)) == len(parts)
    assert found == [fingerprint(*each) for each in parts]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_noted_and_handlers_put_back(number):
    before = signal.getsignal(number)
    with signals_noted(True) as arrived:
        os.kill(os.getpid(), number)
        assert arrived == [number]
    assert signal.getsignal(number) is before
    with signals_noted(False):
        assert signal.getsignal(number) is before


def test_leaving_is_as_the_signal_would_have_it():
    with pytest.raises(SystemExit) as ended:
        leave(signal.SIGTERM)
    assert ended.value.code == 143
    with pytest.raises(KeyboardInterrupt):
        leave(signal.SIGINT)
