"""Training on this machine: particles a second, where a step's time goes, and memory at 10,000 and 100,000 particles.

    PYTHONPATH=workflow python tests/bench/training.py [--quick]

10,000 particles of 64 pixels of 4 Å, compared to 12 Å; 512 Gaussians, the default networks. The images are noise, which
takes as long as particles do. Each figure is of a process of its own: its peak memory is its own, and so is its time.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from gaussemble.fit import heterogeneity as stage
from gaussemble.fit.band import open_band
from gaussemble.fit.embedding import posteriors
from gaussemble.fit.losses import likelihood
from gaussemble.fit.penalties import standing_for_all
from gaussemble.fit.population import populate
from gaussemble.fit.regions import Ground, memberships
from gaussemble.fit.rounds import Round
from gaussemble.fit.study import Study, batches, shuffled, source
from gaussemble.fit.training import TrainingOptions, encode_all, train
from gaussemble.io.store import open_store, write_particles, written_images
from gaussemble.model.heterogeneity import DeformableMixture
from gaussemble.physics.rotations import random_rotations
from gaussemble.quantities import ContrastTransfer, Map, Mixture, Particles

BOX, PIXEL, RESOLUTION, GAUSSIANS = 64, 4.0, 12.0, 512
SMALL = 32  # pixels along an edge where memory is measured


def write_noise(folder: Path, count: int, box: int) -> None:
    """A store of random poses and white noise."""
    generator = torch.Generator().manual_seed(0)

    def same(value: float) -> torch.Tensor:
        return torch.full((count,), value)

    defocus = 12000 + 10000 * torch.rand(count, generator=generator)
    ctf = ContrastTransfer(
        defocus, defocus - 400, same(0.6), same(300e3), same(2.7e7), same(0.1), same(0.0), same(0.0), same(1.0)
    )
    shift = 4 * torch.randn(count, 2, generator=generator)
    rotation = random_rotations(count, generator).float()
    with written_images(folder, box) as writer:
        for start in range(0, count, 1000):
            writer.append(torch.randn(min(1000, count - start), box, box, generator=generator))
    write_particles(folder, Particles(torch.arange(count), rotation, shift, ctf, same(0).long()), box, PIXEL)


def molecule(gaussians: int) -> Mixture:
    """A cloud that fills half of the box, of Gaussians of 5 Å."""
    generator = torch.Generator().manual_seed(0)
    center = BOX * PIXEL / 8 * torch.randn(gaussians, 3, generator=generator)
    return Mixture(center, 0.5 + torch.rand(gaussians, generator=generator), torch.full((gaussians,), 5.0))


def prepare(folder: Path, gaussians: int) -> tuple[DeformableMixture, Study, list[Round]]:
    """As the stage does, with its default options."""
    store, options = open_store(folder), stage.Options(latent_dim=4)
    ground = Ground(molecule(gaussians), Map(torch.zeros(BOX, BOX, BOX), PIXEL))
    sections, keys = stage.decoder_sections(options, None)
    decoders = sections, memberships(sections, keys, ground)
    band = open_band(store, torch.full((1, store.box // 2 + 1), float(store.box**2)), RESOLUTION)
    return stage.prepare(band, ground, decoders, RESOLUTION, torch.device("cpu"), options)


def peak() -> float:
    """MB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def whole(folder: Path, gaussians: int, epochs: float) -> dict[str, float]:
    """Seconds of what comes before training, of an epoch of each round, of embedding; and peak memory."""
    start = time.perf_counter()
    model, study, rounds = prepare(folder, gaussians)
    before = time.perf_counter() - start
    rounds = [replace(each, epochs=epochs) for each in rounds if not each.population]
    history = train(model, study, TrainingOptions(), rounds)
    ends = history.groupby("round")["seconds"].max().tolist()
    start = time.perf_counter()
    gains = populate(model, study, lambda: encode_all(model, study), 0)
    compare = time.perf_counter() - start
    posteriors(model, study.band, gains, 2, study.device)
    embed = time.perf_counter() - start - compare
    coarse, fine = ends[0] / epochs, (ends[1] - ends[0]) / epochs
    times = {"prepare": before, "coarse": coarse, "fine": fine, "compare": compare, "embed": embed}
    return times | {"megabytes": peak()}


