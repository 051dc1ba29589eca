"""What report.json says of the particles: right numbers, and every kind of wrong row found, alone."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gaussemble.io.relion import Metadata, no_contrast_transfer
from gaussemble.io.star import StarFile
from gaussemble.physics.rotations import euler_to_matrix, random_rotations
from gaussemble.prepare.inspection import robust, summarise
from gaussemble.quantities import ContrastTransfer, Particles

COUNT, FIELD = 400, 300.0  # Å


@pytest.fixture
def made(generator) -> Particles:
    """Sound particles of two optics groups."""

    def same(value: float) -> torch.Tensor:
        return torch.full((COUNT,), value)

    defocus = 10000 + 10000 * torch.rand(COUNT, generator=generator)
    group = (torch.arange(COUNT) >= 300).long()
    voltage = torch.where(group == 0, 300e3, 200e3)
    ctf = ContrastTransfer(
        defocus + 150, defocus - 150, same(0.6), voltage, same(2.7e7), same(0.1), same(0.0), same(0.0), same(1.0)
    )
    rotation = random_rotations(COUNT, generator).float()
    return Particles(torch.arange(COUNT), rotation, 5 * torch.randn(COUNT, 2, generator=generator), ctf, group)


def inspected(particles: Particles, half=None, statistics=None) -> dict:
    count = int(particles.particle.max()) + 1
    rng = np.random.default_rng(0)
    if statistics is None:
        statistics = np.stack([rng.normal(0, 0.01, count), rng.normal(1, 0.02, count)], axis=1)
        statistics = statistics[particles.particle.numpy()]
    optics = pd.DataFrame({"rlnOpticsGroup": ["1", "2"], "rlnOpticsGroupName": ["first light", "second"]})
    star = StarFile(Path("run_data.star"), optics, pd.DataFrame(index=range(count)))
    row = np.arange(count)
    sizes = np.where(row >= 300, 1.5, 1.2)
    metadata = Metadata(
        angles=np.zeros((count, 3)), shift=np.zeros((count, 2)), ctf=no_contrast_transfer(count),
        optics_group=(row >= 300).astype(np.int64), pixel_sizes=sizes, image_sizes=np.where(row >= 300, 200, 250),
    )  # fmt: skip
    half = particles.particle.numpy() % 2 if half is None else half
    return summarise(metadata, particles, half, statistics, star, FIELD)


def changed(particles: Particles, **ctf) -> Particles:
    return dataclasses.replace(particles, ctf=dataclasses.replace(particles.ctf, **ctf))


def test_sound_particles_raise_no_suspicion_and_can_be_written_as_json(made):
    found = inspected(made)
    assert found["suspicious"] == []
    assert json.loads(json.dumps(found)) == found


def test_optics_groups_are_in_the_field_s_units(made):
    first, second = inspected(made)["optics"]
    assert first == {
        "group": 1, "name": "first light", "particles": 300, "voltage": 300.0, "spherical_aberration": 2.7,
        "amplitude_contrast": 0.1, "pixel_size": 1.2, "image_size": 250.0,
    }  # fmt: skip
    assert (second["name"], second["particles"], second["voltage"], second["pixel_size"]) == ("second", 100, 200, 1.5)


def test_values_that_differ_within_a_group_are_a_range(made):
    contrast = torch.linspace(0.05, 0.25, COUNT)
    assert inspected(changed(made, amplitude_contrast=contrast))["optics"][0]["amplitude_contrast"] == [
        0.05, pytest.approx(0.2, abs=1e-3),
    ]  # fmt: skip


def test_quantiles_are_of_the_mean_defocus_and_the_shift(made):
    found = inspected(made)
    defocus = (made.ctf.defocus_u + made.ctf.defocus_v).numpy() / 2
    assert found["defocus"]["median"] == pytest.approx(np.median(defocus), rel=1e-4)
    assert found["defocus"]["most"] == pytest.approx(defocus.max(), rel=1e-4)
    assert found["astigmatism"]["median"] == pytest.approx(300, rel=1e-3)
    assert found["shift"]["median"] == pytest.approx(5 * math.sqrt(2 * math.log(2)), rel=0.1)  # of Rayleigh's


def test_each_wrong_row_is_found_by_its_number_in_the_input(made):
    kept = torch.arange(7, COUNT)  # rows before were left out: positions in the store are not rows of the input
    shift, ctf = made.shift.clone(), made.ctf
    shift[50] = torch.tensor([80.0, -70.0])
    u, v, phase = ctf.defocus_u.clone(), ctf.defocus_v.clone(), ctf.phase_shift.clone()
    u[60], v[60] = -9000, -9000
    u[61], v[61] = 9e4, 9e4
    u[62], v[62] = 18000, 12000
    u[63], v[63] = 4000, 3000  # 29 % of the mean defocus
    phase[64] = math.radians(200)
    rng = np.random.default_rng(1)
    statistics = np.stack([rng.normal(0, 0.01, COUNT), rng.normal(1, 0.02, COUNT)], axis=1)
    statistics[70, 1], statistics[71, 0] = 3.0, -0.5
    particles = changed(
        dataclasses.replace(made, shift=shift), defocus_u=u, defocus_v=v, phase_shift=phase
    )[kept]  # fmt: skip
    found = {each["what"].split()[0]: each for each in inspected(particles, statistics=statistics[7:])["suspicious"]}
    rows = {what: [each["row"] for each in entry["rows"]] for what, entry in found.items()}
    assert rows == {
        "shift": [50], "defocus": [60, 61], "astigmatism": [62, 63], "phase": [64], "standard": [70], "mean": [71],
    }  # fmt: skip
    assert found["shift"]["rows"][0]["value"] == pytest.approx(math.hypot(80, 70), rel=1e-4)
    assert found["defocus"]["rows"][0]["value"] == -9000
    assert found["astigmatism"]["rows"][1]["value"] == 1000
    assert found["phase"]["rows"][0]["value"] == pytest.approx(200)
    assert found["standard"]["rows"][0]["value"] == 3


def test_a_group_is_measured_by_itself(made):
    """Another detector has another grey scale, and is no outlier for it; within it, a row at the first's scale is."""
    group = made.optics_group.numpy()
    rng = np.random.default_rng(2)
    statistics = np.stack([rng.normal(0, 0.01, COUNT), rng.normal(1, 0.02, COUNT)], axis=1) * (1 + 99 * group[:, None])
    assert inspected(made, statistics=statistics)["suspicious"] == []
    statistics[390] /= 100
    (only,) = inspected(made, statistics=statistics)["suspicious"]
    assert [each["row"] for each in only["rows"]] == [390]


