"""A model of the tiny molecule whose arm has a pose, particles of it, and the stage that looks for their poses."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from gaussemble.analysis.crossing import crossing
from gaussemble.fit import pose_mixture
from gaussemble.fit.heterogeneity import Options, heterogeneity
from gaussemble.io.store import write_store
from gaussemble.model.decoders import DecoderDesign
from gaussemble.model.encoders import NO_ENCODER
from gaussemble.model.heterogeneity import DeformableMixture, Design, build_model
from gaussemble.model.pose import POSE
from gaussemble.quantities import Mixture
from made_heterogeneity import NOISE, make_inputs
from tiny import BOX, PIXEL, bent, images, molecule, particles

ARM = torch.arange(24) >= 16


def pose_model(landmarks: int = 2) -> DeformableMixture:
    """The tiny molecule, its arm at a pose."""
    arm = DecoderDesign("main", "pose", 8, True, False, False, length=16.0, hidden=8, layers=1, dropout=0.0, domains=1)
    design = Design(24, POSE, BOX * PIXEL, NO_ENCODER, (arm,), landmarks=landmarks)
    return build_model(design, molecule(), [torch.where(ARM, 0, -1)], seed=0)


def make_bent(folder: Path, generator: torch.Generator, angle: torch.Tensor, noise: float) -> None:
    """The stage's inputs, with particles whose arms are at these angles and noise of a standard deviation."""
    make_inputs(folder, 20, generator)
    known = particles(len(angle), generator)
    write_store(folder / "particles", known, images(known, bent(molecule(), angle), noise, generator), PIXEL)
    table = pd.read_csv(folder / "consensus/noise.csv")
    table["power"] *= (noise / NOISE) ** 2
    table.to_csv(folder / "consensus/noise.csv", index=False)


def found(folder: Path, out: str = "out", checkpoint: Path | None = None, **changes) -> pd.DataFrame:
    """The stage with a pose decoder of what is inside arm.mrc; returns latent.csv."""
    options = {"decoder": "pose", "amplitude": False, "domains": [{"mask": folder / "arm.mrc"}], "resolution": 16.0}
    heterogeneity(
        particles=folder / "particles",
        consensus=folder / "consensus",
        neutral=folder / "mixture.npz",
        out=folder / out,
        checkpoint=checkpoint,
        options=Options(**(options | changes)),
    )
    return pd.read_csv(folder / out / "latent.csv")


def found_though_killed(folder: Path, checkpoint: Path, times: int, **changes) -> pd.DataFrame:
    """The same, ended so many times after a round has been written down, and begun again."""
    wrote = pose_mixture.write_checkpoint

    def write_and_die(*arguments):
        wrote(*arguments)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pose_mixture, "write_checkpoint", write_and_die)
        for _ in range(times):
            with pytest.raises(KeyboardInterrupt):
                found(folder, "killed", checkpoint, **changes)
    assert not (folder / "killed").exists() and checkpoint.exists()
    return found(folder, "killed", checkpoint, **changes)


def crossed(folder: Path, structures: Mixture, noise: float) -> pd.DataFrame:
    """Other particles, of these structures, under the model that was found; returns latent.csv."""
    generator, count = torch.Generator().manual_seed(11), len(structures.center)
    known = particles(count, generator)
    known = replace(known, particle=known.particle + 10_000)
    write_store(folder / "others", known, images(known, structures, noise, generator), PIXEL)
    own = folder / "out"
    crossing(
        particles=folder / "others",
        consensus=folder / "consensus",
        network=own / "model.pt",
        posteriors=own / "posterior.npz",
        out=folder / "crossed",
        options=Options(),
    )
    return pd.read_csv(folder / "crossed/latent.csv")
