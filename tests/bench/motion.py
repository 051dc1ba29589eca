"""What taking motion back gains: FSC with the truth of the consensus and of the motion-corrected map, domain by domain.

    make bench-science SET=tilt SNR=0.1 PARTICLES=4000
    PYTHONPATH=workflow python tests/bench/motion.py --set tilt --folder .bench/science/tilt_demo_0.1_4000 --run RUN

Of a run of the science benchmarks whose molecule moves: the truth is the state in the middle, masks are soft and round
the beads that move between the states, and those that do not. With `--train` in place of `--run` the stages up to
heterogeneity are run first, in folders beside: on `full`, or on the `halves`, after which each half-map's particles are
moved by a network that never saw the other's. `--even` and `--odd` name such runs that are there.
"""

import argparse
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parent / "science"))

from ensembles import SETS
from simulated import state_maps

from gaussemble.analysis.motion import body_mask, motion_corrected, read_network
from gaussemble.fit import heterogeneity, neutral, seeds
from gaussemble.io.mrc import read_map
from gaussemble.io.store import open_store
from gaussemble.physics.rings import resolution, ring_frequencies, shell_correlation
from gaussemble.prepare import consensus, particles
from gaussemble.prepare.fsc import curve_resolution
from gaussemble.quantities import Map, Mixture

GAUSSIANS, EPOCHS = 256, 45
Split = Literal["full", "even", "odd"]


def main() -> None:
    """Print a table: part, map, mean FSC with the truth and where it falls below 0.5, where half-maps' below 0.143."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("folder", "even", "odd"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--set", required=True, choices=SETS)
    parser.add_argument("--run")
    parser.add_argument("--train", choices=("full", "halves"))
    parser.add_argument("--bodies", type=int, default=4)
    given = parser.parse_args()
    store, ensemble = open_store(given.folder / "particles"), SETS[given.set](None)
    mask = read_map(given.folder / "consensus/mask.mrc")
    frame = Map(mask.voxels, store.pixel_size)
    runs = [given.even, given.odd] if given.even and given.odd else [given.folder / "runs" / str(given.run)]
    if given.train:
        splits: dict[str, list[Split]] = {"full": ["full"], "halves": ["even", "odd"]}
        runs = [trained(given.folder, split, ensemble.latent_dim) for split in splits[given.train]]
    networks = [read_network(run / "heterogeneity", store) for run in runs]
    limit = curve_resolution(pd.read_csv(given.folder / "consensus/fsc.csv"))
    found = motion_corrected(store, networks, frame, given.bodies, limit, 2)
    for moves in found.moves:
        sizes = torch.bincount(moves.member).tolist()
        print(f"bodies of {sizes} Gaussians move by {np.round(moves.travel.numpy(), 1)} Å; {moves.left:.1f} Å are left")
    plain = tuple(read_map(given.folder / f"consensus/half{half}.mrc").voxels for half in (1, 2))
    print(table(ensemble, frame, {"consensus": plain, "motion-corrected": (found.half1, found.half2)}).to_string())


def trained(folder: Path, split: Split, latent_dim: int) -> Path:
    """The stages up to heterogeneity on a split of the simulated particles, once; returns the folder of the run."""
    out = folder / split
    if not (out / "heterogeneity" / "model.pt").is_file():
        star, own, fitted = folder / "simulated" / "particles.star", out / "consensus", out / "neutral"
        stacks = out / "particles"
        sign = folder / "simulated" / "map.mrc"
        particles.particles(star=star, out=stacks, split=split, map=sign, options=particles.Options())
        consensus.consensus(particles=stacks, out=own, options=consensus.Options())
        maps = {name: own / f"{name}.mrc" for name in ("map", "mask")}
        seeds.seeds(**maps, out=fitted, options=seeds.Options(count=GAUSSIANS))
        neutral.neutral(consensus=own, seeds=fitted / "seeds.npz", out=fitted, options=neutral.Options())
        chosen = heterogeneity.Options(latent_dim=latent_dim, epochs=EPOCHS)
        given = {"particles": stacks, "consensus": own, "neutral": fitted / "mixture.npz"}
        heterogeneity.heterogeneity(**given, out=out / "heterogeneity", options=chosen)
    return out


def table(ensemble, frame: Map, maps: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> pd.DataFrame:
    """Scores of pairs of half-maps."""
    middle = len(ensemble) // 2
    states = ensemble.mixture()
    truth = state_maps(Mixture(*(part[[middle]] for part in (states.center, states.amplitude, states.width))))[0]
    moves = np.ptp(ensemble.center, axis=0).max(-1) > 0.5
    frequency = ring_frequencies(frame.box, frame.pixel_size)
    rows = []
    for part, chosen in (("moving", moves), ("at rest", ~moves)):
        mask = body_mask(torch.from_numpy(ensemble.center[middle][chosen]).float(), frame)
        for name, (half1, half2) in maps.items():
            curve = shell_correlation((half1 + half2) / 2 * mask, truth * mask)
            halves = shell_correlation(half1 * mask, half2 * mask)
            scores = {"mean": float(curve[1:].mean()), "truth_0.5": resolution(curve, frequency, 0.5)}
            rows.append({"part": part, "map": name, **scores, "halves_0.143": resolution(halves, frequency, 0.143)})
    return pd.DataFrame(rows).round(3)


if __name__ == "__main__":
    main()
