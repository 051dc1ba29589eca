"""Truth tests of the verdict: real classes and motions are reproduced, junk and noise are not.

    make bench BENCH=agreement
    python tests/bench/agreement.py [--set composition swing] [--nulls 10]

Simulated particles of known ensembles go through the stages of both halves, and through one null run. A row for each
set: what was reproduced, the evidence of unseen particles, and the same in the null. `--nulls N` draws N null runs of
the set in which nothing varies and judges each as if it were data, beside the others: the rate of false positives.
Everything lies in .bench/agreement and is used again.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent / "science"))

from ensembles import SETS, Ensemble, ball
from scipy.spatial.transform import Rotation
from simulated import simulate

from gaussemble.analysis import agreement, crossing, latent, null, volumes
from gaussemble.fit import heterogeneity, neutral, seeds
from gaussemble.io.files import read_csv, read_json
from gaussemble.prepare import consensus, particles

ROOT = Path(".bench/agreement")
HALVES: dict[Any, str] = {"even": "odd", "odd": "even"}
BOX, GAUSSIANS, EPOCHS, HIDDEN, RESOLUTION = 32, 128, 10, 64, 20.0
PARTICLES, SNR = 1600, 0.2
JUNK, JUNK_STATES = 0.1, 50


def with_junk(ensemble: Ensemble) -> Ensemble:
    """A tenth of the particles show another object, in views that have nothing to do with the poses."""
    beads = ensemble.center.shape[1]
    rng = np.random.default_rng(11)
    sizes = np.diff(np.round(np.linspace(0, beads, 6)).astype(int))
    lumps = [ball(size, tuple(rng.normal(scale=28, size=3)), (1, 1, 1), 20 + n) for n, size in enumerate(sizes)]
    turns = Rotation.random(JUNK_STATES, 12).as_matrix()
    junk = np.einsum("sij,bj->sbi", turns, np.concatenate(lumps) - np.concatenate(lumps).mean(0))
    label = np.zeros(len(ensemble), int) if ensemble.label is None else ensemble.label
    return Ensemble(
        center=np.concatenate([ensemble.center, junk]),
        amplitude=np.concatenate([ensemble.amplitude, np.repeat(ensemble.amplitude[:1], JUNK_STATES, axis=0)]),
        share=np.concatenate([(1 - JUNK) * ensemble.share, np.full(JUNK_STATES, JUNK / JUNK_STATES)]),
        label=np.concatenate([label, np.full(JUNK_STATES, -1)]),
        latent_dim=ensemble.latent_dim,
    )


MAKE: dict[str, tuple[Callable[[], Ensemble], int]] = {  # and the number of clusters
    "composition": (lambda: SETS["composition"](None), 4),
    "motion": (lambda: SETS["swing"](None), 4),
    "mixture": (lambda: SETS["curves"](None), 4),
    "junk": (lambda: with_junk(SETS["composition"](None)), 5),
    "null": (lambda: SETS["null"](None), 4),
}


def done(path: Path) -> bool:
    """Whether a stage's last file is there."""
    return path.exists()


def analyse(folder: Path, latent_dim: int, clusters: int) -> None:
    """The stages of one half, from its particles on: folder/particles to folder/main/volumes."""
    main = folder / "main"
    if not done(folder / "consensus" / "noise.csv"):
        consensus.consensus(particles=folder / "particles", out=folder / "consensus", options=consensus.Options())
    if not done(folder / "neutral" / "mixture.npz"):
        maps = {name: folder / "consensus" / f"{name}.mrc" for name in ("map", "mask")}
        seeds.seeds(**maps, out=folder / "seeds", options=seeds.Options(count=GAUSSIANS))
        neutral.neutral(
            consensus=folder / "consensus",
            seeds=folder / "seeds" / "seeds.npz",
            out=folder / "neutral",
            options=neutral.Options(),
        )
    if not done(main / "heterogeneity" / "history.csv"):
        heterogeneity.heterogeneity(
            particles=folder / "particles",
            consensus=folder / "consensus",
            neutral=folder / "neutral" / "mixture.npz",
            out=main / "heterogeneity",
            options=training(latent_dim),
        )
    if not done(main / "latent" / "trajectories" / "pc1.csv"):
        files = {"latent": main / "heterogeneity" / "latent.csv", "posteriors": main / "heterogeneity/posterior.npz"}
        latent.latent(**files, out=main / "latent", options=latent.Options(clusters=clusters, umap=False, points=3))
    if not done(main / "volumes" / f"cluster_{clusters}" / "particles.star"):
        volumes.volumes(
            particles=folder / "particles",
            consensus=folder / "consensus",
            analysis=main,
            out=main / "volumes",
            options=volumes.Options(padding=1),
        )


def training(latent_dim: int) -> heterogeneity.Options:
    """Small networks."""
    return heterogeneity.Options(latent_dim=latent_dim, epochs=EPOCHS, hidden=HIDDEN, resolution=RESOLUTION)


def meet(data: Path, latent_dim: int, nulls: list[Path], out: str = "agreement/main") -> dict[str, Any]:
    """Crossing and agreement of the halves of a data set; returns the verdict."""
    for half, other in HALVES.items():
        network = data / other / "main" / "heterogeneity"
        if not done(data / half / "main" / "crossed" / "posterior.npz"):
            crossing.crossing(
                particles=data / half / "particles",
                consensus=data / half / "consensus",
                network=network / "model.pt",
                posteriors=network / "posterior.npz",
                out=data / half / "main" / "crossed",
                options=training(latent_dim),
            )
    folders = {half: data / half / "main" for half in HALVES}
    agreement.agreement(**folders, out=data / out, nulls=nulls, options=agreement.Options())
    return read_json(data / out / "verdict.json")


