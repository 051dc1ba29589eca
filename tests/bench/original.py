"""Maps of original images: what stage volumes needs, and finds, where particles of 256 px were worked on in 64.

    make bench BENCH=original

Simulated particles (half of them without a part) go through the stages in a box of 64 px; volumes then makes the maps
of two clusters and of a trajectory from the images in the working box and from the original ones. Seconds, peak memory,
and FSC with the mean of the particles' true structures, inside the mask, on both sides of the working box's Nyquist
limit, which only original images pass.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from gaussemble.io.files import read_csv, read_json
from gaussemble.io.mrc import read_map
from gaussemble.io.states import read_states
from gaussemble.physics.fourier import resample_3d
from gaussemble.physics.masks import masked_correlation
from gaussemble.physics.rings import resolution, ring_frequencies
from gaussemble.prepare.simulate import mean_map

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "resources" / "demo_molecule.cif"
BOX, FIELD = 64, 256.0  # working box, and the field of view in Å


def stage(name: str, out: Path, **options: object) -> tuple[float, float, float]:
    """Run a stage as a process of its own; its seconds, processor seconds and peak memory in MB."""
    flags = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    flags += ["--no-umap"] * (name == "latent")
    command = [sys.executable, "-m", "gaussemble", name, *flags, "--out", str(out)]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            log.seek(0)
            raise RuntimeError(log.read()[-2000:])
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def prepare(folder: Path, given: argparse.Namespace) -> Path:
    """The stages up to latent, in the working box; returns the folder of the analysis."""
    analysis, simulated = folder / "main", folder / "simulated"
    if (analysis / "latent" / "clusters.csv").is_file():
        return analysis
    made = {"particles": given.particles, "box": given.box, "pixel_size": FIELD / given.box, "snr": given.snr}
    stage("simulate", simulated, model=MODEL, swing=0, width=given.width, **made)
    store, own, neutral = folder / "particles", folder / "consensus", folder / "neutral" / "mixture.npz"
    stage("particles", store, star=simulated / "particles.star", map=simulated / "map.mrc", split="full", box=BOX)
    stage("consensus", own, particles=store)
    stage("seeds", folder / "seeds", map=own / "map.mrc", mask=own / "mask.mrc", count=128)
    stage("neutral", neutral.parent, consensus=own, seeds=folder / "seeds" / "seeds.npz")
    fitted = {"particles": store, "consensus": own, "neutral": neutral, "resolution": 16, "latent_dim": 2}
    stage("heterogeneity", analysis / "heterogeneity", epochs=15, batch=16, **fitted)
    table = {"latent": analysis / "heterogeneity/latent.csv", "posteriors": analysis / "heterogeneity/posterior.npz"}
    stage("latent", analysis / "latent", clusters=2, points=3, **table)
    return analysis


def against_truth(folder: Path, analysis: Path, volumes: Path, cluster: int) -> dict[str, float]:
    """FSC of a cluster's map with the mean of its particles' true structures: where it is 0.5, and means."""
    found, mask = (read_map(volumes / name) for name in (f"cluster_{cluster}/unfiltered.mrc", "mask.mrc"))
    clusters = read_csv(analysis / "latent" / "clusters.csv", ["particle", "cluster"])
    truth = read_csv(folder / "simulated" / "truth.csv", ["particle", "swing", "occupied"]).set_index("particle")
    own = truth.loc[clusters["particle"][clusters["cluster"] == cluster]]
    states = read_states(folder / "simulated" / "states.npz")
    state = states.nearest(*(torch.tensor(own[name].to_numpy(float)) for name in ("swing", "occupied")))
    whole = mean_map(states, state, states.box, states.pixel_size).voxels  # fine enough for the Gaussians' widths
    true = resample_3d(whole, states.pixel_size, found.box, found.pixel_size)
    curve, frequency = (
        masked_correlation(found.voxels, true, mask.voxels),
        ring_frequencies(found.box, found.pixel_size),
    )
    nyquist = BOX / (2 * FIELD)
    beyond = curve[(frequency > nyquist) & (frequency < 2 * nyquist)]
    return {
        "particles": len(own),
        "with the part": float(own["occupied"].mean()),
        "FSC to 8 Å": float(curve[1:][frequency[1:] <= nyquist].mean()),
        "FSC 8 to 4 Å": float(beyond.mean()) if len(beyond) else np.nan,
        "0.5 at (Å)": resolution(curve, frequency, 0.5),
    }


def main() -> None:
    """Print seconds, memory and quality of both kinds of maps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".bench/original"))
    parser.add_argument("--particles", type=int, default=300)
    parser.add_argument("--box", type=int, default=256)
    parser.add_argument("--snr", type=float, default=0.5)
    parser.add_argument("--width", type=float, default=1.0, help="Å, of a residue's Gaussian")
    given = parser.parse_args()
    folder: Path = given.folder
    analysis = prepare(folder, given)
    for box in ("working", "original"):
        out = folder / box
        paths = {"particles": folder / "particles", "consensus": folder / "consensus", "analysis": analysis}
        seconds, processor, memory = stage("volumes", out, box=box, **paths)
        report = read_json(out / "report.json")
        made = f"{len(report['states'])} maps of {report['box']} px"
        print(f"{box}: {made}, {seconds:.0f} s, of processors {processor:.0f} s, peak {memory:.0f} MB")
        for cluster in (1, 2):
            found = against_truth(folder, analysis, out, cluster)
            print("  cluster", cluster, "  ".join(f"{name} {value:.4g}" for name, value in found.items()))


if __name__ == "__main__":
    main()
