"""The published data sets' configs: what the papers say, and that they plan and read what the deposits look like.

The stubs have the paths, boxes, pixel sizes and columns of the deposits (where nothing is published, likely ones), and
a few images of noise.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from gaussemble.config import Config
from gaussemble.fit.consistency import problems
from gaussemble.io.refinement import read_refinement
from gaussemble.io.relion import interpret
from gaussemble.prepare.particles import Options, particles
from made_cs import layout, write_cs
from made_particles import OPTICS, rows, write_mrc, write_star_text

ROOT = Path(__file__).resolve().parents[1]
COUNT = 6
SETS = {path.stem: path for path in sorted((ROOT / "config/datasets").glob("*.yaml"))}
# of RELION before 3.1, which has no table of optics
OLD = {"rlnVoltage": 300.0, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1, "rlnMagnification": 10000.0}


def stack(path: Path, box: int, pixel_size: float) -> None:
    """A stack of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).normal(size=(COUNT, box, box)).astype("f4")
    write_mrc(path, images, pixel_size)


def old_star(path: Path, image: str, pixel_size: float) -> None:
    """A STAR file of one table, with shifts in pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shifts = {"rlnOriginX": 0.5, "rlnOriginY": -0.25, "rlnOriginXAngst": None, "rlnOriginYAngst": None}
    columns = OLD | shifts | {"rlnDetectorPixelSize": pixel_size, "rlnOpticsGroup": None}
    write_star_text(path, rows(COUNT, image, **columns), optics=None, block="")


def new_star(path: Path, image: str, box: int, pixel_size: float) -> None:
    """A STAR file of RELION 3.1 and later."""
    optics = OPTICS | {"rlnImagePixelSize": [str(pixel_size)], "rlnImageSize": [str(box)]}
    write_star_text(path, rows(COUNT, image), optics)


def make_10076(folder: Path) -> None:
    """cryoSPARC's refinement as it is published with cryoDRGN; the stack without the job's folders."""
    stack(folder / "data/L17Combine_weight_local.mrcs", 320, 1.31)
    fields = layout(COUNT, "J3/imported/L17Combine_weight_local.mrcs", 320, 1.31)
    fields["blob/idx"] = np.arange(COUNT, dtype="u4")
    write_cs(folder / "cryosparc_P4_J33_004_particles.cs", fields)


def make_10180(folder: Path) -> None:
    """RELION's consensus refinement, in a folder of its own beside the particles."""
    stack(folder / "data/Particles/stack.mrcs", 320, 1.7)
    old_star(folder / "data/Example/consensus_data.star", "Particles/stack.mrcs", 1.7)


def make_10492(folder: Path) -> None:
    """Joined star files, and the model."""
    stack(folder / "data/Extract/job001/stack.mrcs", 256, 1.5)
    new_star(folder / "both.star", "Extract/job001/stack.mrcs", 256, 1.5)
    (folder / "6ZWV.cif.gz").touch()


def make_10059(folder: Path) -> None:
    """The deposit's particles."""
    stack(folder / "data/particles/stack.mrcs", 192, 1.2156)
    old_star(folder / "data/particles/particles.star", "stack.mrcs", 1.2156)


def make_10346(folder: Path) -> None:
    """A refinement of one's own, the fitted model and the two masks."""
    stack(folder / "Extract/job001/stack.mrcs", 200, 1.5)
    new_star(folder / "run_data.star", "Extract/job001/stack.mrcs", 200, 1.5)
    for name in ("6ORV_fitted.cif", "extracellular_mask.mrc", "transmembrane_mask.mrc"):
        (folder / name).touch()


MADE = {
    "empiar-10076": make_10076,
    "empiar-10180": make_10180,
    "empiar-10492": make_10492,
    "empiar-10059": make_10059,
    "empiar-10346": make_10346,
}


def config_of(name: str) -> Config:
    """A data set's config."""
    return Config.model_validate(yaml.safe_load(SETS[name].read_text()))


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_published_set_has_a_stub():
    assert set(SETS) == set(MADE)


@pytest.mark.parametrize("name", SETS)
def test_what_the_papers_say(name):
    """Numbers of Gaussians, resolutions in Å and copies: Chen & Ludtke 2021, Chen, Toader & Lederman 2023, Results."""
    config = config_of(name)
    (analysis,) = config.analyses.values()
    vary = analysis.heterogeneity
    found = (config.seeds.count or config.neutral.most, config.neutral.resolution, config.particles.expand)
    assert (
        found
        == {
            "empiar-10076": (3082, 8, "C1"),
            "empiar-10180": (2048, 13, "C1"),
            "empiar-10492": (2188, 7, "C3"),
            "empiar-10059": (8000, 3, "C4"),
            "empiar-10346": (2100, 4, "C1"),
        }[name]
    )
    assert config.dataset == name
    assert vary.latent_dim == 4
    assert list(problems(vary.model_dump() | {"region": vary.region})) == []


def test_what_each_paper_lets_vary():
    vary = {name: next(iter(config_of(name).analyses.values())).heterogeneity for name in SETS}
    ribosome, spliceosome = vary["empiar-10076"], vary["empiar-10180"]
    assert (ribosome.position, ribosome.amplitude, ribosome.width) == (False, True, False)
    assert (spliceosome.position, spliceosome.amplitude, spliceosome.width) == (True, True, True)
    assert vary["empiar-10492"].selection == "A", "one asymmetric unit"
    channel, receptor = vary["empiar-10059"], vary["empiar-10346"]
    assert (channel.decoder, channel.anchors) == ("hierarchical", 32)
    assert [(each.resolution, each.transition) for each in channel.rounds] == [(15, "fixed"), (None, "trainable")]
    assert [(each.kind, each.resolution) for each in receptor.decoders] == [("rigid", 15), ("dense", None)]
    assert [each.decoders for each in receptor.rounds] == [("extracellular",), None]


@pytest.mark.parametrize("name", SETS)
def test_deposit_is_planned_whole(name, here):
    MADE[name](here / name)
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "2", "--snakefile", ROOT / "Snakefile"]
    done = subprocess.run([*command, "--configfile", SETS[name]], cwd=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    planned = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, flags=re.MULTILINE))
    assert (planned["particles"], planned["report"]) == ("3", "1")
    assert int(planned["heterogeneity"]) >= 3, "of each split, and perhaps of null runs"


@pytest.mark.parametrize("name", SETS)
def test_deposit_is_read(name, here):
    """Image paths are found, the working box holds the resolution, every particle has its copies."""
    MADE[name](here / name)
    config = config_of(name)
    (analysis,) = config.analyses.values()
    given, star = config.particles, config.particles.star
    assert star is not None
    options = Options.model_validate(given.model_dump(include=set(Options.model_fields)))
    particles(star=star, out=here / "out", split="full", datadir=given.datadir, options=options)
    report = json.loads((here / "out/report.json").read_text())
    copies = {"C1": 1, "C3": 3, "C4": 4}[given.expand]
    assert (report["particles"], report["rows"]) == (COUNT, copies * COUNT)
    assert report["box"] == (given.box or report["image_size"])
    finest = min(filter(None, (config.neutral.resolution, analysis.heterogeneity.resolution)))
    assert 2 * report["pixel_size"] <= finest, "Nyquist"
    metadata = interpret(read_refinement(here / "out/particles.star").star)
    assert len(metadata.angles) == copies * COUNT
