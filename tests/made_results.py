"""A small tree of results as the stages write it, made from formulas: what figures and the page are tried on.

The molecule is a body and a hand: the hand swings with the first latent and is absent in some of the particles.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from gaussemble.analysis import agreement, latent
from gaussemble.analysis.verdict import SCORES
from gaussemble.io.files import write_csv, write_json
from gaussemble.io.mixtures import write_mixture
from gaussemble.io.mrc import write_map
from gaussemble.io.posteriors import Posteriors, read_posteriors, write_posteriors
from gaussemble.io.relion import Metadata, no_contrast_transfer
from gaussemble.io.star import StarFile
from gaussemble.io.store import write_store
from gaussemble.model.heterogeneity import build_model, save_model, single_design
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import to_real
from gaussemble.physics.projection import mixture_to_map, project, shift_phases
from gaussemble.physics.rotations import euler_to_matrix
from gaussemble.prepare.inspection import summarise
from gaussemble.quantities import ContrastTransfer, Map, Mixture, Particles

BOX, PIXEL, GAUSSIANS, SPLITS = 32, 4.0, 60, ("full", "even", "odd")
FRAME = Map(torch.zeros(BOX, BOX, BOX), PIXEL, (10.0, 20.0, 30.0))


def molecule(swing: float = 0.0, occupied: float = 1.0) -> Mixture:
    """40 Gaussians of body and 20 of a hand that turns by `swing` degrees about z."""
    generator = torch.Generator().manual_seed(1)
    body = torch.randn(40, 3, generator=generator) * torch.tensor([16.0, 10.0, 12.0])
    hand = torch.randn(20, 3, generator=generator) * 5 + torch.tensor([0.0, 34.0, 4.0])
    angle = torch.deg2rad(torch.tensor(swing))
    turn = torch.tensor([[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0], [0, 0, 1]])
    amplitude = torch.cat([torch.ones(40), torch.full((20,), occupied)])
    return Mixture(torch.cat([body, hand @ turn.T]), 30 * amplitude, torch.full((GAUSSIANS,), 4.0))


def density(mixture: Mixture, noise: float, seed: int) -> Map:
    generator = torch.Generator().manual_seed(seed)
    voxels = mixture_to_map(mixture, BOX, PIXEL)
    return FRAME.with_voxels(voxels + noise * voxels.std() * torch.randn(voxels.shape, generator=generator))


def fsc_table(falls_at: float, seed: int = 0) -> pd.DataFrame:
    """A half-map FSC that is 0.5 at `falls_at` Å."""
    frequency = np.arange(BOX // 2 + 1) / (BOX * PIXEL)
    wiggle = 0.02 * np.random.default_rng(seed).normal(size=len(frequency))
    masked = 1 / (1 + np.exp((frequency - 1 / falls_at) * 120)) + wiggle
    with np.errstate(divide="ignore"):
        resolution = 1 / frequency
    plain = masked * np.exp(-frequency * 5)
    columns = {"ring": np.arange(len(frequency)), "frequency": frequency, "resolution": resolution}
    return pd.DataFrame(columns | {"fsc": plain, "fsc_masked": masked})


def half_map_table(falls_at: float, seed: int = 0) -> pd.DataFrame:
    """The same as the stages write it for half-maps."""
    table = fsc_table(falls_at, seed)
    randomised = 0.3 * table["fsc_masked"].where(table["ring"] > 5, table["fsc_masked"] / 0.3)
    corrected = (table["fsc_masked"] - randomised) / (1 - randomised)
    return table.assign(
        fsc_randomised=randomised, fsc_corrected=corrected.where(table["ring"] > 5, table["fsc_masked"])
    )


def make_split(results: Path, split: str, particles: int, umap: bool) -> None:
    """Everything of one split."""
    seed = SPLITS.index(split)
    folder, analysis = results / split, results / split / "main"
    numbers = np.arange(particles) if split == "full" else np.arange(seed - 1, particles, 2)
    make_particles(folder / "particles", split, numbers, particles)
    consensus = density(molecule(), 0.3, seed)
    blurred = mixture_to_map(
        Mixture(molecule().center, molecule().amplitude, torch.full((GAUSSIANS,), 9.0)), BOX, PIXEL
    )
    mask = (blurred / (0.04 * blurred.max())).clamp(0, 1) ** 4
    write_map(folder / "consensus" / "map.mrc", consensus)
    for half in (1, 2):
        write_map(folder / "consensus" / f"half{half}.mrc", density(molecule(), 0.4, 10 * seed + half))
    write_map(folder / "consensus" / "mask.mrc", FRAME.with_voxels(mask))
    write_csv(folder / "consensus" / "fsc.csv", half_map_table(10 + seed, seed))
    frequency = np.arange(BOX // 2 + 1) / (BOX * PIXEL)
    noise = [
        {"optics_group": group, "ring": ring, "frequency": k, "power": 900 * (1 + group) * np.exp(-8 * k)}
        for group in (0, 1)
        for ring, k in enumerate(frequency)
    ]
    write_csv(folder / "consensus" / "noise.csv", pd.DataFrame(noise))
    write_mixture(folder / "neutral" / "mixture.npz", molecule(), FRAME)
    write_csv(folder / "neutral" / "fsc.csv", fsc_table(9.5, 9))
    write_map(folder / "neutral" / "map.mrc", density(molecule(), 0.0, 0))
    rounds = {"gaussians": [20, 40, 40, 80], "resolution": [50, 50, 25, 25], "lowest_fsc": [0.8, 0.98, 0.7, 0.96]}
    write_csv(folder / "neutral" / "growth.csv", pd.DataFrame(rounds))
    make_analysis(analysis, numbers, particles, seed, umap)


def make_particles(folder: Path, split: str, numbers: np.ndarray, in_file: int) -> None:
    """The image store and report.json: two optics groups, views that prefer the poles, shifts of a pixel."""
    count, rng = len(numbers), np.random.default_rng(len(split))

    def same(value: float) -> torch.Tensor:
        return torch.full((count,), value)

    group = torch.from_numpy((numbers >= 0.7 * in_file).astype(np.int64))
    defocus = torch.from_numpy(rng.normal(15000, 2500, count)).float() + 4000 * group
    ctf = ContrastTransfer(
        defocus + 150, defocus - 150 * torch.from_numpy(rng.random(count)).float(), same(0.6), same(300e3), same(2.7e7),
        same(0.1), same(0.0), same(0.0), same(1.0),
    )  # fmt: skip
    angles = np.stack([rng.uniform(0, 2 * np.pi, count), np.arccos(rng.uniform(-1, 1, count) ** 3)], axis=1)
    angles = torch.from_numpy(np.column_stack([angles, rng.uniform(0, 2 * np.pi, count)]))
    shift = torch.from_numpy(rng.normal(0, PIXEL, (count, 2))).float()
    known = Particles(torch.from_numpy(numbers), euler_to_matrix(angles).float(), shift, ctf, group)
    transform = project(molecule(), known.rotation, BOX, PIXEL) * shift_phases(shift, BOX, PIXEL)
    images = to_real(transform * evaluate(ctf, BOX, PIXEL), BOX)
    generator = torch.Generator().manual_seed(len(split))
    images = images / (2 * images.std()) + torch.randn(images.shape, generator=generator)
    write_store(folder, known, images, PIXEL)

    optics = pd.DataFrame({"rlnOpticsGroup": ["1", "2"], "rlnOpticsGroupName": ["grid 1", "grid 2"]})
    star = StarFile(Path("run_data.star"), optics, pd.DataFrame(index=range(in_file)))
    rows, none = np.arange(in_file), np.zeros((in_file, 3))
    metadata = Metadata(
        none, none[:, :2], no_contrast_transfer(in_file), (rows >= 0.7 * in_file).astype(np.int64),
        np.full(in_file, PIXEL / 2), np.full(in_file, 2 * BOX),
    )  # fmt: skip
    statistics = rng.normal([0, 1], [0.01, 0.02], (count, 2))
    statistics[[7, 70], 1] = 0.02
    inspection = summarise(metadata, known, np.arange(count) % 2, statistics, star, BOX * PIXEL)
    report = {"star": "run_data.star", "split": split, "particles": count, "particles_in_file": in_file}
    report |= {"box": BOX, "pixel_size": PIXEL, "optics_groups": 2, "assumed": ["no rlnDefocusAngle: taken as 0"]}
    write_json(folder / "report.json", report | {"left_out": [], "inspection": inspection})


def make_analysis(folder: Path, numbers: np.ndarray, particles: int, seed: int, umap: bool) -> None:
    """Latents by a formula, the true stage `latent`, maps of its clusters and points."""
    truth, rng = made_truth(particles).set_index("particle").loc[numbers], np.random.default_rng(seed)
    z = np.stack([truth["swing"] / 20, 3 * truth["occupied"], np.zeros(len(truth))], axis=1)
    z = z + rng.normal(size=z.shape) * [0.3, 0.5, 0.2]
    table = pd.DataFrame(z, columns=["z1", "z2", "z3"]).assign(sd1=0.3, sd2=0.5, sd3=0.2, loss=1.0, held_out=0)
    table.insert(0, "particle", numbers)
    write_csv(folder / "heterogeneity" / "latent.csv", table)
    epoch = np.arange(1, 13)
    history = {"epoch": epoch, "loss": 100 - 3 * (1 - np.exp(-epoch / 3)) + 0.1 * seed}
    history |= {"held_out_loss": history["loss"] + 0.1, "learning_rate": 1e-3, "seconds": 2.0}
    write_csv(folder / "heterogeneity" / "history.csv", pd.DataFrame(history))
    save_model(folder / "heterogeneity" / "model.pt", made_model())
    options = latent.Options(umap=umap, points=3)
    covariance = np.tile(np.diag([0.3, 0.5, 0.2]) ** 2, (len(z), 1, 1))
    known = Posteriors(table["particle"].to_numpy(), z, covariance, z.mean(0), np.cov(z.T))
    write_posteriors(folder / "heterogeneity" / "posterior.npz", known)
    paths = {"latent": folder / "heterogeneity" / "latent.csv", "posteriors": folder / "heterogeneity/posterior.npz"}
    latent.latent(**paths, out=folder / "latent", options=options)

    clusters = pd.read_csv(folder / "latent" / "clusters.csv")["cluster"].to_numpy()
    for number in range(1, 5):
        chosen = truth[clusters == number]
        mixture = molecule(float(chosen["swing"].mean()), float(chosen["occupied"].mean()))
        make_volume(folder / "volumes" / f"cluster_{number}", mixture, 10 * seed + number)
    for name in ("motion_corrected", "selection_mine"):
        make_volume(folder / "volumes" / name, molecule(0.0, 0.5), seed)
    for name in ("pc1", "pc2"):
        points = pd.read_csv(folder / "latent" / "trajectories" / f"{name}.csv")
        for number, (z1, z2) in enumerate(points[["z1", "z2"]].to_numpy(), start=1):
            mixture = molecule(20 * float(z1), float(np.clip(z2 / 3, 0, 1)))
            make_volume(folder / "volumes" / f"trajectory_{name}_{number}", mixture, number)
    residue = np.arange(1, 121)
    moved = [
        pd.DataFrame({"trajectory": name, "chain": chain, "residue": residue, "name": "ALA"}).assign(
            displacement=size * (1 + np.sin(residue / 15)) * (2 if chain == "B" else 0.3)
        )
        for name, size in (("pc1", 4.0), ("pc2", 1.0))
        for chain in "AB"
    ]
    write_csv(folder / "models" / "displacement.csv", pd.concat(moved))


def make_crossed(folder: Path, seed: int) -> None:
    """Latents of the half's particles by the other half's network: its own, with other noise and the other sign."""
    known, rng = read_posteriors(folder / "heterogeneity" / "posterior.npz"), np.random.default_rng(seed)
    z = -known.latent + rng.normal(size=known.latent.shape) * [0.2, 0.3, 0.2]
    table = pd.DataFrame(z, columns=["z1", "z2", "z3"]).assign(sd1=0.3, sd2=0.5, sd3=0.2)
    table["gain"] = 2 + rng.normal(size=len(z))
    table.insert(0, "particle", known.particle)
    write_csv(folder / "crossed" / "latent.csv", table)
    crossed = replace(known, latent=z, prior_mean=z.mean(0), prior_covariance=np.cov(z.T))
    write_posteriors(folder / "crossed" / "posterior.npz", crossed)


def make_volume(folder: Path, mixture: Mixture, seed: int) -> None:
    """One state's maps and FSC."""
    for name in ("map.mrc", "half1.mrc", "half2.mrc"):
        write_map(folder / name, density(mixture, 0.35, seed))
    write_map(folder / "decoded.mrc", density(mixture, 0.0, seed))
    write_csv(folder / "fsc.csv", half_map_table(12 + seed % 4, seed))