def null_run(data: Path, run: int, latent_dim: int, clusters: int) -> Path:
    """A null run of a data set whose halves have been analysed; returns its folder."""
    folder = data / f"null{run}"
    for half in HALVES:
        if not done(folder / half / "particles" / "particles.star"):
            null.null(
                particles=data / half / "particles",
                consensus=data / half / "consensus",
                neutral=data / half / "neutral" / "mixture.npz",
                out=folder / half / "particles",
                options=null.Options(run=run),
            )
        analyse(folder / half, latent_dim, clusters)
    if not done(folder / "agreement" / "main" / "verdict.json"):
        meet(folder, latent_dim, [])
    return folder


def data_of(name: str) -> tuple[Path, int, int]:
    """The folder of a set whose halves have been analysed, the length of its latents and its number of clusters."""
    (make, clusters), data = MAKE[name], ROOT / name
    ensemble = make()
    simulation = simulate(ensemble, data / "simulated", PARTICLES, SNR)
    latent_dim = max(2, ensemble.latent_dim)
    for half in HALVES:
        if not done(data / half / "particles" / "particles.npz"):
            particles.particles(
                star=simulation.folder / "particles.star",
                out=data / half / "particles",
                split=half,
                map=simulation.folder / "map.mrc",
                options=particles.Options(box=BOX),
            )
        analyse(data / half, latent_dim, clusters)
    return data, latent_dim, clusters


def truth_of(data: Path, verdict: dict[str, Any]) -> list[str]:
    """Of each matched class: what most of its particles are, and the verdict."""
    truth = read_csv(data / "simulated" / "truth.csv", ["particle"]).set_index("particle")
    words = []
    for each in verdict["clusters"]:
        kinds = []
        for half in HALVES:
            table = read_csv(data / half / "main" / "latent" / "clusters.csv", ["particle", "cluster"])
            members = table["particle"][table["cluster"] == each[half]]
            column = truth["label"] if "label" in truth else truth["state"] * 0
            share = pd.Series(column[members]).value_counts(normalize=True)
            kinds.append(f"{'junk' if share.index[0] == -1 else share.index[0]} {share.iloc[0]:.0%}")
        words.append(f"{' / '.join(kinds)}: {each['verdict']}")
    return words


def row_of(name: str, verdict: dict[str, Any]) -> dict[str, Any]:
    """A row of the table."""
    beside = verdict["null"] or {"scores": {}}

    def both(key: str, form: str = ".2f") -> str:
        values = beside["scores"].get(key) or [float("nan")]
        return f"{verdict['scores'][key]:{form}} ({max(values):{form}})"

    motions = verdict["motions"]
    return {
        "set": name,
        "classes": f"{verdict['scores']['classes_reproduced']} of {len(verdict['clusters'])}",
        "motions": f"{verdict['scores']['motions_reproduced']} of {len(motions)}",
        "evidence": both("evidence"),
        "error": f"{verdict['evidence']['both']['error']:.2f}",
        "difference maps": both("difference_correlation"),
        "contrast": both("shared"),
        "motion size": both("motion_size"),
        "cosine": both("motion_cosine"),
        "canonical": both("canonical_correlation"),
        "Rand": both("rand_index"),
        "neighbours": both("neighbor_overlap"),
    }


def truth_test(name: str) -> dict[str, Any]:
    """A set through everything; prints the verdicts and returns its row."""
    start = time.monotonic()
    data, latent_dim, clusters = data_of(name)
    run = null_run(data, 1, latent_dim, clusters)
    verdict = meet(data, latent_dim, [run / "agreement" / "main" / "verdict.json"])
    print(f"\n{name}: {verdict['summary']}")
    for words, each in zip(truth_of(data, verdict), verdict["clusters"], strict=True):
        print(f"  {words}; {each['reason']}; structure {each['structure']:.2f}, shared {each['shared']:.3f}")
    for each in verdict["motions"]:
        print(f"  {each['even']} / {each['odd']}: {each['verdict']}; {each['reason']}; size {each['size']:.2f}", end="")
        print(f", gain {each['gain']:.2f} ± {each['gain_error']:.2f}, fading {each['fading']:.2f}")
    print(f"  {time.monotonic() - start:.0f} s", flush=True)
    return row_of(name, verdict)


def false_positives(runs: int) -> pd.DataFrame:
    """Null runs judged as data, each beside all others, and without any."""
    data, latent_dim, clusters = data_of("null")
    folders = [null_run(data, run, latent_dim, clusters) for run in range(1, runs + 1)]
    paths = [folder / "agreement" / "main" / "verdict.json" for folder in folders]
    rows = []
    for number, folder in enumerate(folders):
        others = [path for other, path in enumerate(paths) if other != number]
        verdict, alone = meet(folder, latent_dim, others, "judged/main"), read_json(paths[number])
        found = "{classes_reproduced} classes, {motions_reproduced} motions".format(**alone["scores"])
        rows.append(row_of(f"null {number + 1}", verdict) | {"without nulls": found})
    return pd.DataFrame(rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="*", choices=MAKE, default=list(MAKE))
    parser.add_argument("--nulls", type=int, default=None, help="null runs for the rate of false positives")
    given = parser.parse_args()
    if given.set:
        table = pd.DataFrame([truth_test(name) for name in given.set])
        print(f"\n(in brackets: the null)\n{table.to_string(index=False)}")
    runs = given.nulls if given.nulls is not None else 10 * (given.set == list(MAKE))
    if runs:
        print(false_positives(runs).to_string(index=False))


if __name__ == "__main__":
    main()
