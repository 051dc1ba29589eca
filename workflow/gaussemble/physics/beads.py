"""A rigid body as beads, and what images say of many of its poses: loops over images, poses and beads.

A body at a pose predicts of an image that has the transfer T and the residual r (whitened, without the body)

    log p(image | pose) - log p(image | no body) = sum_g a_g m(u_g) - 1/2 sum_k T(k)² |P(k)|²

with a_g a bead's amplitude, u_g where it is seen, m the residual multiplied by T and blurred to a bead's width, and P
the body's projection. So the first term is looked up, bead by bead, in one image; in the second the body's power is the
same in any place and whatever way it is turned in the plane: it depends on T's rings and on the direction from which
the body is seen, and is looked up in a table of directions.
"""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional

from gaussemble.physics.loops import compiled
from gaussemble.physics.projection import project
from gaussemble.physics.rings import ring_means
from gaussemble.quantities import Mixture

FINE = 9.0  # beads spread their Gaussians by at most this part of the resolution (standard deviation along an axis),
FEWEST, MOST = 16, 768  # or are so many; where there are as many Gaussians
BLUR = 1 / 6  # of the resolution: by so much more densities are blurred in which beads are to be the body
RIDGE = 1e-4  # of a bead's overlap with itself
SIDE = 48  # directions along an edge of the table: 2.4 degrees apart, or less
TURN = 0.06  # radians, of the differences that tell how the body's power changes as it turns


@dataclass(frozen=True)
class Beads:
    """A rigid body in a few beads of one width, about its centre."""

    center: Float[Tensor, "3"]  # Å, at rest
    offset: Float[Tensor, "bead 3"]  # Å from it
    amplitude: Float[Tensor, " bead"]
    width: float  # Å

    @property
    def radius(self) -> float:
        """Of gyration about the centre, of beads that weigh the same; at least 1 Å."""
        return max(1.0, float(self.offset.square().sum(1).mean()) ** 0.5)

    def placed(
        self, rotation: Float[Tensor, "pose 3 3"], shift: Float[Tensor, "pose 3"]
    ) -> Float[Tensor, "pose bead 3"]:
        """Where the beads are (Å), the body turned about its centre and then shifted."""
        return self.offset @ rotation.mT + (self.center + shift)[:, None]


def center_of_mass(body: Mixture) -> Float[Tensor, "3"]:
    """Weighted by the sizes of the amplitudes."""
    weight = body.amplitude.abs().clamp(min=1e-12)
    return weight @ body.center / weight.sum()


def beads_of(body: Mixture, resolution: float, fine: float = FINE) -> Beads:
    """So few beads, centres of k-means, as spread the Gaussians by little against the resolution (Å).

    Their amplitudes are the nearest to the body by least squares of blurred densities. With the mass near each,
    domains as `fit.shape` finds them were fainter in images by up to a hundredth of their power.
    """
    center, weight = center_of_mass(body), body.amplitude.abs().clamp(min=1e-12)
    offset, share, count = body.center - center, weight / weight.sum(), FEWEST
    while count < len(body):
        with threadpool_limits(1):  # several threads sum in the order in which they end
            means = KMeans(count, n_init="auto", random_state=0).fit(offset.numpy(), sample_weight=weight.numpy())
        label, place = torch.from_numpy(means.labels_).long(), torch.from_numpy(means.cluster_centers_).to(offset)
        spread = float(share @ (offset - place[label]).square().mean(1)) ** 0.5
        if spread <= resolution / fine or count == MOST:
            break
        count = min(MOST, int(1.3 * count))
    else:
        place, spread = offset, 0.0
    width = float(share @ body.width.square() + spread**2) ** 0.5
    about = Mixture(offset, body.amplitude, body.width)
    return Beads(center, place, _nearest(place, width, about, BLUR * resolution), width)


def _nearest(place: Float[Tensor, "bead 3"], width: float, body: Mixture, blur: float) -> Float[Tensor, " bead"]:
    """Amplitudes of beads, of least mean square difference to a body where both are blurred by so many Å."""
    own = torch.full((len(place),), width)
    among = _overlap(place, own, place, own, blur)
    among.diagonal().mul_(1 + RIDGE)
    onto = _overlap(place, own, body.center, body.width, blur) @ body.amplitude.double()
    return torch.linalg.solve(among, onto).float()