def made_model():
    """A model in which the first latent turns the hand; random otherwise."""
    design = single_design(
        gaussians=GAUSSIANS, region=GAUSSIANS - 40, latent_dim=3, inputs=8, hidden=16, layers=2, dropout=0.0,
        position=True, amplitude=True, width=False, length=8.0, field=BOX * PIXEL,
    )  # fmt: skip
    varies = torch.arange(GAUSSIANS) >= 40
    model = build_model(design, molecule(), [varies], seed=0)
    with torch.no_grad():
        for parameter in model.decoders.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4))
    return model


def made_truth(particles: int) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    swing = rng.uniform(-40, 40, particles)
    return pd.DataFrame(
        {"particle": np.arange(particles), "swing": swing, "occupied": rng.random(particles) < 0.6}
    ).astype({"occupied": int})


def made_scores() -> dict:
    clusters = [
        {"cluster": k, "particles": 100.0 * k, "swing": 10.0 * k - 25, "swing_deviation": 8.0, "occupied": k / 4}
        | {"resolution_0.5": 12.0, "resolution_0.143": 9.0, "fsc": [1.0] * 17}
        for k in (1, 2, 3, 4)
    ]
    return {
        "particles": 600,
        "analysis": {
            "swing_r2": 0.912, "swing_error": 6.1, "occupancy_linear_probe": 0.973, "occupancy_clusters": 0.961,
        },
        "oracle": {"swing_r2": 0.951, "swing_error": 4.0, "occupancy_linear_probe": 0.991, "scale": 1.0},
        "clusters": clusters,
        "matches": [{"cluster_even": 1, "cluster_odd": 1, "same_states": True}],
    }  # fmt: skip


