"""Projection on a GPU: images a second, forward and backward, beside what the same GPU's matrix products reach.

    PYTHONPATH=workflow python tests/bench/gpu.py [--seconds 2]

The loss is the whitened squared residual after a CTF; gradients are those of centres, amplitudes, widths and rotations.
Widths are 1.2 to 1.7 pixels. Matrix products and copies are measured in the same run, float32 without TF32, and the
separable form's share of both is what its products, and its factors written and read once, would take at those rates.

Spreading adds each sample of each Gaussian by an atomic addition (physics/gaussian_patches.py). `auto` takes the
separable form on a GPU; this table says whether it should.
"""

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from gaussemble.physics.projection import project
from gaussemble.physics.rotations import random_rotations
from gaussemble.quantities import Mixture

Engine = Callable[[Mixture, Tensor, int, float], Tensor]


def separable(mixture: Mixture, rotation: Tensor, box: int, pixel_size: float) -> Tensor:
    """The exact form."""
    return project(mixture, rotation, box, pixel_size, "separable")


def spread(mixture: Mixture, rotation: Tensor, box: int, pixel_size: float) -> Tensor:
    """The other form."""
    return project(mixture, rotation, box, pixel_size, "spreading")


def problem(images: int, gaussians: int, box: int, device: str) -> tuple[list[Tensor], Tensor, Tensor]:
    """Centres, amplitudes, widths and rotations (leaves), CTFs and images; the mixtures fill a third of the box."""
    generator = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(images, gaussians, 3, generator=generator) * box / 10,
        0.5 + torch.rand(images, gaussians, generator=generator),
        1.2 + 0.5 * torch.rand(images, gaussians, generator=generator),
        random_rotations(images, generator).float(),
    ]
    transfer = torch.rand(images, box, box // 2 + 1, generator=generator)
    image = torch.randn(images, box, box // 2 + 1, generator=generator, dtype=torch.complex64)
    return [leaf.to(device).requires_grad_() for leaf in leaves], transfer.to(device), image.to(device)


def step(engine: Engine, leaves: list[Tensor], transfer: Tensor, image: Tensor) -> None:
    """A loss and its gradients, left in the leaves."""
    for leaf in leaves:
        leaf.grad = None
    predicted = transfer * engine(Mixture(*leaves[:3]), leaves[3], image.shape[-2], 1.0)
    (predicted - image).abs().square().sum().backward()


def best_seconds(function: Callable[[], object], limit: float) -> float:
    """The shortest time that a call took within so many seconds, waiting for the GPU."""
    for _ in range(3):
        function()
    torch.cuda.synchronize()
    best, end = math.inf, time.perf_counter() + limit
    while time.perf_counter() < end:
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def product_rate(limit: float, size: int = 8192) -> float:
    """Floating-point operations a second in a large float32 product."""
    one, other = (torch.randn(size, size, device="cuda") for _ in range(2))
    return 2 * size**3 / best_seconds(lambda: one @ other, limit)


def copy_rate(limit: float, numbers: int = 1 << 28) -> float:
    """Bytes a second in a large copy, read and written."""
    source = torch.zeros(numbers, device="cuda")
    target = torch.empty_like(source)
    return 8 * numbers / best_seconds(lambda: target.copy_(source), limit)


def operations(gaussians: int, box: int) -> float:
    """Of the separable form's three complex products, an image, forward and backward."""
    return 3 * 8 * gaussians * box * (box // 2 + 1)


def traffic(gaussians: int, box: int) -> float:
    """Bytes of an image if both factors are written and read once forward, and they and their slopes backward."""
    return 2 * 8 * gaussians * (box + box // 2 + 1) * 3


def rows(engine: Engine, gaussians: int, box: int, limit: float) -> tuple[int, float, float]:
    """The batch at which most images a second are done, seconds an image, and bytes that a step takes at most."""
    found = []
    for images in (8, 32, 128, 512):
        try:
            torch.cuda.empty_cache()
            leaves, transfer, image = problem(images, gaussians, box, "cuda")
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            seconds = best_seconds(lambda parts=(leaves, transfer, image): step(engine, *parts), limit)
            found.append((seconds / images, images, torch.cuda.max_memory_allocated() - before))
        except torch.cuda.OutOfMemoryError:
            break
    seconds, images, memory = min(found)
    return images, seconds, memory


def main() -> None:
    """Print the table, or that there is no GPU."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement")
    limit = parser.parse_args().seconds
    if not torch.cuda.is_available():
        print("no GPU")
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    products, copies = product_rate(limit), copy_rate(limit)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: float32 products {products / 1e12:.1f} Tflop/s,")
    print(f"copies {copies / 1e9:.0f} GB/s. Forward + backward, the batch that is best\n")
    print("| box | Gaussians | engine | batch | images/s | ms an image | MB a step | share of products | of copies |")
    print("|---|---|---|---|---|---|---|---|---|")
    for box, gaussians in ((64, 2048), (128, 256), (128, 2048), (128, 8192), (256, 2048)):
        for name, engine in (("separable", separable), ("spreading", spread)):
            images, seconds, memory = rows(engine, gaussians, box, limit)
            shares = ("", "")
            if name == "separable":
                work = operations(gaussians, box) / products, traffic(gaussians, box) / copies
                shares = tuple(f"{part / seconds:.0%}" for part in work)
            print(
                f"| {box} | {gaussians} | {name} | {images} | {1 / seconds:.0f} | {1e3 * seconds:.4f} | "
                f"{memory / 1e6:.0f} | {shares[0]} | {shares[1]} |"
            )


if __name__ == "__main__":
    main()