def stages(folder: Path, gaussians: int) -> dict[str, float]:
    """Best milliseconds of each part of a step in the whole band; the parts' sum and the step itself."""
    model, study, _ = prepare(folder, gaussians)
    options, rows = TrainingOptions(), torch.nonzero(~study.held_out).flatten()
    order = shuffled(study, rows, source(0))
    portion = next(batches(study, order, options.batch, 0))[2]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-6, fused=True)
    evidence, batch = study.evidence(portion.rows, None, portion.gradient), study.band.batch(portion.rows)
    latent = torch.randn(len(portion.rows), 4)
    mixture = model.decode(latent)
    parts = [part.detach().requires_grad_() for part in (mixture.center, mixture.amplitude, mixture.width)]
    standing = standing_for_all(len(portion.rows))
    slopes = [torch.randn_like(part) for part in parts]

    def decode() -> None:
        decoded = model.decode(latent)
        ends = [(decoded.center, slopes[0]), (decoded.amplitude, slopes[1])]
        torch.autograd.backward([end for end, _ in ends], [slope for _, slope in ends])

    def read() -> None:
        for _ in batches(study, order, options.batch, 0):
            pass

    count = len(list(batches(study, order, options.batch, 0)))
    return {
        "reading the particles": best(read, 3) / count,
        "CTF and weights": best(lambda: study.band.batch(portion.rows, image=portion.image)),
        "encoder": best(lambda: model.encode(evidence).sum().backward()),
        "decoder": best(decode),
        "projection and loss": best(lambda: likelihood(batch, batch.predict(Mixture(*parts))).sum().backward()),
        "rigidity": best(lambda: model.penalty(Mixture(*parts), standing).sum().backward()),
        "gradient's norm": best(lambda: nn.utils.clip_grad_norm_(model.parameters(), 1e9)),
        "optimiser": best(optimizer.step),
    }


def best(function: Callable[[], object], repeats: int = 20) -> float:
    """Shortest of some calls, in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)


def child(*arguments: object) -> dict[str, float]:
    """A figure from a process of its own."""
    command = [sys.executable, __file__, "--figure", *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def print_tables(folder: Path, quick: bool) -> None:
    """All figures."""
    count, epochs = (2_000, 1.0) if quick else (10_000, 2.0)
    write_noise(folder / "large", count, BOX)
    timed = child("whole", folder / "large", GAUSSIANS, epochs)
    scale = 10_000 / count
    print(
        f"{count} particles of {BOX} px to {RESOLUTION:g} Å, {GAUSSIANS} Gaussians, {torch.get_num_threads()} threads"
    )
    print("\n| | s for 10,000 particles | particles/s |\n|---|---|---|")
    names = {"prepare": "before training", "coarse": "epoch at half the resolution", "fine": "epoch in the whole band"}
    names |= {"compare": "comparing with 512 landmarks", "embed": "posteriors"}
    for key, name in names.items():
        print(f"| {name} | {scale * timed[key]:.2f} | {count / timed[key]:.0f} |")
    total = scale * (timed["prepare"] + 6 * timed["coarse"] + 9 * timed["fine"])
    print(f"| 15 epochs, with what comes before | {total:.0f} | |")
    total += scale * (4 * (timed["compare"] + 3 * timed["fine"]) + timed["compare"] + timed["embed"])
    print(f"| the same with 4 rounds of the population, and posteriors | {total:.0f} | |")

    parts = child("stages", folder / "large", GAUSSIANS)
    step = 9 / 10 * count / round(9 / 10 * count / 64)
    print(f"\n| part of a step of {step:.0f} particles | ms | share |\n|---|---|---|")
    for name, value in parts.items():
        print(f"| {name} | {value:.2f} | {value / sum(parts.values()):.0%} |")

    print(f"\n| particles of {SMALL} px | peak memory, MB | temporary files, MB |\n|---|---|---|")
    for number in (2_000, 20_000) if quick else (10_000, 100_000):
        write_noise(folder / str(number), number, SMALL)
        memory = child("whole", folder / str(number), 64, 0.2)["megabytes"]
        with_inputs = prepare_bytes(folder / str(number)) * number / 1e6
        print(f"| {number} | {memory:.0f} | {with_inputs:.0f} |")


def prepare_bytes(folder: Path) -> int:
    """Bytes a particle in temporary files."""
    box = open_store(folder).box
    rings = int(box * PIXEL / RESOLUTION) + 2
    return min(box, 2 * rings) * (min(box, 2 * rings) // 2 + 1) * 8 + 64 * 4 * 2 * 4


def main() -> None:
    """Print the tables, or one figure as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--figure", nargs="+")
    arguments = parser.parse_args()
    if arguments.figure:
        what, folder, gaussians, *rest = arguments.figure
        function = {"whole": whole, "stages": stages}[what]
        print(json.dumps(function(Path(folder), int(gaussians), *map(float, rest))))
        return
    with tempfile.TemporaryDirectory() as folder:
        print_tables(Path(folder), arguments.quick)


if __name__ == "__main__":
    main()
