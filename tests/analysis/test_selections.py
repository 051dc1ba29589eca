"""The user's own selections: found by number, image or uid; refused in one line where they are of other particles."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gaussemble.analysis.selections import SelectionOptions, find_selection, find_selections, refuse_repeated
from gaussemble.analysis.volumes import Options, selections
from gaussemble.errors import InputError
from gaussemble.io.cryosparc import read_cs
from gaussemble.io.files import read_csv
from gaussemble.io.refinement import Refinement
from gaussemble.io.star import read_star
from gaussemble.io.store import ImageStore, open_store, write_store
from made_cs import layout, write_cs
from made_particles import rows, write_star_text
from made_store import make_particles

COUNT = 24


def make(folder: Path, generator, split: str) -> tuple[ImageStore, Refinement]:
    """A split of an input whose images are in stacks of one name in two folders."""
    first, step, count = {"full": (0, 1, COUNT), "odd": (1, 2, COUNT // 2)}[split]
    particles = make_particles(count, generator, first, step)
    write_store(folder, particles, torch.zeros(count, 8, 8), 5.0)
    numbers = range(first, COUNT, step)
    names = [f"{i // 2 + 1:06d}@Extract/job{i % 2}/mic.mrcs" for i in numbers]
    write_star_text(folder / "particles.star", rows(count, rlnImageName=names))
    report = {"star": "run_data.star", "split": split, "particles_in_file": COUNT, "left_out": []}
    (folder / "report.json").write_text(json.dumps(report))
    return open_store(folder), Refinement(read_star(folder / "particles.star"))


@pytest.fixture(params=["full", "odd"])
def split(request, tmp_path, generator):
    return request.param, *make(tmp_path / "particles", generator, request.param)


def found(path: Path, split) -> list[int]:
    """The particles that a file selects."""
    _, store, refinement = split
    return store.particles.particle[find_selection(path, store, refinement)].tolist()


def test_a_table_selects_by_row_of_the_input(split, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("cluster,particle\n1,5\n1,4\n1,21\n1,5\n")
    assert found(path, split) == ([4, 5, 21] if split[0] == "full" else [5, 21])


def test_a_star_file_selects_by_image_wherever_paths_start(split, tmp_path):
    chosen = [1, 3, 8]
    names = [f"{i // 2 + 1}@/data/project/Extract/job{i % 2}/mic.mrcs" for i in chosen]
    path = write_star_text(tmp_path / "mine.star", rows(3, rlnImageName=names))
    assert found(path, split) == ([1, 3, 8] if split[0] == "full" else [1, 3])


def test_a_cs_selects_by_uid(tmp_path, generator):
    store, refinement = make(tmp_path / "particles", generator, "full")
    cs = read_cs(write_cs(tmp_path / "all.cs", layout(COUNT)))
    given = Refinement(refinement.star, cs)
    cs.rows(np.array([2, 7])).write(tmp_path / "mine.cs")
    assert find_selection(tmp_path / "mine.cs", store, given).tolist() == [2, 7]
    with pytest.raises(InputError, match=r"a \.cs selects from a \.cs, but run_data.star is none"):
        find_selection(tmp_path / "mine.cs", store, refinement)
    with pytest.raises(InputError, match="is not among the particles"):
        find_selection(tmp_path / "mine.cs", store, Refinement(refinement.star, cs.rows(np.arange(5))))


@pytest.mark.parametrize("wrong", ["24", "-1", "2.5", "nan"])
def test_particles_that_the_input_does_not_have(split, tmp_path, wrong):
    path = tmp_path / "mine.csv"
    path.write_text(f"particle\n3\n{wrong}\n")
    with pytest.raises(InputError, match=rf"mine.csv: row 2: particle is {wrong}.*from 0 to 23 \(1 such rows\)"):
        found(path, split)


def test_images_that_the_input_does_not_have(tmp_path, generator):
    store, refinement = make(tmp_path / "particles", generator, "full")
    path = write_star_text(tmp_path / "mine.star", rows(2, rlnImageName=["1@job0/mic.mrcs", "99@job0/mic.mrcs"]))
    with pytest.raises(InputError, match=r"row 1 \(from 0\): '99@job0/mic.mrcs' is not among.*\(1 of 2 are not\)"):
        find_selection(path, store, refinement)
    report = json.loads((store.folder / "report.json").read_text())
    (store.folder / "report.json").write_text(json.dumps(report | {"left_out": [{"row": 30}]}))
    assert find_selection(path, store, refinement).tolist() == [0], (
        "one that the stage particles left out may be missing"
    )


def test_a_table_without_the_column(split, tmp_path):
    (tmp_path / "mine.csv").write_text("row\n3\n")
    with pytest.raises(InputError, match=r"mine\.csv: no column particle; it has row"):
        found(tmp_path / "mine.csv", split)


def test_two_of_one_name(tmp_path):
    with pytest.raises(InputError, match=r"selections\.1\.name: found mine twice"):
        refuse_repeated([SelectionOptions(name="mine", particles=tmp_path / name) for name in "ab"])


def test_the_stage_writes_what_it_found(tmp_path, generator, capsys):
    make(tmp_path / "particles", generator, "odd")
    for name, text in {"a": "1\n3\n", "b": "2\n4\n"}.items():
        (tmp_path / f"{name}.csv").write_text(f"particle\n{text}")
    given = [{"name": name, "particles": str(tmp_path / f"{name}.csv")} for name in "ab"]
    options = Options.model_validate({"selections": given})
    selections(particles=tmp_path / "particles", out=tmp_path / "selections.csv", options=options)
    assert read_csv(tmp_path / "selections.csv").to_numpy().tolist() == [["a", 1], ["a", 3]]
    assert "selection b: 0 of the 12 particles" in capsys.readouterr().err
    store, refinement = make(tmp_path / "particles", generator, "full")
    assert find_selections(options.selections, store, refinement)["b"].tolist() == [2, 4]
