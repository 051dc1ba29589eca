"""The sign of real particles, found from the images alone."""

import json

import numpy as np
import pytest

from gaussemble.io.mrc import open_stack, write_stack
from gaussemble.io.star import read_star, write_star
from gaussemble.io.store import open_store
from gaussemble.prepare.particles import Options, particles

FILES = {"aspire/sample_relion_data.star": 100, "simplecryoem/relion_proj_batch.star": None}


@pytest.mark.parametrize("split", ["full", "even"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", FILES)
def test_molecules_come_out_bright(shared_data, tmp_path, name, sign, split):
    """17 particles of a ribosome (9 in the half), 24 projections; their stacks as they are and with dark molecules."""
    folder = (shared_data / "particles" / name).parent
    star = read_star(shared_data / "particles" / name)
    for stack in {path.split("@")[1] for path in star.particles["rlnImageName"]}:
        place = tmp_path / stack
        place.parent.mkdir(parents=True, exist_ok=True)
        source = next(path for path in (folder / stack, folder / stack.rsplit("/", 1)[-1]) if path.is_file())
        write_stack(place, sign * np.asarray(open_stack(source), np.float32), 1.0)
    write_star(tmp_path / "in.star", star)
    out = tmp_path / "out"
    particles(star=tmp_path / "in.star", out=out, split=split, options=Options(box=FILES[name]))
    found = json.loads((out / "report.json").read_text())["contrast"]
    assert found["sign"] == sign, found["evidence"]
    assert "undecided" not in found["evidence"]
    particles(
        star=tmp_path / "in.star",
        out=tmp_path / "again",
        split=split,
        options=Options(box=FILES[name], contrast="white"),
    )
    assert np.array_equal(open_store(out).images, sign * open_store(tmp_path / "again").images)
