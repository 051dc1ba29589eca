"""Science benchmarks: how much of a known truth the stages find, beside the Bayes-optimal score of the same particles.

    make bench-science [SET="linear ring"] [SNR="0.1 0.01"] [PARTICLES=5000] [SEED=1] [DOCKED=1]
        [MASKED=1] [WITH="epochs=20 seeds.count=512"]

One row a set. Simulated sets, stores and fits lie in .bench/science and are used again; the tables there are
scores.csv (every run, appended) and the printed one. WITH overrides options: of heterogeneity, or of the stage that is
named before a dot. MODEL takes an antibody's atomic model (1HZH) in the place of the demo's molecule. With DOCKED the
stages get an atomic model of the molecule at rest, as a user may have one; what moves is its chain B (of 1HZH: L, and H
to residue 213). With MASKED the domain is a mask round where the map shows what moves, as a user may draw it.
"""

import argparse
import contextlib
import io
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ensembles import SETS, antibody
from scoring import oracle_probability, scores
from simulated import PIXEL, Simulation, simulate, state_maps

from gaussemble.analysis import latent as latent_stage
from gaussemble.fit import heterogeneity as heterogeneity_stage
from gaussemble.fit import neutral as neutral_stage
from gaussemble.fit import seeds as seeds_stage
from gaussemble.io.files import written
from gaussemble.io.mrc import read_map, write_map
from gaussemble.options import StageOptions
from gaussemble.prepare import consensus as consensus_stage
from gaussemble.prepare import particles as particles_stage
from gaussemble.quantities import Map, Mixture

ROOT = Path(".bench/science")
PARTICLES = {0.1: 5000, 0.01: 20_000}
STAGES = {"seeds": seeds_stage, "neutral": neutral_stage, "heterogeneity": heterogeneity_stage, "latent": latent_stage}
SOFT, LEAST = 1.5, 0.02  # of a mask: widths of what is drawn, and of the densest place what is left out
DEFAULTS: dict[str, dict[str, Any]] = {"seeds": {"count": 1024}, "latent": {"umap": False}}


def options_of(given: list[str]) -> dict[str, dict[str, Any]]:
    """key=value pairs by stage; values as JSON, or as they stand."""
    chosen: dict[str, dict[str, Any]] = {stage: dict(DEFAULTS.get(stage, {})) for stage in STAGES}
    for pair in given:
        name, text = pair.split("=", 1)
        stage, key = name.split(".", 1) if "." in name else ("heterogeneity", name)
        with contextlib.suppress(json.JSONDecodeError):
            text = json.loads(text)
        chosen[stage][key] = text
    return chosen


def made(stage: str, values: dict[str, Any]) -> StageOptions:
    """Checked options of a stage."""
    return STAGES[stage].Options(**values)


def name_of(values: dict[str, Any]) -> str:
    """A folder's name for some options."""
    return "_".join(f"{key}-{value}" for key, value in sorted(values.items())).replace("/", "-")[:120] or "default"


def prepare(folder: Path, simulation: Simulation) -> None:
    """The stages particles and consensus, once."""
    source, target = simulation.folder, folder / "consensus"
    if not (folder / "particles" / "particles.npz").is_file():
        particles_stage.particles(
            star=source / "particles.star",
            out=folder / "particles",
            split="full",
            map=source / "map.mrc",
            options=particles_stage.Options(),
        )
    if not (target / "noise.csv").is_file():
        consensus_stage.consensus(particles=folder / "particles", out=target, options=consensus_stage.Options())


def write_docked(folder: Path, simulation: Simulation) -> Path:
    """The set's atomic model in the consensus map's frame."""
    path, center = folder / "docked.cif", read_map(folder / "consensus" / "map.mrc").center
    if simulation.ensemble.docked is None:
        raise SystemExit("--docked: this set has no atomic model")
    structure = simulation.ensemble.docked.clone()
    for site in structure[0].all():
        site.atom.pos += gemmi.Position(*center)
    with written(path) as temporary:
        temporary.write_text(structure.make_mmcif_document().as_string())
    return path


def write_mask(folder: Path, simulation: Simulation) -> Path:
    """A mask of where there is more of what moves than of the rest, in the mean over the states."""
    path, ensemble = folder / "moving.mrc", simulation.ensemble
    moves = np.ptp(ensemble.center, axis=0).max(1) > 0
    if not moves.any():  # where nothing does, what would
        moves = antibody().arms[0]
    states = ensemble.mixture()
    moving, still = (
        state_maps(Mixture(states.center[:, part], states.amplitude[:, part], SOFT * states.width[:, part])).mean(0)
        for part in (torch.from_numpy(moves), torch.from_numpy(~moves))
    )
    write_map(path, Map(((moving > still) & (moving > LEAST * moving.max())).float(), PIXEL))
    return path