def make_results(results: Path, particles: int = 600, umap: bool = False) -> Path:
    """A whole tree below results/{dataset}, with one analysis, `main`."""
    write_csv(results / "simulated" / "truth.csv", made_truth(particles))
    for split in SPLITS:
        make_split(results, split, particles, umap)
    write_json(results / "truth" / "main.json", made_scores())
    halves = {split: results / split / "main" for split in SPLITS[1:]}
    for split, folder in halves.items():
        make_crossed(folder, 10 + SPLITS.index(split))
    null = results / "null1" / "agreement" / "main" / "verdict.json"
    write_json(null, {"scores": {name: 0.1 for name in SCORES}})
    agreement.agreement(**halves, out=results / "agreement" / "main", nulls=[null], options=agreement.Options())
    provenance = {
        "gaussemble": "0.1.0",
        "written": "2026-01-01T00:00:00+00:00",
        "python": "3.11.7",
        "platform": "Linux",
        "packages": {"torch": "2.13.0", "snakemake": None},
        "seeds": {"analyses.main.latent.seed": 0},
        "inputs": [
            {"path": "run_data.star", "bytes": 1000, "modified": "2026-01-01T00:00:00+00:00", "sha256": "ab" * 32}
        ],
        "config": {
            "dataset": results.name,
            "seeds": {"model": "model.cif"},
            "simulate": {"snr": 0.05},
            "analyses": {"main": {"latent": {"clusters": 4, "umap": umap}}},
        },
    }
    write_json(results / "provenance.json", provenance)
    return results
