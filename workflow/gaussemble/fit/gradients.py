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
COLUMNS = 4  # x, y, z, amplitude
BANDS = (0.5, 1.0)  # of the highest frequency: the coarse gradient points further, the fine one more exactly


@dataclass(frozen=True)
class Pooling:
    """Which group each Gaussian belongs to; -1: none, it does not vary."""

    group: Int[Tensor, " gaussian"]
    groups: int

    @property
    def inputs(self) -> int:
        """Length of the encoder's input."""
        return len(BANDS) * COLUMNS * self.groups

    def __call__(self, values: Float[Tensor, "image gaussian column"]) -> Float[Tensor, "image group column"]:
        """Sums over the groups."""
        kept = self.group.to(values.device) >= 0
        pooled = values.new_zeros(len(values), self.groups, values.shape[-1])
        return pooled.index_add_(1, self.group.to(values.device)[kept], values[:, kept])


def make_pooling(neutral: Mixture, varies: Tensor, groups: int, seed: int) -> Pooling:
    """Groups of neighbours by k-means over the Gaussians that vary."""
    groups = min(groups, int(varies.sum()))
    labels = KMeans(groups, n_init="auto", random_state=seed).fit_predict(neutral.center[varies].numpy())
    group = torch.full((len(neutral),), -1)
    group[varies] = torch.from_numpy(labels).long()
    return Pooling(group, groups)


def particle_gradients(batch: Batch, neutral: Mixture, loss: Loss, length: float) -> Float[Tensor, "image gaussian 4"]:
    """-dL/d(center) times `length` Å, and -dL/d(log amplitude), of each particle at the neutral mixture."""
    each = neutral.expand(len(batch))
    center, amplitude = each.center.clone().requires_grad_(), each.amplitude.clone().requires_grad_()
    total = loss(batch, batch.predict(Mixture(center, amplitude, each.width))).sum()
    by_center, by_amplitude = torch.autograd.grad(total, (center, amplitude))
    return -torch.cat([length * by_center, (neutral.amplitude * by_amplitude)[..., None]], dim=-1)


def encoder_inputs(
    band: Band, neutral: Mixture, loss: Loss, pooling: Pooling, length: float, device: torch.device
) -> Float[Tensor, "image input"]:
    """The pooled gradients of all particles in the bands of `BANDS`, on the CPU."""
    inputs = torch.empty(len(band), pooling.inputs)
    batches = band.batches(BATCH, device)
    for rows, batch in progress(batches, "gradients", total=-(-len(band) // BATCH)):
        pooled = [
            pooling(particle_gradients(batch if factor == 1 else batch.coarser(factor), neutral, loss, length))
            for factor in BANDS
        ]
        inputs[rows] = torch.stack(pooled, dim=1).flatten(start_dim=1).cpu()
    return inputs
