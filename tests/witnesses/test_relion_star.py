"""RELION reads the same rows and values from STAR text as we do, and what we write of it."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gaussemble.io.star import read_star, write_star
from made_particles import rows, star_text

pytestmark = pytest.mark.skipif(shutil.which("relion_star_handler") is None, reason="RELION is not installed")

NAMES = ["'a b'", "it's", '""', '"e\'f g"', "a#b"]
OPTICS_BLOCK, PARTICLES = star_text(rows(5, rlnMicrographName=NAMES)).split("\ndata_particles")
PARTICLES = f"\ndata_particles{PARTICLES}"
PLAIN = OPTICS_BLOCK + PARTICLES
SPELLINGS = {
    "plain": PLAIN,
    "tabs": PLAIN.replace("  ", "\t"),
    "no numbers at labels": re.sub(r" #\d+", "", PLAIN),
    "no final newline": PLAIN.rstrip(),
    "junk first": f"junk 'before\n# loop_\n\n{PLAIN}",
    "comment in the header": PLAIN.replace("loop_ \n", "loop_ \n# a comment\n\n"),
    "particles first": PARTICLES + OPTICS_BLOCK,
}


def by_relion(folder: Path, name: str) -> pd.DataFrame:
    """The particles of a file as RELION writes them."""
    command = ["relion_star_handler", "--i", name, "--o", "relion.star", "--remove_column", "rlnNone"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert (folder / "relion.star").is_file(), done.stdout + done.stderr
    return read_star(folder / "relion.star").particles


def same(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    assert list(ours) == list(theirs)
    for name in ours:
        if name in ("rlnImageName", "rlnMicrographName"):
            assert list(ours[name]) == list(theirs[name])
        else:
            assert np.allclose(ours[name].astype(float), theirs[name].astype(float), rtol=0, atol=1e-5)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_relion_has_the_same_rows_and_values(tmp_path, spelling):
    (tmp_path / "in.star").write_bytes(SPELLINGS[spelling].encode())
    star = read_star(tmp_path / "in.star")
    assert list(star.particles["rlnMicrographName"]) == ["a b", "it's", "", "e'f g", "a#b"]
    same(star.particles, by_relion(tmp_path, "in.star"))


def test_relion_reads_what_we_write(tmp_path):
    """Of text and of numbers, with the digits that poses need."""
    (tmp_path / "in.star").write_text(PLAIN)
    star = read_star(tmp_path / "in.star")
    star = star.with_column("rlnAngleRot", [-179.123456789, 0.0, 1e-4, 5e-8, 90.0])
    star = star.with_column("rlnMicrographName", ["_a", "data_b", "c d", "", "loop_"])
    write_star(tmp_path / "ours.star", star)
    same(star.particles, by_relion(tmp_path, "ours.star"))


def test_relion_leaves_out_what_follows_a_blank_line(tmp_path):
    """We do not, as the STAR standard has it: the one difference that is meant."""
    lines = PARTICLES.rstrip().split("\n")
    (tmp_path / "in.star").write_text(OPTICS_BLOCK + "\n".join([*lines[:-2], "", *lines[-2:]]) + "\n")
    assert len(by_relion(tmp_path, "in.star")) == 3
    assert len(read_star(tmp_path / "in.star")) == 5
