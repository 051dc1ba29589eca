"""As many particles as EMPIAR-10076's analysis had, in small images: seconds and peak memory of every stage.

    PYTHONPATH=workflow python tests/bench/scale.py [--particles 124900] [--epochs 2]

Simulated particles of 32 pixels of 8 Å go through particles, consensus, seeds, neutral, heterogeneity and latent, each
a process of its own, as in the workflow. What it shows is that memory does not grow with the particles beyond what
their tables take; small images, few epochs and few samples of the posteriors keep it short.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "resources/demo_molecule.cif"
BOX, PIXEL, SNR, GAUSSIANS, SEED = 32, 8.0, 0.5, 128, 0
BOUNDS = {  # MB: libraries and what a stage needs by itself, and bytes a particle on top
    "simulate": (900, 13_000),  # its images are in memory
    "particles": (900, 2500),
    "consensus": (750, 4600),  # what it has read of the mapped image file counts: 4.1 kB a particle of 32 px
    "seeds": (700, 0),
    "neutral": (900, 0),
    "heterogeneity": (1100, 3000),
    "latent": (800, 6000),
}


def commands(folder: Path, particles: int, epochs: int) -> dict[str, list[object]]:
    """What each stage is called with."""
    made = {name: folder / name for name in BOUNDS}
    return {
        "simulate": [
            "--model", MODEL, "--out", made["simulate"], "--particles", particles, "--box", BOX, "--pixel-size", PIXEL,
            "--snr", SNR, "--states", 9, "--seed", SEED,
        ],
        "particles": ["--star", made["simulate"] / "particles.star", "--out", made["particles"], "--split", "full"],
        "consensus": ["--particles", made["particles"], "--out", made["consensus"]],
        "seeds": [
            "--map", made["consensus"] / "map.mrc", "--mask", made["consensus"] / "mask.mrc", "--model", MODEL,
            "--count", GAUSSIANS, "--out", made["seeds"],
        ],
        "neutral": ["--consensus", made["consensus"], "--seeds", made["seeds"] / "seeds.npz", "--out", made["neutral"]],
        "heterogeneity": [
            "--particles", made["particles"], "--consensus", made["consensus"], "--neutral",
            made["neutral"] / "mixture.npz", "--out", made["heterogeneity"], "--epochs", epochs, "--device", "cpu",
            "--em-rounds", 1,
        ],
        "latent": [
            "--latent", made["heterogeneity"] / "latent.csv", "--posteriors", made["heterogeneity"] / "posterior.npz",
            "--out", made["latent"],
        ],
    }  # fmt: skip


def run(stage: str, arguments: list[object], log: Path) -> tuple[float, float, float]:
    """Seconds, processor seconds, and peak MB of a stage; exits with its log where it fails."""
    command = [sys.executable, "-m", "gaussemble", stage, *map(str, arguments)]
    start = time.perf_counter()
    with log.open("w") as said:
        process = subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")}, stdout=said, stderr=said
        )
        _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"{stage} failed:\n{log.read_text()[-2000:]}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def size(folder: Path) -> float:
    """MB of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    """Print a row as each stage ends, and exit with 1 where one took more memory than it may."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--particles", type=int, default=124_900)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    print(f"{arguments.particles} particles of {BOX} px, {GAUSSIANS} Gaussians, {arguments.epochs} epochs\n")
    print("| stage | seconds | processor seconds | peak memory (MB) | bound (MB) | files (MB) |")
    print("|---|---|---|---|---|---|")
    beyond = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stage, called in commands(folder, arguments.particles, arguments.epochs).items():
            seconds, busy, memory = run(stage, called, folder / f"{stage}.log")
            base, each = BOUNDS[stage]
            bound = base + each * arguments.particles / 1e6
            beyond += [stage] * (memory > bound)
            row = f"{seconds:.0f} | {busy:.0f} | {memory:.0f} | {bound:.0f} | {size(folder / stage):.0f}"
            print(f"| {stage} | {row} |", flush=True)
    if beyond:
        sys.exit(f"more memory than the bound: {', '.join(beyond)}")


if __name__ == "__main__":
    main()
