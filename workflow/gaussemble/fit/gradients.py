"""What the encoder sees of a particle: the gradient of its loss with respect to the neutral mixture (e2gmm).

The gradient knows the particle's pose and CTF and lives in the molecule's frame. It is pooled over groups of
neighbouring Gaussians, which is the exact gradient for moving (or fading) a group as one, so that nothing of size
particles x Gaussians is ever held.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from torch import Tensor

from gaussemble.fit.band import Band, Batch
from gaussemble.fit.losses import Loss
from gaussemble.progress import progress
from gaussemble.quantities import Mixture

BATCH = 64  # what a processor core keeps in its cache
COLUMNS = {"position": (0, 1, 2), "amplitude": (3,), "width": (4,)}  # of `particle_gradients`
BANDS = (0.5, 1.0)  # of the highest frequency: the coarse gradient points further, the fine one more exactly


@dataclass(frozen=True)
class Pooling:
    """Which group each Gaussian belongs to, and the gradient's columns that count: those of what may vary."""

    group: Int[Tensor, " gaussian"]  # -1: none, it does not vary
    groups: int
    columns: list[int]

    @property
    def inputs(self) -> int:
        """Length of the encoder's input."""
        return len(BANDS) * len(self.columns) * self.groups

    def __call__(self, values: Float[Tensor, "image gaussian 5"]) -> Float[Tensor, "image group column"]:
        """Sums over the groups."""
        group = self.group.to(values.device)
        pooled = values.new_zeros(len(values), self.groups, len(self.columns))
        return pooled.index_add_(1, group[group >= 0], values[:, group >= 0][..., self.columns])


def make_pooling(neutral: Mixture, varies: Tensor, groups: int, variables: list[str], seed: int) -> Pooling:
    """Groups of neighbours by k-means over the Gaussians that vary; `variables` are keys of `COLUMNS`."""
    groups = min(groups, int(varies.sum()))
    labels = KMeans(groups, n_init="auto", random_state=seed).fit_predict(neutral.center[varies].numpy())
    group = torch.full((len(neutral),), -1)
    group[varies] = torch.from_numpy(labels).long()
    return Pooling(group, groups, [column for name in variables for column in COLUMNS[name]])


def particle_gradients(batch: Batch, neutral: Mixture, loss: Loss, length: float) -> Float[Tensor, "image gaussian 5"]:
    """-dL/d(center) times `length` Å, -dL/d(log amplitude), -dL/d(log width) of each particle at the neutral one."""
    each = neutral.expand(len(batch))
    center, amplitude, width = (part.clone().requires_grad_() for part in (each.center, each.amplitude, each.width))
    total = loss(batch, batch.predict(Mixture(center, amplitude, width))).sum()
    by_center, by_amplitude, by_width = torch.autograd.grad(total, (center, amplitude, width))
    relative = torch.stack([neutral.amplitude * by_amplitude, neutral.width * by_width], dim=-1)
    return -torch.cat([length * by_center, relative], dim=-1)


def gradient_inputs(
    batch: Batch, neutral: Mixture, loss: Loss, pooling: Pooling, length: float
) -> Float[Tensor, "image input"]:
    """The pooled gradients of some particles in the bands of `BANDS`: what the encoder reads."""
    parts = [batch if factor == 1 else batch.coarser(factor) for factor in BANDS]
    pooled = [pooling(particle_gradients(part, neutral, loss, length)) for part in parts]
    return torch.stack(pooled, dim=1).flatten(start_dim=1)


def encoder_inputs(
    band: Band, neutral: Mixture, loss: Loss, pooling: Pooling, length: float, device: torch.device
) -> Float[Tensor, "image input"]:
    """`gradient_inputs` of all particles of a band that fits in memory, on the CPU."""
    inputs = torch.empty(len(band), pooling.inputs)
    batches = band.batches(BATCH, device)
    for rows, batch in progress(batches, "gradients", total=-(-len(band) // BATCH)):
        inputs[rows] = gradient_inputs(batch, neutral, loss, pooling, length).cpu()
    return inputs
