"""What the published data sets of config/datasets cost: seconds a particle in the stage heterogeneity, and disk.

    PYTHONPATH=workflow python tests/bench/presets.py [--only empiar-10076]

Processor seconds of one core, on noise, which takes as long as particles do, with each preset's Gaussians, band and
networks: a run of an epoch and one of two, beside one of a few particles for what does not depend on their number.
Masks, selections and rounds are left out: all Gaussians vary, in the whole band, as costs most. Hours are these figures
times the particles and the preset's epochs; they are estimates.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import yaml

from gaussemble.config import Config
from gaussemble.fit.heterogeneity import Options, heterogeneity
from gaussemble.io.files import write_csv
from gaussemble.io.mixtures import write_mixture
from gaussemble.io.mrc import write_map
from gaussemble.io.store import write_store
from gaussemble.physics.rotations import random_rotations
from gaussemble.quantities import ContrastTransfer, Map, Mixture, Particles

DATASETS = Path(__file__).resolve().parents[2] / "config/datasets"
SOME, FEW = 144, 16  # particles


class DataSet(NamedTuple):
    """What its file says, or is assumed where nothing is published."""

    particles: int
    copies: int
    box: int  # of the stacks
    field: float  # of view, Å
    gaussians: int


# particles and boxes: see the presets; 10492 and 10346: box and field of view are assumed
SETS = {
    "empiar-10076": DataSet(131_899, 1, 320, 320 * 1.31, 3082),
    "empiar-10180": DataSet(327_490, 1, 320, 320 * 1.7, 2048),
    "empiar-10492": DataSet(55_159, 3, 384, 400.0, 2188),
    "empiar-10059": DataSet(200_000, 4, 192, 192 * 1.2156, 8000),
    "empiar-10346": DataSet(500_000, 1, 256, 256.0, 2100),
}


def preset(name: str) -> Config:
    """The config of a data set."""
    return Config.model_validate(yaml.safe_load((DATASETS / f"{name}.yaml").read_text()))


def write_inputs(folder: Path, name: str, count: int) -> None:
    """Noise particles in the preset's box, and what the stages before would have left of a cloud of Gaussians."""
    given, box = SETS[name], preset(name).particles.box or SETS[name].box
    pixel, generator = given.field / box, torch.Generator().manual_seed(0)

    def same(value: float) -> torch.Tensor:
        return torch.full((count,), value)

    defocus = 12000 + 10000 * torch.rand(count, generator=generator)
    ctf = ContrastTransfer(
        defocus, defocus - 400, same(0.6), same(300e3), same(2.7e7), same(0.1), same(0.0), same(0.0), same(1.0)
    )
    shift = 4 * torch.randn(count, 2, generator=generator)
    rotation = random_rotations(count, generator).float()
    particles = Particles(torch.arange(count), rotation, shift, ctf, same(0).long())
    write_store(folder / "particles", particles, torch.randn(count, box, box, generator=generator), pixel)
    density = Map(torch.rand(box, box, box, generator=generator), pixel)
    write_map(folder / "consensus/map.mrc", density)
    rings = np.arange(box // 2 + 1)
    noise = {"optics_group": 0, "ring": rings, "frequency": rings / given.field, "power": float(box**2)}
    write_csv(folder / "consensus/noise.csv", pd.DataFrame(noise))
    center = given.field / 8 * torch.randn(given.gaussians, 3, generator=generator)
    amplitude = 0.5 + torch.rand(given.gaussians, generator=generator)
    width = torch.full((given.gaussians,), (given.field / 2) / given.gaussians ** (1 / 3) / 2)
    write_mixture(folder / "mixture.npz", Mixture(center, amplitude, width), density)


def options(name: str, epochs: int) -> Options:
    """The preset's first analysis, everything free and in the whole band."""
    (analysis,) = preset(name).analyses.values()
    free = {"decoders": (), "rounds": (), "selection": None, "epochs": epochs, "coarse_epochs": 0.0, "device": "cpu"}
    return Options.model_validate(analysis.heterogeneity.model_dump(exclude={"region"}) | free)


def seconds(name: str, count: int, epochs: int) -> float:
    """Processor seconds of the stage."""
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder), name, count)
        start = time.process_time()
        heterogeneity(
            particles=Path(folder, "particles"), consensus=Path(folder, "consensus"),
            neutral=Path(folder, "mixture.npz"), out=Path(folder, "out"), options=options(name, epochs),
        )  # fmt: skip
        return time.process_time() - start


def measured(name: str) -> dict[str, float]:
    """Seconds a particle and epoch, seconds a particle besides, and peak MB of this process."""
    torch.set_num_threads(1)
    seconds(name, FEW, 1)  # compiles
    few, one, two = seconds(name, FEW, 1), seconds(name, SOME, 1), seconds(name, SOME, 2)
    epoch = (two - one) / SOME
    besides = max(0.0, (one - few) / (SOME - FEW) - epoch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"epoch": epoch, "besides": besides, "megabytes": peak}


def child(name: str) -> dict[str, float]:
    """The same in a process of its own, on one core."""
    command = [sys.executable, __file__, "--run", name]
    single = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=single)
    return json.loads(done.stdout.splitlines()[-1])


def epochs_of(name: str) -> float:
    """Passes over the particles that the preset asks for."""
    (analysis,) = preset(name).analyses.values()
    return sum(each.epochs for each in analysis.heterogeneity.rounds) or analysis.heterogeneity.epochs


def gigabytes(name: str) -> tuple[float, float, float]:
    """Of the stacks in float32, of the image stores (full and both halves), of a training's temporary file."""
    given, config = SETS[name], preset(name)
    box, (analysis,) = config.particles.box or given.box, config.analyses.values()
    band = min(box, 2 * (int(given.field / (analysis.heterogeneity.resolution or 1)) + 2))
    rows = given.particles * given.copies
    return (
        given.particles * given.box**2 * 4 / 1e9,
        2 * given.particles * box**2 * 4 / 1e9,
        rows * (band * (band // 2 + 1) * 8 + 64 * 5 * 4) / 1e9,
    )


def main() -> None:
    """Print the table, or one run's figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=SETS)
    parser.add_argument("--run", choices=SETS)
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(measured(arguments.run)))
        return
    print("| | rows | Gaussians | ms an epoch | ms besides | core hours | MB | GB: stacks, stores, temporary |")
    print("|---|---|---|---|---|---|---|---|")
    for name in [arguments.only] if arguments.only else SETS:
        found, rows = child(name), SETS[name].particles * SETS[name].copies
        hours = rows * (found["epoch"] * epochs_of(name) + found["besides"]) / 3600
        disk = ", ".join(f"{each:.0f}" for each in gigabytes(name))
        print(
            f"| {name} | {rows} | {SETS[name].gaussians} | {1e3 * found['epoch']:.2f} | {1e3 * found['besides']:.1f} | "
            f"{hours:.1f} | {found['megabytes']:.0f} | {disk} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
