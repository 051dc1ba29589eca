"""The scores of one analysis of a simulated set: ours, the oracle's, and the share of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from simulated import PIXEL, Simulation
from torch import Tensor

from gaussemble.analysis import recovery
from gaussemble.analysis.latent import latent_columns
from gaussemble.analysis.oracle import expected, oracle
from gaussemble.io.files import read_csv, written
from gaussemble.io.store import open_store


def oracle_probability(folder: Path, simulation: Simulation) -> Float[Tensor, "particle state"]:
    """Probability of each true state to Nyquist, under the noise that was added; kept in oracle.npy."""
    path = folder / "oracle.npy"
    if not path.is_file():
        store = open_store(folder / "particles")
        noise = torch.full((1, store.box // 2 + 1), float(store.box**2))  # backgrounds have standard deviation 1
        state = torch.tensor(simulation.state)
        probability = oracle(store, simulation.maps(), state, noise, 2 * PIXEL)
        with written(path) as temporary, temporary.open("wb") as file:
            np.save(file, probability.float().numpy())
    return torch.from_numpy(np.load(path)).double()


def scores(
    simulation: Simulation, probability: Float[Tensor, "particle state"], folder: Path, neutral: Path, out: Path
) -> dict[str, Any]:
    """All of them; what a set does not have is left out."""
    table = read_csv(out / "heterogeneity" / "latent.csv", ["particle", "z1"])
    latent = table[latent_columns(table)].to_numpy()
    cluster = read_csv(out / "latent" / "clusters.csv", ["cluster"])["cluster"].to_numpy()
    found: dict[str, Any] = {}
    ensemble, state = simulation.ensemble, simulation.state
    if ensemble.targets is not None:
        truth = ensemble.targets[state]
        ours = recovery.predicted_by_neighbours(latent, truth)
        best = expected(probability, ensemble.targets)
        found |= compared("r2", *(recovery.variance_explained(truth, one) for one in (ours, best)))
    if ensemble.angle is not None:
        found |= angle_scores(simulation, probability, latent)
    if ensemble.label is not None:
        label, called = ensemble.label[state], ensemble.label[probability.argmax(1).numpy()]
        found |= compared("probe", recovery.probe(latent, label), recovery.balanced_accuracy(label, called))
        if ensemble.separate:
            found |= compared("ari", recovery.rand_index(label, cluster), recovery.rand_index(label, called))
    return found | {"loss": float(table["loss"].mean())}


def angle_scores(simulation: Simulation, probability: Tensor, latent: np.ndarray) -> dict[str, Any]:
    """R² of (cos, sin), and errors in degrees: by regression, by the ring that is seen, the oracle's."""
    states = simulation.ensemble.angle
    truth = states[simulation.state]
    circle = recovery.on_circle(truth)
    ours = recovery.predicted_by_neighbours(latent, circle)
    best = expected(probability, recovery.on_circle(states))
    errors = [recovery.angle_error(truth, recovery.angle_of(one)) for one in (ours, best)]
    return compared("r2", *(recovery.variance_explained(circle, one) for one in (ours, best))) | {
        "angle": errors[0],
        "angle_oracle": errors[1],
        "angle_ring": recovery.ring_angle_error(latent, truth),
    }


def compared(name: str, ours: float, best: float) -> dict[str, float]:
    """A score, the oracle's, and the share."""
    return {name: ours, f"{name}_oracle": best, f"{name}_share": ours / best}


def table_of(path: Path) -> pd.DataFrame:
    """Of scores.csv."""
    return pd.read_csv(path)
