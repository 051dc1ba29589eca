"""Particles of an ensemble, written as a user has them: particles.star and .mrcs, a map, and the truth beside."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from ensembles import Ensemble
from jaxtyping import Float, Int
from torch import Tensor

from gaussemble.io.files import read_csv, read_npz, write_csv, written
from gaussemble.io.mrc import write_map, write_stack
from gaussemble.io.star import write_star
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import to_real
from gaussemble.physics.projection import mixture_to_map, project, shift_phases
from gaussemble.physics.rotations import euler_to_matrix
from gaussemble.prepare.simulate import Options, Views, add_noise, draw_views, star_of
from gaussemble.quantities import Map, Mixture

BLOCK = 32  # images projected at a time
BOX, PIXEL = 64, 4.0


@dataclass(frozen=True)
class Simulation:
    """Where the files are, the ensemble in the images' units, and the state of each particle."""

    folder: Path
    ensemble: Ensemble
    scale: float  # of the ensemble's amplitudes in the images
    state: Int[np.ndarray, " particle"]
    views: pd.DataFrame  # rot, tilt, psi (degrees), defocus (Å) of each particle

    @property
    def states(self) -> Mixture:
        """(state, bead) in the images' amplitudes."""
        return self.ensemble.mixture(self.scale)

    def maps(self) -> Float[Tensor, "state z y x"]:
        """The true map of each state."""
        return state_maps(self.states)


def state_maps(states: Mixture, box: int = BOX, pixel_size: float = PIXEL) -> Float[Tensor, "state z y x"]:
    """Sampled density of each structure."""
    each = zip(states.center, states.amplitude, states.width, strict=True)
    return torch.stack([mixture_to_map(Mixture(*one), box, pixel_size) for one in each])


def simulate(ensemble: Ensemble, folder: Path, particles: int, snr: float, seed: int = 0) -> Simulation:
    """Make the files, or take those that are there."""
    if not (folder / "simulation.npz").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(seed)
        options = Options(particles=particles, box=BOX, pixel_size=PIXEL, snr=snr, seed=seed)
        views = draw_views(options, generator)
        state = draw_states(ensemble, particles, generator)
        images = clean_images(ensemble.mixture(), views, state)
        scale = add_noise(images, snr, generator)
        write_stack(folder / "particles.mrcs", images, PIXEL)
        write_star(folder / "particles.star", star_of(views, folder / "particles.mrcs", options))
        share = torch.bincount(state, minlength=len(ensemble)) / particles
        mean = torch.einsum("s,szyx->zyx", share, state_maps(ensemble.mixture(scale)))
        write_map(folder / "map.mrc", Map(mean, PIXEL))
        write_csv(folder / "truth.csv", truth_table(ensemble, views, state.numpy()))
        with written(folder / "simulation.npz") as temporary:
            np.savez(temporary, scale=scale)
    table = read_csv(folder / "truth.csv", ["particle", "state"])
    scale = float(read_npz(folder / "simulation.npz", "a simulation")["scale"])
    return Simulation(folder, ensemble, scale, table["state"].to_numpy(), table)


def draw_states(ensemble: Ensemble, particles: int, generator: torch.Generator) -> Int[Tensor, " particle"]:
    """States in a random order, as exactly in their shares as whole particles allow."""
    edges = np.round(np.cumsum(ensemble.share) * particles).astype(int)
    state = np.repeat(np.arange(len(ensemble)), np.diff(edges, prepend=0))
    return torch.from_numpy(state)[torch.randperm(particles, generator=generator)]


def clean_images(states: Mixture, views: Views, state: Int[Tensor, " particle"]) -> Float[np.ndarray, "particle y x"]:
    """Images without noise (`quantities`' image model)."""
    images = np.empty((len(views), BOX, BOX), np.float32)
    for rows in torch.arange(len(views)).split(BLOCK):
        own = Mixture(states.center[state[rows]], states.amplitude[state[rows]], states.width[state[rows]])
        transform = project(own, euler_to_matrix(views.angles[rows]).float(), BOX, PIXEL)
        transform = transform * evaluate(views.ctf[rows].to(torch.float32), BOX, PIXEL)
        images[rows.numpy()] = to_real(transform * shift_phases(views.shift[rows].float(), BOX, PIXEL), BOX).numpy()
    return images


def truth_table(ensemble: Ensemble, views: Views, state: Int[np.ndarray, " particle"]) -> pd.DataFrame:
    """particle, state, what is to be found of it, pose and defocus."""
    columns: dict[str, np.ndarray] = {"particle": np.arange(len(state)), "state": state}
    for number, target in enumerate([] if ensemble.targets is None else ensemble.targets.T, start=1):
        columns[f"target{number}"] = target[state]
    columns |= {"angle": ensemble.angle[state]} if ensemble.angle is not None else {}
    columns |= {"label": ensemble.label[state]} if ensemble.label is not None else {}
    degrees = np.rad2deg(views.angles.numpy())
    columns |= {name: degrees[:, number] for number, name in enumerate(("rot", "tilt", "psi"))}
    return pd.DataFrame(columns | {"defocus": views.ctf.defocus_u.numpy()})
