"""The scores of one analysis of a simulated set: ours, the oracle's, and the share of it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from simulated import BOX, PIXEL, Simulation, state_maps
from torch import Tensor

from gaussemble.analysis import recovery
from gaussemble.analysis.chance import gain, likelihoods, plausible, variation
from gaussemble.analysis.latent import latent_columns
from gaussemble.analysis.map_scores import captured_variance, fsc_area, motion_error
from gaussemble.analysis.neighbourhoods import information_imbalance, neighbourhood_similarity
from gaussemble.analysis.oracle import expected, oracle
from gaussemble.io.files import read_csv, written
from gaussemble.io.mixtures import read_mixture
from gaussemble.io.mrc import read_map
from gaussemble.io.posteriors import read_posteriors
from gaussemble.io.store import open_store
from gaussemble.model.heterogeneity import DeformableMixture, load_model
from gaussemble.physics.projection import mixture_to_map
from gaussemble.physics.rotations import euler_to_matrix
from gaussemble.quantities import Mixture

STATES = 20  # at most so many are decoded
IMAGES = 40  # particles whose own maps are decoded
RANK = 3  # of the captured variance


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
            best = recovery.rand_index(label, called)
            found |= {"ari_kmeans": recovery.rand_index(label, cluster)}
            decoded = read_csv(out / "decoded" / "clusters.csv", ["cluster"])["cluster"].to_numpy()
            found |= compared("ari", recovery.rand_index(label, decoded), best)
    found |= {"loss": float(table["loss"].mean())}
    found |= chance_scores(out / "heterogeneity", table["held_out"].to_numpy() == 1, simulation)
    found |= leakage(simulation, latent)
    return found | structure_scores(simulation, latent, folder, neutral, out)


def chance_scores(folder: Path, held_out: np.ndarray, simulation: Simulation) -> dict[str, Any]:
    """The held-out gain in nats with its standard error, and what it is called."""
    known = read_posteriors(folder / "posterior.npz")
    seen = likelihoods(known.latent, known.covariance, known.prior_mean, known.prior_covariance)
    table = read_csv(folder / "latent.csv", ["particle"])
    if "gain" in table:
        found = gain(table["gain"].to_numpy()[held_out])
    else:
        found = variation(plausible(seen, known.prior_mean, known.prior_covariance), held_out)
    return {
        "gain": found.mean,
        "gain_error": found.error,
        "verdict": "varies" if found.beyond_chance else "nothing",
    }


def leakage(simulation: Simulation, latent: np.ndarray) -> dict[str, float]:
    """Information imbalance from the latents to pose and to defocus (1: nothing leaks), and to the truth."""
    views = simulation.views
    pose = euler_to_matrix(torch.from_numpy(np.deg2rad(views[["rot", "tilt", "psi"]].to_numpy())))
    found = {
        "to_pose": information_imbalance(latent, pose.flatten(start_dim=1).numpy())[0],
        "to_defocus": information_imbalance(latent, views[["defocus"]].to_numpy())[0],
    }
    truth = truth_vector(simulation)
    if truth is not None:
        there, back = information_imbalance(latent, truth)
        count = len(latent) // 20
        similar = neighbourhood_similarity(latent[:4000], truth[:4000], max(1, min(count, 200)))
        found |= {"to_truth": there, "from_truth": back, "neighbours": similar}
    return found


def truth_vector(simulation: Simulation) -> np.ndarray | None:
    """Continuous coordinates of the truth in which nearness has a meaning; None where there are none."""
    ensemble, state = simulation.ensemble, simulation.state
    if ensemble.angle is not None:
        return recovery.on_circle(ensemble.angle[state])
    return None if ensemble.targets is None else ensemble.targets[state]


def structure_scores(
    simulation: Simulation, latent: np.ndarray, folder: Path, neutral: Path, out: Path
) -> dict[str, float]:
    """FSC areas of decoded maps, captured variance, and Å of motion, at no more than `STATES` of the states.

    A state's map is decoded at the mean latent of its particles, at the nearest of their own (CryoBench's rule).
    """
    states = np.unique(np.linspace(0, len(simulation.ensemble) - 1, STATES).round().astype(int))
    model = load_model(out / "heterogeneity" / "model.pt")
    with torch.no_grad():
        decoded = model.decode(
            torch.from_numpy(np.stack([typical(latent, simulation.state == s) for s in states])).float()
        )
    whole = simulation.states
    truth = state_maps(Mixture(whole.center[states], whole.amplitude[states], whole.width[states]))
    consensus = read_map(folder / "consensus" / "map.mrc").voxels
    maps, static = state_maps(decoded), mixture_to_map(read_mixture(neutral), BOX, PIXEL)
    scores = {
        "auc": mean_area(maps, truth),
        "auc_neutral": mean_area(static.expand_as(truth), truth),
        "auc_consensus": mean_area(consensus.expand_as(truth), truth),
        "auc_image": image_area(simulation, latent, model),
    }
    if len(states) > 1:
        captured = captured_variance(maps, truth, min(RANK, len(states) - 1))
        scores |= {"pcv_recall": captured.recall, "pcv_precision": captured.precision}
    if np.ptp(simulation.ensemble.center, axis=0).max() > 0:
        center = simulation.ensemble.center[states]
        motion = motion_error(decoded, center, len(states) // 2)
        scores |= {"motion_error": motion.error, "motion": motion.motion}
    return scores


def typical(latent: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The latent of a particle, of those chosen, that is nearest to their mean."""
    own = latent[chosen]
    return own[np.square(own - own.mean(0)).sum(1).argmin()]


def mean_area(found: Tensor, truth: Tensor) -> float:
    """FSC area, mean over the states."""
    return float(np.mean([fsc_area(one, other) for one, other in zip(found, truth, strict=True)]))


@torch.no_grad()
def image_area(simulation: Simulation, latent: np.ndarray, model: DeformableMixture) -> float:
    """FSC area of maps decoded at single particles' latents against their own true structures, mean over `IMAGES`."""
    rows = np.linspace(0, len(latent) - 1, IMAGES).astype(int)
    decoded, states = model.decode(torch.from_numpy(latent[rows]).float()), simulation.states
    areas = []
    for number, state in enumerate(simulation.state[rows]):
        found = mixture_to_map(
            Mixture(decoded.center[number], decoded.amplitude[number], decoded.width[number]), BOX, PIXEL
        )
        true = mixture_to_map(Mixture(states.center[state], states.amplitude[state], states.width[state]), BOX, PIXEL)
        areas.append(fsc_area(found, true))
    return float(np.mean(areas))


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
