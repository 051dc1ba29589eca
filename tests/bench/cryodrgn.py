"""cryoDRGN (Zhong et al., Nature Methods 2021) on a set of the science benchmark, scored as our own runs are.

    make bench BENCH=cryodrgn CRYODRGN=path/to/cryodrgn

It is not among our requirements: install it in an environment of its own (pip install cryodrgn) and name its program.
Poses and CTF are the true ones, as for ours. Printed are processor seconds of the training and, for each epoch that is
asked for, R² of the motion or the adjusted Rand index, and the mean area under the FSC of maps that are decoded at the
states' latents, by the rules of `science/scoring.py`.
"""

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "science"))

from ensembles import SETS
from scoring import STATES, mean_area, typical
from simulated import PIXEL, Simulation, simulate, state_maps
from sklearn.mixture import GaussianMixture
from torch import stack

from gaussemble.analysis import recovery
from gaussemble.analysis.clustering import find_clusters
from gaussemble.io.cryodrgn import read_pickle
from gaussemble.io.mrc import read_map
from gaussemble.quantities import Mixture

ROOT = Path(".bench/science")


def call(program: Path, *arguments: str | Path | float) -> float:
    """Run one of its commands; processor seconds. Its own words stand in .bench/science/cryodrgn.txt."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (ROOT / "cryodrgn.txt").open("a") as log:
        subprocess.run([program, *map(str, arguments)], check=True, stdout=log, stderr=log)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def train(program: Path, simulation: Simulation, out: Path, epochs: int, settings: list[str]) -> float:
    """Poses and CTF from the STAR file, then training; processor seconds of the training."""
    out.mkdir(parents=True, exist_ok=True)
    star = simulation.folder / "particles.star"
    call(program, "parse_pose_star", star, "-o", out / "poses.pkl")
    call(program, "parse_ctf_star", star, "-o", out / "ctf.pkl")
    files = ["--poses", out / "poses.pkl", "--ctf", out / "ctf.pkl", "-o", out]
    fixed = ["-n", epochs, "--no-analysis", "--no-amp", "--seed", 0]  # bfloat16 is slow on a CPU
    return call(program, "train_vae", star, *files, *fixed, *settings)


def scores(program: Path, simulation: Simulation, out: Path, epoch: int) -> dict[str, float]:
    """Of the latents and the decoder after an epoch (from 1)."""
    latent = np.asarray(read_pickle(out / f"z.{epoch}.pkl"), dtype=np.float64)
    ensemble, state = simulation.ensemble, simulation.state
    found: dict[str, float] = {}
    if ensemble.targets is not None:
        truth = ensemble.targets[state]
        found["r2"] = recovery.variance_explained(truth, recovery.predicted_by_neighbours(latent, truth))
    if ensemble.label is not None:
        label = ensemble.label[state]
        classes = len(np.unique(label))
        found["ari_kmeans"] = recovery.rand_index(label, find_clusters(latent, classes).number)
        mixture = GaussianMixture(classes, n_init=3, random_state=0).fit_predict(latent)
        found["ari_mixture"] = recovery.rand_index(label, mixture)
    return found | {"auc": decoded_area(program, simulation, out, epoch, latent)}


def decoded_area(program: Path, simulation: Simulation, out: Path, epoch: int, latent: np.ndarray) -> float:
    """Mean area under the FSC against the true maps of at most `STATES` states."""
    ensemble = simulation.ensemble
    states = np.unique(np.linspace(0, len(ensemble) - 1, STATES).round().astype(int))
    np.savetxt(out / "z.txt", np.stack([typical(latent, simulation.state == one) for one in states]))
    volumes = out / "volumes"
    call(
        program, "eval_vol", out / f"weights.{epoch}.pkl", "-c", out / "config.yaml", "-o", volumes,
        "--zfile", out / "z.txt", "--Apix", PIXEL, "--vol-start-index", 0,
    )  # fmt: skip
    maps = stack([read_map(path).voxels for path in sorted(volumes.glob("vol_*.mrc"))[: len(states)]])
    whole = simulation.states
    truth = state_maps(Mixture(whole.center[states], whole.amplitude[states], whole.width[states]))
    return mean_area(maps, truth)


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", type=Path, default=os.environ.get("CRYODRGN") or "cryodrgn")
    parser.add_argument("--set", nargs="*", default=["composition", "swing"], choices=list(SETS))
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--particles", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--score", type=int, nargs="*", help="epochs that are scored; the last one by default")
    parser.add_argument(
        "settings",
        nargs="*",
        default=["--zdim", "4", "--enc-dim", "256", "--dec-dim", "128", "-b", "32", "--lr", "5e-4"],
        help="of train_vae",
    )
    arguments = parser.parse_args()
    for name in arguments.set:
        folder = ROOT / f"{name}_demo_{arguments.snr:g}_{arguments.particles}"
        simulation = simulate(SETS[name](None), folder / "simulated", arguments.particles, arguments.snr)
        out = folder / "cryodrgn"
        seconds = train(Path(arguments.program), simulation, out, arguments.epochs, arguments.settings)
        print(
            f"{name}: {seconds:.0f} processor seconds for {arguments.epochs} epochs of {' '.join(arguments.settings)}",
            flush=True,
        )
        for epoch in arguments.score or [arguments.epochs]:
            found = scores(Path(arguments.program), simulation, out, epoch)
            print("  ".join([f"epoch {epoch}", *(f"{key} {value:.3f}" for key, value in found.items())]), flush=True)


if __name__ == "__main__":
    main()