def fit_neutral(folder: Path, chosen: dict[str, dict[str, Any]], model: Path | None = None) -> Path:
    """The stages seeds and neutral, once for the same options; returns mixture.npz."""
    name = name_of(chosen["seeds"] | {f"n.{k}": v for k, v in chosen["neutral"].items()})
    out = folder / (("docked_" if model else "neutral_") + name)
    if not (out / "mixture.npz").is_file():
        consensus = folder / "consensus"
        seeds_stage.seeds(
            map=consensus / "map.mrc",
            mask=consensus / "mask.mrc",
            model=model,
            out=out,
            options=made("seeds", chosen["seeds"]),
        )
        neutral_stage.neutral(
            consensus=consensus, seeds=out / "seeds.npz", out=out, options=made("neutral", chosen["neutral"])
        )
    return out / "mixture.npz"


def analyse(folder: Path, simulation: Simulation, neutral: Path, chosen: dict[str, dict[str, Any]]) -> Path:
    """The stages heterogeneity and latent, with decoded classes too where there are any; returns the folder."""
    ensemble = simulation.ensemble
    values = {"latent_dim": ensemble.latent_dim} | chosen["heterogeneity"]
    docked = {"docked": 1} if neutral.with_name("model.cif").is_file() else {}
    named = chosen["heterogeneity"] | docked | {f"s.{k}": v for k, v in chosen["seeds"].items()}
    out = folder / "runs" / name_of(named)
    out.mkdir(parents=True, exist_ok=True)
    (out / "options.json").write_text(json.dumps(values))
    heterogeneity_stage.heterogeneity(
        particles=folder / "particles",
        consensus=folder / "consensus",
        neutral=neutral,
        seeds=neutral.with_name("seeds.npz"),
        model=model if (model := neutral.with_name("model.cif")).is_file() else None,
        out=out / "heterogeneity",
        options=made("heterogeneity", values),
    )
    clusters = len(np.unique(ensemble.label)) if ensemble.label is not None else 4
    methods = {"latent": {}, "decoded": {"method": "decoded"}} if ensemble.separate else {"latent": {}}
    for name, method in methods.items():
        latent_stage.latent(
            latent=out / "heterogeneity" / "latent.csv",
            particles=folder / "particles",
            consensus=folder / "consensus",
            model=out / "heterogeneity" / "model.pt",
            out=out / name,
            options=made("latent", {"clusters": clusters} | method | chosen["latent"]),
        )
    return out


def benchmark(
    name: str,
    snr: float,
    particles: int | None,
    given: list[str],
    model: Path | None,
    docked: bool = False,
    masked: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """One row of the table."""
    count = particles or PARTICLES.get(snr, 10_000)
    drawn = f"_seed-{seed}" if seed else ""
    folder = ROOT / f"{name}_{model.stem if model else 'demo'}_{snr:g}_{count}{drawn}"
    chosen = options_of(given)
    simulation = simulate(SETS[name](model), folder / "simulated", count, snr, seed)
    prepare(folder, simulation)
    probability = oracle_probability(folder, simulation)
    neutral = fit_neutral(folder, chosen, write_docked(folder, simulation) if docked else None)
    if masked:
        chosen["heterogeneity"]["domains"] = [{"mask": str(write_mask(folder, simulation))}]
    start = time.monotonic()
    out = analyse(folder, simulation, neutral, chosen)
    row = {"set": name, "snr": snr, "particles": count, "with": " ".join(given), "seconds": time.monotonic() - start}
    row |= {"seed": seed, "docked": docked, "masked": masked} if seed or docked or masked else {}
    row |= scores(simulation, probability, folder, neutral, out)
    return row | {"memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    """Print the table and append it to scores.csv."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--set", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--snr", nargs="*", type=float, default=[0.1, 0.01])
    parser.add_argument("--particles", type=int)
    parser.add_argument("--model", type=Path, help="an antibody, 1HZH, in the place of the demo's molecule")
    parser.add_argument("--docked", action="store_true", help="give the stages an atomic model of the molecule at rest")
    parser.add_argument("--masked", action="store_true", help="the domain is a mask round where the map shows it")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation: views, states and noise")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("given", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    for snr in arguments.snr:
        for name in arguments.set:
            with contextlib.nullcontext() if arguments.verbose else contextlib.redirect_stderr(io.StringIO()):
                row = benchmark(
                    name,
                    snr,
                    arguments.particles,
                    arguments.given,
                    arguments.model,
                    arguments.docked,
                    arguments.masked,
                    arguments.seed,
                )
            print("  ".join(f"{key} {shown(value)}" for key, value in row.items()), flush=True)
            append(ROOT / "scores.csv", row)


def shown(value: Any) -> str:
    """Short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a table whose columns may grow."""
    table = pd.DataFrame([row])
    if path.is_file():
        table = pd.concat([pd.read_csv(path, keep_default_na=False, na_values=[""]), table])  # a set is called null
    table.to_csv(path, index=False)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
