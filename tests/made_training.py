"""A small training, here or in a process of its own that may be killed."""

import multiprocessing
import os
import resource
import signal
import socket
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from gaussemble.fit import study as study_module
from gaussemble.fit.band import open_band
from gaussemble.fit.distributed import is_first, rank, workers
from gaussemble.fit.gradients import gradient_inputs, make_pooling
from gaussemble.fit.losses import LOSSES
from gaussemble.fit.rounds import Round
from gaussemble.fit.study import Study, choose_held_out, make_study
from gaussemble.fit.training import TrainingOptions, encode_all, train
from gaussemble.io.store import open_store
from gaussemble.model.heterogeneity import DeformableMixture, build_model, single_design
from tiny import BOX, PIXEL, molecule, white_noise_power

RESOLUTION = 16.0
ROUNDS = [Round(None, 1.5, 2 * RESOLUTION, None, "fixed"), Round(None, 2.0, None, 2e-3, "trainable")]
ROUNDS += 2 * [Round(None, 1.0, None, 1e-3, "trainable", population=True)]
LANDMARKS = 64  # enough to learn from; posteriors that keep their word want more
SMALL: dict[str, Any] = {"batch": 32, "learning_rate": 4e-3, "checkpoint_seconds": 0.0}

children = multiprocessing.get_context("forkserver")
children.set_forkserver_preload(["made_training"])


def make_study_of(folder: Path, noise: float = 0.3, loss: str = "likelihood", held_out: float = 0.1) -> Study:
    """Of a store in a folder (see tiny.make_store); the encoder reads gradients over 12 groups."""
    store, neutral = open_store(folder), molecule()
    band = open_band(store, white_noise_power(noise), RESOLUTION)
    pooling = make_pooling(neutral, torch.ones(len(neutral), dtype=torch.bool), 12, ["position", "amplitude"], 0)
    seen = partial(gradient_inputs, neutral=neutral, loss=LOSSES[loss], pooling=pooling, length=RESOLUTION)
    chosen = choose_held_out(store.particles.particle, held_out, 0)
    return make_study(band, LOSSES[loss], neutral, seen, {2 * RESOLUTION}, chosen)


def make_model(
    study: Study, dropout: float = 0.0, second: bool = False, landmarks: int = LANDMARKS, **changes
) -> DeformableMixture:
    """Small networks that start at the principal components; `second`: a decoder of the arm beside the first."""
    neutral = molecule()
    design = single_design(
        gaussians=len(neutral), latent_dim=2, inputs=study.gradients.shape[0], hidden=32, layers=2, dropout=dropout,
        field=BOX * PIXEL, length=RESOLUTION, **changes,
    )  # fmt: skip
    design = replace(design, landmarks=landmarks)
    members = [torch.ones(len(neutral), dtype=torch.bool)]
    if second:
        first = design.decoders[0]
        design = replace(design, decoders=(first, replace(first, name="second", gaussians=8)))
        members.append(torch.arange(len(neutral)) >= 16)
    model = build_model(design, neutral, members, 0)
    model.encoder.start_at_components(study.sampled_evidence(1000, model.encoder.reads_images))
    return model


def trained(
    folder: Path,
    rounds=None,
    checkpoint: Path | None = None,
    dropout: float = 0.0,
    second: bool = False,
    portion: int = 64 << 20,
    **changes,
):
    """(history without seconds, weights, latents) of a training; `portion`: bytes of particles in memory."""
    study_module.PORTION, study_module.BLOCK = portion, portion // 64
    study = make_study_of(folder)
    model = make_model(study, dropout, second)
    history = train(model, study, TrainingOptions(**(SMALL | changes)), rounds or ROUNDS, checkpoint)
    return history.drop(columns="seconds"), model.state_dict(), encode_all(model, study)


def in_child(folder: Path, results: Path, environment: dict[str, str], changes: dict[str, Any]) -> None:
    """Train and write results.pt; what is said goes to results.txt, of rank 0 alone."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.stderr = results.with_suffix(".txt").open("a", buffering=1)
    with workers("cpu"):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        history, weights, latent = trained(folder, **changes)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said = {"history": history.to_dict("list"), "weights": weights, "latent": latent, "rank": rank()}
        if is_first():
            torch.save(said | {"megabytes": (after - before) / 1024}, results)


def start(folder: Path, results: Path, environment: dict[str, str] | None = None, **changes):
    """A child process that trains; see `in_child`."""
    child = children.Process(target=in_child, args=(folder, results, environment or {}, changes))
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}  # the server that forks the children has no other way to know
    with mock.patch.dict(os.environ, paths):
        child.start()
    return child


def processes_of(count: int) -> list[dict[str, str]]:
    """What torchrun puts into the environment of each of so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [common | {"RANK": str(number), "LOCAL_RANK": str(number)} for number in range(count)]
