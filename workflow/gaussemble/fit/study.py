"""What one training works on, and the order in which it sees it: particles on disk, in memory a few bytes of each.

An epoch's order is a function of the seed and the epoch's number. The particles are cut into blocks that lie together
on disk; the blocks are shuffled, strung together, cut into portions that fit in memory, and each portion is shuffled.
So the disk reads pieces of a megabyte and never single particles, a batch comes from many places of the data, and
particles that met in one portion are apart in the next epoch. While one portion is used the next one is read.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.fit.band import Band, Batch
from gaussemble.fit.distributed import barrier, combine, share
from gaussemble.fit.losses import Loss
from gaussemble.fit.scratch import Table, make_table
from gaussemble.model.encoders import Evidence, gradient_evidence
from gaussemble.progress import progress
from gaussemble.quantities import Mixture

EVALUATION_BATCH = 64  # what a processor core keeps in its cache
PORTION = 64 << 20  # bytes of particles in memory, and as many that are being read
BLOCK = 1 << 20  # bytes that lie together on disk


@dataclass(frozen=True)
class Portion:
    """Some particles whose data have been read."""

    rows: Int[Tensor, " image"]
    image: Complex[Tensor, "image y half_x"]
    gradient: Float[Tensor, "image input"]

    def __getitem__(self, part: slice) -> "Portion":
        """A part of them."""
        return Portion(self.rows[part], self.image[part], self.gradient[part])


@dataclass(frozen=True)
class Study:
    """What one training works on."""

    band: Band
    gradients: Table  # (image, input) float32: what the encoder reads; without columns where it reads images only
    held_out: Bool[Tensor, " image"]
    baselines: dict[float | None, Float[Tensor, " image"]]  # each particle's loss under the neutral mixture, by Å
    loss: Loss
    device: torch.device

    def __len__(self) -> int:
        return len(self.band)

    @property
    def baseline(self) -> Float[Tensor, " image"]:
        """Loss of each particle under the neutral mixture, in the whole band."""
        return self.baselines[None]

    def evidence(
        self,
        rows: Int[Tensor, " image"],
        batch: Batch | None = None,
        gradient: Float[Tensor, "image input"] | None = None,
    ) -> Evidence:
        """What the encoder sees of some particles.

        Args:
            rows: their rows in the store.
            batch: theirs in the whole band, where the encoder reads images.
            gradient: where it has been read already.
        """
        gradient = (self.gradients.read(rows) if gradient is None else gradient).to(self.device)
        if batch is None:
            return gradient_evidence(gradient)
        return Evidence(gradient, batch.image, batch.transfer, batch.rotation)

    def read(self, rows: Int[Tensor, " image"]) -> Portion:
        """Data of some particles, from disk."""
        return Portion(rows, self.band.transforms.read(rows), self.gradients.read(rows))

    def passed(self, what: str) -> Iterator[tuple[Tensor, Batch]]:
        """This process's share of all particles in order, with a line of progress: (rows, batch)."""
        own = share(len(self))
        total = -(-(own.stop - own.start) // EVALUATION_BATCH)
        return progress(self.band.batches(EVALUATION_BATCH, self.device), what, total=total)

    def sampled_evidence(self, most: int, images: bool) -> Iterator[Evidence]:
        """What the encoder sees of at most so many particles, evenly from all, batch by batch; `images`: those too."""
        for rows in torch.arange(len(self))[:: max(1, -(-len(self) // most))].split(EVALUATION_BATCH):
            yield self.evidence(rows, self.band.batch(rows, self.device) if images else None)


def make_study(
    band: Band,
    loss: Loss,
    neutral: Mixture,
    seen: Callable[[Batch], Float[Tensor, "image input"]],
    resolutions: set[float | None],
    held_out: Bool[Tensor, " image"],
) -> Study:
    """One pass over the particles for what the encoder reads of them and their losses under the neutral mixture.

    Args:
        band: the particles.
        loss: that training lowers.
        neutral: the mixture at rest, on the device where training runs.
        seen: the encoder's inputs of a batch.
        resolutions: Å, of the rounds of training; None is the whole band, which is always there.
        held_out: which particles training does not see.

    Raises:
        InputError: a particle without a finite loss or gradient, by its number.
    """
    device = neutral.center.device
    inputs = seen(band.batch(torch.arange(1), device)).shape[1]
    study = Study(band, make_table(len(band), (inputs,), np.float32), held_out, {}, loss, device)
    baselines = {each: torch.zeros(len(band)) for each in (None, *sorted(filter(None, resolutions)))}
    for rows, batch in study.passed("gradients"):
        values = seen(batch).cpu()
        refuse_non_finite(band, rows, values, "its loss has no finite gradient; look at its image and CTF")
        study.gradients.write(int(rows[0]), values)
        for resolution, baseline in baselines.items():
            part = batch if resolution is None else batch.coarser(band.resolution / resolution)
            with torch.no_grad():
                baseline[rows] = loss(part, part.predict(neutral)).cpu()
    barrier()
    study.baselines.update({resolution: combine(baseline) for resolution, baseline in baselines.items()})
    return study


def refuse_non_finite(band: Band, rows: Int[Tensor, " image"], values: Tensor, problem: str) -> None:
    """Raise an InputError that names the first of the particles whose values (image, ...) are not finite."""
    wrong = ~values.isfinite().flatten(start_dim=1).all(1)
    if wrong.any():
        number = int(band.particles.particle[rows[wrong.cpu()]][0])
        raise InputError(f"particle {number}: {problem}")


def choose_held_out(particle: Int[Tensor, " image"], share: float, seed: int) -> Bool[Tensor, " image"]:
    """A random share of the particles, copies together; with a share at least one, but never all."""
    identity = torch.unique(particle, return_inverse=True)[1]
    count = int(identity.max()) + 1
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[order[: min(max(1, int(share * count)), count - 1) if share > 0 else 0]] = True
    return chosen[identity]


def source(*numbers: int) -> torch.Generator:
    """A source of random numbers that is a function of some numbers, so that a restart needs no state of it."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> 1))


def epoch_order(
    rows: Int[Tensor, " image"], block: int, portion: int, generator: torch.Generator
) -> list[Int[Tensor, " _"]]:
    """All rows in a new order, in portions of at most `portion`, each from blocks of `block` rows; see the module."""
    blocks = rows.split(block)
    strung = torch.cat([blocks[number] for number in torch.randperm(len(blocks), generator=generator).tolist()])
    portions = torch.tensor_split(strung, -(-len(rows) // portion))
    return [part[torch.randperm(len(part), generator=generator)] for part in portions]


def cut(portion: Int[Tensor, " image"], size: int) -> list[Int[Tensor, " _"]]:
    """Batches of about `size` rows, as even as can be, so that none is a rest of a few."""
    return list(torch.tensor_split(portion, max(1, round(len(portion) / size))))


def shuffled(study: Study, rows: Int[Tensor, " image"], generator: torch.Generator) -> list[Int[Tensor, " _"]]:
    """An epoch's order, in portions that fit in memory."""
    size = study.band.transforms.row_bytes + study.gradients.row_bytes
    return epoch_order(rows, max(1, BLOCK // size), max(1, PORTION // size), generator)


def batches(
    study: Study, portions: list[Int[Tensor, " _"]], size: int, first: int
) -> Iterator[tuple[int, slice, Portion]]:
    """The batches of an epoch from batch `first` on: rows of the whole batch, this process's part of it, its data."""
    queue: list[list[Tensor]] = []
    for portion in portions:
        parts = cut(portion, size)
        queue += [parts[first:]] if first < len(parts) else []
        first = max(0, first - len(parts))
    with ThreadPoolExecutor(1) as reader:

        def ahead(parts: list[Tensor]):
            return reader.submit(study.read, torch.cat([part[share(len(part))] for part in parts]))

        coming = ahead(queue[0]) if queue else None
        for number, parts in enumerate(queue):
            read = coming.result()  # type: ignore[union-attr]
            coming = ahead(queue[number + 1]) if number + 1 < len(queue) else None
            start = 0
            for part in parts:
                own = share(len(part))
                end = start + own.stop - own.start
                yield len(part), own, read[start:end]
                start = end
