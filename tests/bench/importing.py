"""Speed and memory of the stage particles, beside plain numpy that reads the same files.

    PYTHONPATH=workflow python tests/bench/importing.py [--images 8000] [--size 256] [--box 96] [--stacks 8]

Each measurement is a process of its own. `cold`: the stacks' pages are dropped from the page cache first, as a user's
files are never in it. `contrast white` streams only; `auto` adds the reconstruction that judges the contrast, whose
time does not depend on how many particles there are.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BLOCK = 128  # images that numpy reads at a time


def make(folder: Path, images: int, size: int, stacks: int) -> None:
    """Stacks of noise and their STAR file."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from made_particles import OPTICS, rows, write_mrc, write_star_text

    source = np.random.default_rng(0)
    each = -(-images // stacks)
    for stack in range(stacks):
        write_mrc(folder / f"{stack}.mrcs", source.standard_normal((each, size, size), np.float32), 1.1)
    names = [f"{number + 1}@{folder}/{stack}.mrcs" for stack in range(stacks) for number in range(each)][:images]
    angles = source.uniform(0, 180, (images, 3)).round(3)
    columns = {f"rlnAngle{name}": angles[:, i].tolist() for i, name in enumerate(("Rot", "Tilt", "Psi"))}
    optics = OPTICS | {"rlnImagePixelSize": ["1.1"], "rlnImageSize": [str(size)]}
    write_star_text(folder / "in.star", rows(images, rlnImageName=names, **columns), optics)


def drop_from_cache(folder: Path) -> None:
    """The next read of the stacks comes from the disk."""
    for path in folder.glob("*.mrcs"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_by_numpy(folder: Path, size: int) -> None:
    """All pixels, by blocks."""
    for path in sorted(folder.glob("*.mrcs")):
        with path.open("rb") as file:
            file.seek(1024)
            while len(np.fromfile(file, np.float32, BLOCK * size * size)):
                pass


def measured(what: str, folder: Path, size: int, box: int) -> dict[str, float]:
    """Seconds, processor seconds and peak memory in MB of one of the measurements, in this process."""
    if what == "numpy":
        start, busy = time.perf_counter(), time.process_time()
        read_by_numpy(folder, size)
    else:
        from gaussemble.prepare.particles import Options, particles

        options = Options(box=box, contrast=what)  # type: ignore[arg-type]
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
        start, busy = time.perf_counter(), time.process_time()
        particles(star=folder / "in.star", out=folder / "out", split="full", options=options)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    return {"seconds": seconds, "busy": busy, "memory": peak_memory()}


def peak_memory() -> float:
    """MB; not getrusage's, in which a process begins with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def in_process(what: str, folder: Path, options: argparse.Namespace, cold: bool) -> dict[str, float]:
    """The same in a new process."""
    if cold:
        drop_from_cache(folder)
    command = [sys.executable, __file__, "--measure", what, "--folder", str(folder)]
    command += ["--size", str(options.size), "--box", str(options.box)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(folder: Path, options: argparse.Namespace) -> None:
    """Print a table: the best of the repeats, by turns."""
    volume = options.images * options.size**2 * 4 / 1e6
    print(
        f"{options.images} images of {options.size} px in {options.stacks} stacks, {volume:.0f} MB; box {options.box}"
    )
    for state in ("cold", "warm"):
        best: dict[str, dict[str, float]] = {}
        for _ in range(options.repeats):
            for what in ("numpy", "white", "auto"):
                found = in_process(what, folder, options, state == "cold")
                if what not in best or found["seconds"] < best[what]["seconds"]:
                    best[what] = found
        for what, found in best.items():
            label = "numpy" if what == "numpy" else f"contrast {what}"
            ratio = best["numpy"]["seconds"] / found["seconds"]
            print(
                f"{state}  {label:15} {found['seconds']:6.2f} s  {volume / found['seconds']:6.0f} MB/s  "
                f"ratio {ratio:.2f}  processor {found['busy']:5.2f} s  peak {found['memory']:.0f} MB"
            )


def main() -> None:
    """Measure, or make the data and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 8000), ("size", 256), ("box", 96), ("stacks", 8), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--measure", choices=("numpy", "white", "auto"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="Where the stacks are made; a temporary folder if none.")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(options.measure, options.folder, options.size, options.box)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        make(Path(folder), options.images, options.size, options.stacks)
        compare(Path(folder), options)


if __name__ == "__main__":
    main()
