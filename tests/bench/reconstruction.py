"""Speed, memory and quality of our reconstruction beside relion_reconstruct's, from the same noisy images.

    PYTHONPATH=workflow python tests/bench/reconstruction.py --star images.star --map truth.mrc --sym D2

The poses, shifts and CTFs of the STAR file are real, the images projections of the map by relion_project with white
noise. The defaults of `--star` and `--map` are beta-galactosidase's in the shared data (6,496 images of 100 pixels).
Every measurement is a process of its own, Python's start and numba's compilation included; the best of the repeats
counts. RELION's program has no threads (it takes --j 2 with a warning): its half-maps run side by side.
"""

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import starfile

SHARED = Path(__file__).parents[3] / "shared" / "data"
PATHS = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "workflow")}
COLUMNS = ["ImageName", "AngleRot", "AngleTilt", "AnglePsi", "DefocusU", "DefocusV", "DefocusAngle", "RandomSubset"]


def make(folder: Path, options: argparse.Namespace) -> None:
    """noisy.star and noisy.mrcs, and the store of the same images."""
    from gaussemble.io.mrc import read_map
    from gaussemble.prepare.particles import Options, particles

    content = options.star.read_bytes()
    (folder / "given.star").write_bytes(gzip.decompress(content) if options.star.suffix == ".gz" else content)
    given = starfile.read(folder / "given.star")
    table = given[[f"rln{name}" for name in COLUMNS]].iloc[: options.images]
    shifts = {f"rlnOrigin{axis}Angst": given[f"rlnOrigin{axis}"] * options.pixel_size for axis in "XY"}
    optics = {
        "rlnOpticsGroup": 1, "rlnOpticsGroupName": "one", "rlnVoltage": 300.0, "rlnSphericalAberration": 2.0,
        "rlnAmplitudeContrast": 0.1, "rlnImagePixelSize": options.pixel_size, "rlnImageDimensionality": 2,
        "rlnImageSize": read_map(options.map, pixel_size=options.pixel_size).box,
    }  # fmt: skip
    blocks = {"optics": pd.DataFrame([optics]), "particles": table.assign(rlnOpticsGroup=1, **shifts)}
    starfile.write(blocks, folder / "clean.star")
    project = f"relion_project --i {options.map} --o noisy --ang clean.star --ctf --angpix {options.pixel_size}"
    noise = f"--add_noise --white_noise {options.noise}"
    subprocess.run([*project.split(), *noise.split()], cwd=folder, check=True, capture_output=True)
    as_they_are = Options(contrast="white", normalise=False, halves="random_subset")
    particles(star=folder / "noisy.star", out=folder / "store", split="full", datadir=folder, options=as_they_are)


def run_ours(what: str, folder: Path, symmetry: str) -> None:
    """One of our measurements, in this process: `map`, `halves` (and the map), or the stage `consensus`."""
    import torch

    from gaussemble.io.mrc import write_map
    from gaussemble.io.store import open_store
    from gaussemble.physics.backprojection import divide
    from gaussemble.physics.symmetric_sums import symmetrised
    from gaussemble.prepare.consensus import Options, consensus
    from gaussemble.prepare.slices import halves, sum_slices
    from gaussemble.quantities import Map

    if what == "consensus":
        consensus(particles=folder / "store", out=folder / "ours", options=Options(symmetry=symmetry))
        return
    store = open_store(folder / "store")
    pairs = halves(store, torch.arange(len(store)))
    if what == "map":
        pairs[:, 1] = 0
    volumes = int(pairs[:, 1].max()) + 1
    sums = symmetrised(sum_slices(store, pairs, volumes, 2), symmetry)
    for volume in range(volumes if what == "halves" else 0):
        write_map(folder / f"ours_half{volume + 1}.mrc", Map(divide(sums, volume), store.pixel_size))
    both = sums.merged(list(range(volumes))) if volumes > 1 else sums
    write_map(folder / "ours.mrc", Map(divide(both), store.pixel_size))


def timed(commands: list[list[str]], folder: Path) -> tuple[float, float, float]:
    """Of commands started together: seconds until all have ended, their processor seconds, their peak memories (MB)."""
    start = time.perf_counter()
    with (folder / "log.txt").open("a") as log:
        started = [subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=PATHS) for command in commands]
        memory = processor = 0.0
        for process in started:
            _, status, used = os.wait4(process.pid, 0)
            if status:
                raise RuntimeError((folder / "log.txt").read_text()[-2000:])
            memory += used.ru_maxrss / 1024
            processor += used.ru_utime + used.ru_stime
    return time.perf_counter() - start, processor, memory


def relion(output: str, symmetry: str, *more: str) -> list[str]:
    return ["relion_reconstruct", "--i", "noisy.star", "--o", output, "--ctf", "--sym", symmetry, "--j", "2", *more]


