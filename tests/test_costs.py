"""What jobs ask for: sizes from a file's first bytes, memory and time that grow with the data, the totals of a plan."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile
import yaml

from gaussemble import costs, sizes
from gaussemble.costs import Job, Size
from gaussemble.fit.heterogeneity import Options
from gaussemble.physics.symmetry import operators

SMALL = Size(particles=6_000, box=64, gaussians=512, epochs=15, maps=14)
LARGE = Size(particles=125_000, box=256, gaussians=4096, epochs=15, maps=30)


def write_star(path, rows: int) -> None:
    """A file of RELION 3.1: rows of unequal length, one for each particle."""
    names = [f"{number}@stacks/{'a' * (number % 40)}.mrcs" for number in range(rows)]
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnImageSize": [192]})
    particles = pd.DataFrame({"rlnImageName": names, "rlnAngleRot": np.linspace(0, 1, rows)})
    starfile.write({"optics": optics, "particles": particles}, path)


@pytest.mark.parametrize("rows", [1, 7, 30_000])
def test_rows_of_a_star_file_are_estimated_from_its_head(tmp_path, rows):
    write_star(tmp_path / "run data.star", rows)
    count, box = sizes.size_of(str(tmp_path / "run data.star"))
    assert count == pytest.approx(rows, rel=0.02)
    assert box == 192


def test_a_cs_file_tells_its_rows_and_the_images_shape(tmp_path):
    kinds = [("uid", "<u8"), ("blob/path", "S57"), ("ctf/shift_A", "<f4", (2,)), ("blob/shape", "<u4", (2,))]
    table = np.zeros(321, dtype=kinds)
    table["blob/shape"] = 180
    with (tmp_path / "particles.cs").open("wb") as file:
        np.save(file, table)
    assert sizes.size_of(tmp_path / "particles.cs") == (321, 180)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_stack_tells_its_images_in_either_byte_order(tmp_path, order):
    header = np.zeros(256, f"{order}i4")
    header[:4] = 128, 128, 5000, 2
    header.tofile(tmp_path / "a.mrcs")
    assert sizes.size_of(tmp_path / "a.mrcs") == (5000, 128)
    (tmp_path / "list.txt").write_text("a.mrcs\nb.mrcs\n")
    (tmp_path / "poses.pkl").write_bytes(bytes(44 * 9000 + 30))
    assert sizes.size_of(tmp_path / "list.txt", tmp_path / "poses.pkl") == (9000, 128)


def test_what_cannot_be_read_has_the_size_of_a_usual_data_set(tmp_path):
    (tmp_path / "odd.star").write_text("not a table")
    for name in ("odd.star", "absent.cs", "absent.mrcs"):
        assert sizes.size_of(tmp_path / name) == sizes.UNKNOWN


@pytest.mark.parametrize("name", ["C1", "c7", "D3", "T", "O", "I", "I3"])
def test_copies_are_as_many_as_the_group_has_rotations(name):
    assert sizes.copies(name) == len(operators(name))


@pytest.mark.parametrize("stage", costs.NEEDS)
def test_more_data_never_ask_for_less(stage):
    for size in (SMALL, SMALL._replace(poses=64), SMALL._replace(poses=64, shape=True)):
        for field in Size._fields:
            larger = size._replace(**{field: 4 * getattr(size, field)})
            assert costs.megabytes(stage, larger) >= costs.megabytes(stage, size)
            assert costs.minutes(stage, larger) >= costs.minutes(stage, size)


# The largest of the demo's benchmark files, of all splits: seconds of processor time and MB (max_rss)
DEMO = {
    "simulate": (7.6, 684), "particles": (4.9, 664), "consensus": (5.0, 763), "seeds": (3.9, 417),
    "neutral": (12.0, 668), "heterogeneity": (103.7, 982), "latent": (9.1, 411), "volumes": (11.2, 1221),
    "models": (3.4, 459), "agreement": (3.5, 553), "truth": (11.3, 1077),
}  # fmt: skip


@pytest.mark.parametrize("stage", DEMO)
def test_the_demo_fits_with_room_to_spare_and_asks_for_little(stage):
    seconds, memory = DEMO[stage]
    assert 1.5 * memory < costs.megabytes(stage, SMALL) < 4 * memory + 1000
    assert 3 * seconds < 60 * costs.minutes(stage, SMALL) <= 60 * costs.SHORTEST


# Processor seconds and MB of 600 particles in boxes of 128 and 256
BOXES = {
    128: {"consensus": (7.6, 1509), "seeds": (4.3, 489), "neutral": (8.3, 809), "volumes": (43.7, 4022)},
    256: {"consensus": (114, 7767), "seeds": (7.6, 1629), "simulate": (8.9, 1524), "particles": (3.8, 688)},
}


@pytest.mark.parametrize("box", BOXES)
def test_large_boxes_fit_and_waste_no_more_than_they_need(box):
    size = SMALL._replace(particles=600, box=box)
    for stage, (seconds, memory) in BOXES[box].items():
        assert 1.3 * memory < costs.megabytes(stage, size) < 3 * memory + 1500, stage
        assert 2 * seconds < 60 * costs.minutes(stage, size), stage


def test_a_training_of_a_usual_data_set_asks_for_hours_and_several_gpus_shorten_it():
    alone = costs.minutes("heterogeneity", LARGE)
    assert 4 * 60 < alone < 48 * 60 * 4
    assert costs.minutes("heterogeneity", LARGE, 4) < alone / 3.5
    assert costs.megabytes("heterogeneity", LARGE, 4) > 3.5 * costs.megabytes("heterogeneity", LARGE, 1) - 2000
    assert costs.megabytes("heterogeneity", SMALL, 1) - costs.megabytes("heterogeneity", SMALL, 0) == costs.GPU


def test_the_table_adds_up_hours_and_shows_the_largest_job():
    jobs = [
        Job("particles", 4, 0, 2000, 30), Job("particles", 4, 0, 3000, 15), Job("heterogeneity", 8, 2, 16000, 90)
    ]  # fmt: skip
    head, first, second, together = (line.split() for line in costs.table(jobs))
    assert head == ["jobs", "cores", "GPUs", "GB", "hours", "core", "hours", "GPU", "hours"]
    assert first == ["particles", "2", "4", "0", "3.0", "0.5", "3.0", "0.0"]
    assert second == ["heterogeneity", "1", "8", "2", "16.0", "1.5", "12.0", "3.0"]
    assert together == ["together", "3", "8", "2", "16.0", "1.5", "15.0", "3.0"]
    longer = [*jobs, Job("gaussemble_heterogeneity", 8, 1, 1000, 60)]  # as a module's rule may be called
    assert len({len(line) for line in costs.table(longer)}) == 1


def test_classes_found_by_images_ask_for_what_comparing_takes():
    images = LARGE._replace(decoded=True)
    assert costs.minutes("heterogeneity", LARGE) > costs.minutes("latent", images) > 4 * costs.minutes("latent", LARGE)
    assert costs.megabytes("latent", images) > costs.megabytes("latent", LARGE) + costs.LANDMARKS * 64**3 / 1e6


# MB of six classes (of an earlier form) in boxes of 64 and 128: 3,000 and 300 particles, 525 and 2,200 Gaussians. What
# is asked for has room for 128 components of the landmarks, where these want a tenth of it
@pytest.mark.parametrize(("box", "particles", "memory"), [(64, 3_000, 743), (128, 300, 1017)])
def test_classes_found_by_images_fit_with_room_to_spare(box, particles, memory):
    size = SMALL._replace(box=box, particles=particles, epochs=1, decoded=True)
    assert 1.5 * memory < costs.megabytes("latent", size) < 7 * memory


# Rows, and pixels where the config names none
ROWS = {
    "10076": (131_899, None), "10180": (327_490, None), "10492": (165_477, None), "10059": (800_000, 192),
    "10346": (500_000, 256),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_presets_say_what_is_expected_of_them(name):
    text = (Path(__file__).parents[1] / f"config/datasets/empiar-{name}.yaml").read_text()
    config, (rows, box) = yaml.safe_load(text), ROWS[name]
    (analysis,) = config["analyses"].values()
    options = Options().model_dump() | analysis["heterogeneity"]
    rounds = sum(each["epochs"] for each in options["rounds"]) or options["epochs"]
    epochs = costs.trained(rounds, options["em_rounds"], options["em_epochs"])
    gaussians = config["seeds"].get("count") or config["neutral"]["most"]
    whole = Size(rows, config["particles"].get("box") or box, gaussians, epochs, 0)
    half = whole._replace(particles=rows // 2)
    halves = 2 * (costs.seconds("heterogeneity", half) + costs.seconds("crossing", half)) / 3600
    without = costs.seconds("heterogeneity", whole) / 3600 + halves
    said = re.search(r"([0-9]+) core hours .*?, ([0-9]+) without the null run", text.replace("\n# ", " "))
    assert said is not None
    assert [float(hours) for hours in said.groups()] == pytest.approx([without + halves, without], rel=0.1)


# Seconds of the stage for searches of 64 pixels on a core, beside one to three other such things (docs/benchmarks.md)
SEARCHES = {(10_000, False): 335, (30_000, False): 762, (10_000, True): 1235, (30_000, True): 4209}


@pytest.mark.parametrize(("particles", "shape"), SEARCHES)
def test_a_search_for_poses_has_time_to_spare(particles, shape):
    size = SMALL._replace(particles=particles, gaussians=256, poses=512, shape=shape)
    asked = 60 * costs.minutes("heterogeneity", size)
    assert 3 * SEARCHES[particles, shape] < asked < 8 * SEARCHES[particles, shape]
    most = size._replace(particles=costs.SEARCHING)
    more = costs.seconds("heterogeneity", most._replace(particles=10 * costs.SEARCHING))
    assert more < 5 * costs.seconds("heterogeneity", most), "more only have the poses found by some"
