"""Classes as a few decoded structures that share the particles out among them by likelihood.

k-means and mixtures divide latents, each of which has been drawn towards the prior by as much as its view is poor. Here
the latents of K structures are moved until `sum_i log sum_k share_k p(particle_i | decode(z_k))` is greatest: every
particle is compared with the K structures themselves, as in 3D classification, and says by its probabilities how sure
it is. It costs about as much as K passes of scoring; start it from k-means.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaussemble.fit.band import Band, Batch
from gaussemble.fit.losses import likelihood
from gaussemble.model.heterogeneity import DeformableMixture
from gaussemble.progress import progress, say
from gaussemble.quantities import Mixture

Decode = Callable[[Tensor], Mixture]
BATCH = 128  # particles a step
STEPS = 60  # at least; a pass over few particles has too few
BLOCK = 64  # particles compared at a time
RATE = 0.05  # of Adam, in units of the latents' prior


@dataclass(frozen=True)
class DecodedClasses:
    """Latents of the classes' structures, and their shares of the particles."""

    latent: Float[Tensor, "component latent"]
    share: Float[Tensor, " component"]

    def __len__(self) -> int:
        return len(self.share)


def fit_classes(
    decode: Decode,
    band: Band,
    start: Float[Tensor, "component latent"],
    passes: int = 1,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> DecodedClasses:
    """Classes of the greatest likelihood, by stochastic steps from `start` with equal shares.

    Args:
        decode: of a trained model: latents to mixtures.
        band: the particles, with the gain that the model was trained with.
        start: latents of the classes' first structures.
        passes: over the particles, more where they are few; the rate falls to 0 by the end.
        seed: of the particles' order.
        device: where the model is.
    """
    latent = start.detach().clone().float().to(device).requires_grad_()
    logit = torch.zeros(len(start), device=device, requires_grad=True)
    generator = torch.Generator().manual_seed(seed)
    steps = max(1, round(len(band) / BATCH))
    orders = [torch.randperm(len(band), generator=generator) for _ in range(max(passes, -(-STEPS // steps)))]
    batches = [rows for order in orders for rows in torch.tensor_split(order, steps)]
    optimizer = torch.optim.Adam([latent, logit], RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / len(batches))
    for rows in progress(batches, "decoded classes"):
        losses = class_losses(band.batch(rows, device), decode(latent))
        objective = -(torch.log_softmax(logit, 0) - losses).logsumexp(1).mean()
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        schedule.step()
    return DecodedClasses(latent.detach().cpu(), torch.softmax(logit.detach(), 0).cpu())


def class_probabilities(
    model: DeformableMixture,
    band: Band,
    start: Float[np.ndarray, "component latent"],
    passes: int = 1,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Float[np.ndarray, "particle component"]:
    """Probabilities of the classes that a model's structures form, from `start`; see `fit_classes`."""
    model = model.to(device).requires_grad_(False)
    classes = fit_classes(model.decode, band, torch.from_numpy(start), passes, seed, device)
    say("latent: shares of the decoded classes " + ", ".join(f"{share:.1%}" for share in classes.share.tolist()))
    return memberships(model.decode, band, classes, device).double().numpy()


def class_losses(batch: Batch, structures: Mixture) -> Float[Tensor, "image component"]:
    """Negative log-likelihood of each particle under each structure, which all particles share."""
    each = zip(structures.center, structures.amplitude, structures.width, strict=True)
    return torch.stack([likelihood(batch, batch.predict(Mixture(*one))) for one in each], dim=1)


@torch.no_grad()
def memberships(
    decode: Decode, band: Band, classes: DecodedClasses, device: torch.device | str = "cpu"
) -> Float[Tensor, "particle component"]:
    """Probability of each class for each particle."""
    structures, share = decode(classes.latent.to(device)), classes.share.log()
    probability = torch.empty(len(band), len(classes))
    for rows in torch.arange(len(band)).split(BLOCK):
        losses = class_losses(band.batch(rows, device), structures).cpu()
        probability[rows] = torch.softmax(share - losses, dim=1)
    return probability


def most_probable(probability: Float[Tensor, "particle component"]) -> Int[Tensor, " particle"]:
    """Class of each particle, from 0."""
    return probability.argmax(1)