def measurements(folder: Path, symmetry: str) -> dict[str, list[list[list[str]]]]:
    """Of each measurement the steps, one after the other, each of commands that run side by side."""
    own = [sys.executable, __file__, "--folder", str(folder), "--sym", symmetry, "--measure"]
    subsets = [relion(f"relion_half{half}.mrc", symmetry, "--subset", str(half)) for half in (1, 2)]
    return {
        "one map, RELION": [[relion("relion.mrc", symmetry)]],
        "one map, ours": [[[*own, "map"]]],
        "two half-maps and the map, RELION": [subsets, [relion("relion.mrc", symmetry)]],
        "two half-maps and the map, ours": [[[*own, "halves"]]],
        "stage consensus (mask, FSC, noise)": [[[*own, "consensus"]]],
    }


def compare(folder: Path, options: argparse.Namespace) -> None:
    """Print times and memory, the best of the repeats, taken by turns."""
    best: dict[str, tuple[float, float, float]] = {}
    for _ in range(options.repeats):
        for name, steps in measurements(folder, options.sym).items():
            seconds, processor, memory = zip(*(timed(commands, folder) for commands in steps), strict=True)
            best[name] = min(best.get(name, (np.inf, 0.0, 0.0)), (sum(seconds), sum(processor), max(memory)))
    for name, (seconds, processor, memory) in best.items():
        reference = best.get(name.replace("ours", "RELION"), best[name])
        ratio = f"  {reference[0] / seconds:.1f} times as fast" if "ours" in name else ""
        print(f"{name:36} {seconds:6.2f} s, of processors {processor:6.2f} s  peak {memory:4.0f} MB{ratio}")


def qualities(folder: Path, options: argparse.Namespace) -> None:
    """Print how well both agree with the truth, and with each other."""
    import torch

    from gaussemble.io.mrc import read_map
    from gaussemble.physics.backprojection import in_sphere
    from gaussemble.physics.masks import masked_correlation, soft_mask
    from gaussemble.physics.rings import resolution, ring_frequencies, shell_correlation
    from gaussemble.prepare.checks import correlation

    truth = read_map(options.map, pixel_size=options.pixel_size).voxels
    maps = {name: read_map(folder / f"{name}.mrc").voxels for name in ("relion", "ours")}
    mask, frequency = soft_mask(truth, options.pixel_size), ring_frequencies(truth.shape[-1], options.pixel_size)
    print(f"correlation of ours with RELION's: {correlation(maps['ours'], maps['relion']):.4f}")
    for name, voxels in maps.items():
        curves = {"box": shell_correlation(in_sphere(voxels), truth), "mask": masked_correlation(voxels, truth, mask)}
        for where, curve in curves.items():
            inside = correlation(voxels * mask, truth * mask) if where == "mask" else correlation(voxels, truth)
            limits = ", ".join(f"{resolution(curve, frequency, at):.2f} Å at {at}" for at in (0.5, 0.143))
            rings = " ".join(f"{value:.3f}" for value in curve[4::4].tolist())
            print(f"{name:7} {where:4}  correlation with the truth {inside:.4f}  FSC {limits}")
            print(f"              mean FSC {float(curve[1:-1].mean()):.4f}, every fourth ring from 4: {rings}")
    pair = [[read_map(folder / f"{name}_half{half}.mrc").voxels for half in (1, 2)] for name in ("relion", "ours")]
    for name, (first, second) in zip(("relion", "ours"), pair, strict=True):
        curve = masked_correlation(first, second, mask)
        print(f"{name:7} half-maps: {resolution(curve, frequency, 0.143):.2f} Å at 0.143 in the mask")
    print(f"threads of torch: {torch.get_num_threads()}")


def main() -> None:
    """Make the data and compare, or be one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--star", type=Path, default=SHARED / "particles/betagal/images.star.gz")
    parser.add_argument("--map", type=Path, default=SHARED / "maps/ngl_betaGal.mrc")
    parser.add_argument("--sym", default="D2")
    parser.add_argument("--pixel-size", type=float, default=3.54)
    parser.add_argument("--images", type=int, default=6496)
    parser.add_argument("--noise", type=float, default=1.1, help="Standard deviation; the signal's is about 0.19.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", choices=("map", "halves", "consensus"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        run_ours(options.measure, options.folder, options.sym)
        return
    if shutil.which("relion_reconstruct") is None or not options.star.is_file():
        print(f"reconstruction: skipped, for it compares with RELION's programs on {options.star}; one is not here")
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options)
        print(json.dumps({name: str(value) for name, value in vars(options).items() if value is not None}))
        compare(Path(folder), options)
        qualities(Path(folder), options)


if __name__ == "__main__":
    main()