def _overlap(
    place: Float[Tensor, "one 3"],
    width: Float[Tensor, " one"],
    other: Float[Tensor, "other 3"],
    other_width: Float[Tensor, " other"],
    blur: float,
) -> Float[Tensor, "one other"]:
    """Integrals of products of blurred Gaussians of unit mass; but for a constant factor."""
    variance = (width.square()[:, None] + other_width.square() + 2 * blur**2).double()
    return torch.exp(-torch.cdist(place.double(), other.double()).square() / (2 * variance)) / variance**1.5


def power_table(body: Mixture, box: int, pixel_size: float) -> Float[Tensor, "direction ring"]:
    """Mean of |P|² over each ring of the body's projections along the directions of `_cell`."""
    about = Mixture(body.center - center_of_mass(body), body.amplitude, body.width)
    views = _views(_directions(SIDE))
    return torch.cat(
        [ring_means(project(about, part, box, pixel_size).abs().square(), box) for part in views.split(512)]
    )


def _directions(side: int) -> Float[Tensor, "direction 3"]:
    """The middles of the cells of `_cell`, in its order."""
    middle = (torch.arange(side) + 0.5) / side * 2 - 1
    first, second = torch.meshgrid(middle, middle, indexing="ij")
    face = torch.stack([torch.ones_like(first), first, second], dim=-1).reshape(-1, 3)
    return functional.normalize(torch.cat([face.roll(axis, dims=1) for axis in range(3)]), dim=1)


def _views(direction: Float[Tensor, "direction 3"]) -> Float[Tensor, "direction 3 3"]:
    """Rotations that see along each direction."""
    other = torch.eye(3)[direction.abs().argmin(1)]
    x = functional.normalize(torch.linalg.cross(other, direction), dim=1)
    return torch.stack([x, torch.linalg.cross(direction, x), direction], dim=1)


@compiled
@no_type_check
def _cell(x, y, z, side):
    """Where a direction, and the opposite one, stands on three faces of a cube: the face, row and column in cells."""
    if abs(x) >= abs(y) and abs(x) >= abs(z):
        face, first, second = 0, y / x, z / x
    elif abs(y) >= abs(z):
        face, first, second = 1, z / y, x / y
    else:
        face, first, second = 2, x / z, y / z
    half, last = np.float32(0.5) * side, np.float32(side - 1.001)
    row, column = (first + 1) * half - np.float32(0.5), (second + 1) * half - np.float32(0.5)
    return face, min(max(row, np.float32(0)), last), min(max(column, np.float32(0)), last)


@compiled
@no_type_check
def _power(x, y, z, side, table, transfer):
    """Sum over rings of the transfer's power times the body's, seen along a direction of its own frame."""
    face, row, column = _cell(x, y, z, side)
    upper, left = int(row), int(column)
    down, right = row - np.float32(upper), column - np.float32(left)
    at = (face * side + upper) * side + left
    one, other, below, beside = table[at], table[at + 1], table[at + side], table[at + side + 1]
    one_share, other_share = (1 - down) * (1 - right), (1 - down) * right
    below_share, beside_share, total = down * (1 - right), down * right, np.float32(0)
    for ring in range(len(transfer)):
        total += transfer[ring] * (
            one_share * one[ring] + other_share * other[ring] + below_share * below[ring] + beside_share * beside[ring]
        )
    return total


@compiled
@no_type_check
def _seen_along(rotation, sight):
    """The direction of sight in the frame of a body that is turned by the rotation."""
    return (
        rotation[0, 0] * sight[0] + rotation[1, 0] * sight[1] + rotation[2, 0] * sight[2],
        rotation[0, 1] * sight[0] + rotation[1, 1] * sight[1] + rotation[2, 1] * sight[2],
        rotation[0, 2] * sight[0] + rotation[1, 2] * sight[1] + rotation[2, 2] * sight[2],
    )