def test_at_most_ten_rows_are_listed_and_all_counted(made):
    (only,) = inspected(dataclasses.replace(made, shift=made.shift + 200))["suspicious"]
    assert only["count"] == COUNT
    assert [each["row"] for each in only["rows"]] == list(range(10))


def test_poses_that_were_never_refined_are_named(made):
    reset = dataclasses.replace(made, rotation=torch.eye(3).expand(COUNT, 3, 3), shift=torch.zeros(COUNT, 2))
    said = [each["what"] for each in inspected(reset)["suspicious"]]
    assert len(said) == 3
    assert "orientation" in said[0]
    assert "tilt" in said[1]
    assert "shifts" in said[2]


def test_an_orientation_that_many_share_is_found_and_one_of_two_is_not(made):
    rotation = made.rotation.clone()
    rotation[100:102] = rotation[100]
    rotation[200:206] = rotation[200]
    (only,) = inspected(dataclasses.replace(made, rotation=rotation))["suspicious"]
    assert [(each["row"], each["value"]) for each in only["rows"]] == [(row, 6) for row in range(200, 206)]


def test_unbalanced_halves_are_said(made):
    half = (np.arange(COUNT) >= 100).astype(np.int64)
    (only,) = inspected(made, half=half)["suspicious"]
    assert only["count"] == 100
    assert "unbalanced" in only["what"]
    assert inspected(made, half=half)["counts"] == {"rows": COUNT, "images": COUNT, "half1": 100, "half2": 300}


def test_copies_of_a_particle_count_once_but_in_the_views(made):
    twice = torch.arange(COUNT).repeat_interleave(2)
    turned = made.rotation[twice].clone()
    turned[1::2] = turned[1::2] @ torch.tensor([[-1.0, 0, 0], [0, 1, 0], [0, 0, -1]])
    copies = dataclasses.replace(made[twice], rotation=turned)
    found, plain = inspected(copies), inspected(made)
    assert found["counts"] == {"rows": 2 * COUNT, "images": COUNT, "half1": 200, "half2": 200}
    assert {**found, "counts": 0, "views": 0} == {**plain, "counts": 0, "views": 0}
    assert found["views"]["empty"] < plain["views"]["empty"]


def test_views_are_relative_to_uniform(generator, made):
    top = torch.zeros(COUNT, 3)
    top[:, 2] = torch.arange(COUNT)  # psi alone differs: one view
    one = inspected(dataclasses.replace(made, rotation=euler_to_matrix(top)))["views"]
    assert one == {"cells": 200, "empty": 0.995, "densest": 200.0}
    many = made[torch.zeros(40_000, dtype=torch.long)]
    many = dataclasses.replace(many, rotation=random_rotations(40_000, generator).float())
    even = inspected(many)["views"]
    assert even["empty"] == 0
    assert even["densest"] < 1.4  # 200 a cell: counting alone gives 1 + 3 / sqrt(200), cells differ by some percent


def test_without_a_ctf_nothing_is_said_of_defocus(made):
    found = inspected(dataclasses.replace(made, ctf=no_contrast_transfer(COUNT)))
    assert found["suspicious"] == []
    assert found["defocus"] is None
    assert found["optics"][0]["voltage"] is None
    assert found["optics"][0]["pixel_size"] == 1.2


def test_robust_distance_is_that_of_a_normal_distribution():
    values = np.random.default_rng(0).normal(5, 2, 20_000)
    group = np.zeros(len(values), np.int64)
    assert np.std(robust(values, group)) == pytest.approx(1, abs=0.02)
    assert not robust(np.r_[np.ones(10), 5.0], np.zeros(11, np.int64)).any()
