"""Rigid bodies in a decoded motion: which Gaussians move together, and how each body moves in each particle.

Bodies are found as by k-means whose means are rigid motions: each Gaussian belongs to the body whose motions, one for
each of some particles, foretell its places best (with its neighbours', so that bodies are compact); each body's motions
are the least-squares rotations and translations of its Gaussians (Kabsch, Acta Cryst. A32, 922 (1976)).
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.ndimage import distance_transform_edt
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

Motion = tuple[Float[Tensor, "... 3 3"], Float[Tensor, "... 3"]]  # x -> rotation x + translation, Å

ROUNDS = 30  # of assignment and fit, at most
NEIGHBOURS = 4  # whose errors count with a Gaussian's own; itself is one of them
GAIN = 0.2  # of the mean square that the whole as one body leaves: what each further body must explain
LEAST = 8  # Gaussians of a body; fewer hold no rotation


def rigid_motion(
    start: Float[Tensor, "gaussian 3"],
    place: Float[Tensor, "image gaussian 3"],
    weight: Float[Tensor, "#image gaussian"],
) -> Motion:
    """For each image the rotation and translation that bring `start` nearest to `place`, in weighted least squares."""
    share = weight / weight.sum(-1, keepdim=True)
    share = share.expand(place.shape[:2])
    before, after = share @ start, torch.einsum("ig,igx->ix", share, place)
    product = torch.einsum("ig,igx,gy->ixy", share, place, start) - after[:, :, None] * before[:, None, :]
    left, _, right = torch.linalg.svd(product.double())
    sign = torch.ones(len(place), 3, dtype=torch.float64)
    sign[:, 2] = torch.linalg.det(left @ right).sign()
    rotation = (left * sign[:, None, :] @ right).to(start)
    return rotation, after - torch.einsum("ixy,iy->ix", rotation, before)


def moved(motion: Motion, start: Float[Tensor, "gaussian 3"]) -> Float[Tensor, "*image gaussian 3"]:
    """Where motions take the Gaussians."""
    rotation, translation = motion
    return start @ rotation.mT + translation[..., None, :]


def find_bodies(
    start: Float[Tensor, "gaussian 3"],
    place: Float[Tensor, "image gaussian 3"],
    weight: Float[Tensor, " gaussian"],
    most: int,
    tolerance: float,
    seed: int = 0,
) -> tuple[Int[Tensor, " gaussian"], float]:
    """The body of each Gaussian, and Å (root mean square, weighted) that rigid bodies leave unexplained.

    Args:
        start: the Gaussians at rest.
        place: where they are in some particles.
        weight: of each Gaussian.
        most: bodies at most.
        tolerance: Å; no more bodies are made than leave so much unexplained.
        seed: of the first assignment.
    """
    near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(start))).fit(start.numpy()).kneighbors(start.numpy())[1]
    member = torch.zeros(len(start), dtype=torch.long)
    left = whole = _left(_errors(start, place, weight, member), weight, len(place))
    for count in range(2, most + 1):
        if left <= tolerance:
            break
        found, error = _assigned(start, place, weight, count, torch.from_numpy(near), seed)
        if int(found.max()) < count - 1 or left**2 - error**2 < GAIN * whole**2:
            break
        member, left = found, error
    return member, left


def _assigned(
    start: Tensor, place: Tensor, weight: Tensor, count: int, near: Int[Tensor, "gaussian near"], seed: int
) -> tuple[Int[Tensor, " gaussian"], float]:
    """So many bodies (fewer where some are too small), and what they leave, in Å."""
    change = (place - start).transpose(0, 1).flatten(1)
    means = KMeans(count, n_init=4, random_state=seed)  # pyright: ignore[reportArgumentType]
    member = means.fit_predict(change.numpy(), sample_weight=weight.numpy())
    member = _numbered(torch.from_numpy(member).long())
    for _ in range(ROUNDS):
        errors = _errors(start, place, weight, member)
        found = _nearest_body(errors, near)
        sizes = torch.bincount(found, minlength=len(errors))
        errors[sizes < LEAST] = torch.inf
        found = _numbered(_nearest_body(errors, near))
        if torch.equal(found, member):
            break
        member = found
    return member, _left(_errors(start, place, weight, member), weight, len(place))


def _nearest_body(errors: Float[Tensor, "body gaussian"], near: Int[Tensor, "gaussian near"]) -> Tensor:
    """The body that foretells each Gaussian and its neighbours best; it counts as much as they do together."""
    return (errors + errors[:, near].mean(-1)).argmin(0)


def _errors(start: Tensor, place: Tensor, weight: Tensor, member: Tensor) -> Float[Tensor, "body gaussian"]:
    """Squared error of each Gaussian's places, summed over the images, if it moved with each body."""
    motions = [rigid_motion(start, place, (weight * (member == body))[None]) for body in range(int(member.max()) + 1)]
    return torch.stack([(moved(motion, start) - place).square().sum((0, 2)) for motion in motions])


def _left(errors: Float[Tensor, "body gaussian"], weight: Tensor, images: int) -> float:
    """Å that is left where each Gaussian moves with its best body."""
    return float(((errors.min(0).values * weight).sum() / weight.sum() / images).sqrt())


def _numbered(member: Tensor) -> Tensor:
    """Bodies numbered without gaps."""
    return torch.unique(member, return_inverse=True)[1]


def about_mean(motion: Motion, center: Float[Tensor, " 3"]) -> tuple[Motion, Motion]:
    """The mean motion of a body, and each motion after its inverse.

    The mean takes the body's centre to the mean place, and turns by the rotation nearest to the mean matrix. A body's
    mean place is a property of the particles and not of what was chosen to be at rest: two halves of the data find the
    same.
    """
    rotation, translation = motion
    left, _, right = torch.linalg.svd(rotation.double().mean(0))
    sign = torch.tensor([1.0, 1.0, float(torch.linalg.det(left @ right).sign())], dtype=torch.float64)
    turn = ((left * sign) @ right).to(center)
    shift = (rotation @ center + translation).mean(0) - turn @ center
    back = rotation @ turn.mT
    return (turn, shift), (back, translation - back @ shift)


def body_weights(bodies: list[Tensor], box: int, pixel_size: float, softness: float) -> Float[Tensor, "body z y x"]:
    """How much of each voxel is each body's, adding up to 1: softmax of -distance / softness (Å) to its Gaussians.

    `bodies`: (gaussian, 3) Å of each.
    """
    weights = torch.empty(len(bodies), box, box, box)
    for body, center in enumerate(bodies):
        free = torch.ones(box, box, box, dtype=torch.bool)
        x, y, z = ((center / pixel_size).round().long() + box // 2).clamp(0, box - 1).unbind(-1)
        free[z, y, x] = False
        weights[body] = torch.from_numpy(np.asarray(distance_transform_edt(free.numpy())))
    return torch.softmax(-weights * (pixel_size / softness), dim=0)