@compiled
@no_type_check
def _pixel(view, scale, size, place_x, place_y, place_z):
    """Where a place (Å) is seen: the index of the pixel at its upper left, and how far it is from there."""
    last = np.float32(size - 1.001)
    x = scale * (view[0, 0] * place_x + view[0, 1] * place_y + view[0, 2] * place_z) + np.float32(size // 2)
    y = scale * (view[1, 0] * place_x + view[1, 1] * place_y + view[1, 2] * place_z) + np.float32(size // 2)
    x, y = min(max(x, np.float32(0)), last), min(max(y, np.float32(0)), last)
    column, row = np.int32(x), np.int32(y)
    return row * np.int32(size) + column, x - np.float32(column), y - np.float32(row)


@compiled
@no_type_check
def match(images, views, transfers, place, rotation, amplitude, table, side, scale, out):
    """Fill `out` (image, pose): log-likelihood of each image with the body at each pose, over that without it.

    `images` (image, y, x) are m, with u = 0 in the middle; `views` (image, 3, 3); `transfers` (image, ring) sums of T²;
    `place` (3, pose, bead) Å; `rotation` (pose, 3, 3); `table` of `power_table`, with `side`; `scale` pixels a Å.
    """
    size = images.shape[1]
    for image in range(images.shape[0]):
        flat, view = images[image].reshape(size * size), views[image]
        for pose in range(place.shape[1]):
            along_x, along_y, along_z, total = place[0, pose], place[1, pose], place[2, pose], np.float32(0)
            for bead in range(len(amplitude)):
                at, right, down = _pixel(view, scale, size, along_x[bead], along_y[bead], along_z[bead])
                upper = flat[at] + right * (flat[at + 1] - flat[at])
                lower = flat[at + size] + right * (flat[at + size + 1] - flat[at + size])
                total += amplitude[bead] * (upper + down * (lower - upper))
            x, y, z = _seen_along(rotation[pose], view[2])
            out[image, pose] = total - np.float32(0.5) * _power(x, y, z, side, table, transfers[image])


@compiled
@no_type_check
def pull(images, views, transfers, place, rotation, offset, amplitude, table, side, scale, counted, least, out):
    """Add to `out` (pose, 7) counts, and the slopes of `match` as the body turns and as it is shifted, by its own axes.

    Each image counts `counted` (image, pose) for each pose, and not at all below `least`; `offset` (3, bead) Å in the
    body's frame. The others are as in `match`.
    """
    size, turn = images.shape[1], np.float32(TURN)
    for image in range(images.shape[0]):
        flat, view, power = images[image].reshape(size * size), views[image], transfers[image]
        for pose in range(place.shape[1]):
            count = counted[image, pose]
            if count < least:
                continue
            along_x, along_y, along_z = place[0, pose], place[1, pose], place[2, pose]
            # slopes along the image's axes, summed, and summed with each bead's offset: the torque is their product
            across = down = across_x = across_y = across_z = down_x = down_y = down_z = np.float32(0)
            for bead in range(len(amplitude)):
                at, right, low = _pixel(view, scale, size, along_x[bead], along_y[bead], along_z[bead])
                upper, lower = flat[at + 1] - flat[at], flat[at + size + 1] - flat[at + size]
                before, after = flat[at + size] - flat[at], flat[at + size + 1] - flat[at + 1]
                slope = amplitude[bead] * (upper + low * (lower - upper))
                across += slope
                across_x += slope * offset[0, bead]
                across_y += slope * offset[1, bead]
                across_z += slope * offset[2, bead]
                slope = amplitude[bead] * (before + right * (after - before))
                down += slope
                down_x += slope * offset[0, bead]
                down_y += slope * offset[1, bead]
                down_z += slope * offset[2, bead]
            ax, ay, az = _seen_along(rotation[pose], view[0])
            bx, by, bz = _seen_along(rotation[pose], view[1])
            turn_x = scale * (across_y * az - across_z * ay + down_y * bz - down_z * by)
            turn_y = scale * (across_z * ax - across_x * az + down_z * bx - down_x * bz)
            turn_z = scale * (across_x * ay - across_y * ax + down_x * by - down_y * bx)
            # turned by e about an axis, the body is seen along this direction less e (axis x it)
            x, y, z = _seen_along(rotation[pose], view[2])
            ahead = _power(x, y + turn * z, z - turn * y, side, table, power)
            turn_x -= (ahead - _power(x, y - turn * z, z + turn * y, side, table, power)) / (4 * turn)
            ahead = _power(x - turn * z, y, z + turn * x, side, table, power)
            turn_y -= (ahead - _power(x + turn * z, y, z - turn * x, side, table, power)) / (4 * turn)
            ahead = _power(x + turn * y, y - turn * x, z, side, table, power)
            turn_z -= (ahead - _power(x - turn * y, y + turn * x, z, side, table, power)) / (4 * turn)
            out[pose, 0] += count
            out[pose, 1] += count * turn_x
            out[pose, 2] += count * turn_y
            out[pose, 3] += count * turn_z
            out[pose, 4] += count * scale * (across * ax + down * bx)
            out[pose, 5] += count * scale * (across * ay + down * by)
            out[pose, 6] += count * scale * (across * az + down * bz)
