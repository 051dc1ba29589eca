"""What a stage's job needs: memory and time by the size of the data set, and the totals of a run.

docs/hpc.md says how NEEDS were measured. A job asks for twice the memory and four times the time, since nodes and disks
differ, and for twice as much again after each kill. Imports nothing but the standard library, for the workflow reads
this file by itself, again in every job.
"""

import math
from collections import namedtuple

# box: pixels of the stored images; epochs: of a training (`trained`); decoded: whether `latent` finds classes by them;
# poses: at most so many are found, of a domain; shape: whether that is found too
Size = namedtuple("Size", "particles box gaussians epochs maps decoded poses shape", defaults=[False, 0, False])
Job = namedtuple("Job", "stage threads gpus megabytes minutes")

# Of a stage on one core: MB of libraries and of itself, bytes a voxel of the box, bytes a particle; seconds,
# microseconds a voxel of the box, microseconds a particle, nanoseconds a pixel of a particle's image.
Need = namedtuple("Need", "base voxel particle seconds per_voxel per_particle per_pixel")
NEEDS = {
    "simulate": Need(700, 100, 200, 5, 2, 100, 100),
    "particles": Need(700, 0, 2500, 5, 0, 400, 20),
    "consensus": Need(700, 430, 100, 5, 8, 50, 100),
    "seeds": Need(450, 75, 0, 5, 1, 0, 0),
    "neutral": Need(700, 100, 0, 10, 2, 0, 0),
    "heterogeneity": Need(800, 40, 3000, 20, 0, 0, 0),
    "crossing": Need(800, 40, 3000, 20, 0, 0, 0),
    "latent": Need(500, 0, 6000, 15, 0, 1500, 0),
    "volumes": Need(900, 430, 500, 10, 0, 100, 100),
    "selections": Need(700, 0, 2500, 10, 0, 100, 0),
    "models": Need(600, 40, 0, 10, 0, 0, 0),
    "null": Need(700, 100, 500, 10, 0, 500, 100),
    "agreement": Need(600, 100, 3500, 10, 0, 0, 0),
    "truth": Need(900, 100, 500, 10, 5, 500, 500),
}
AROUND = 9  # epochs that take as long as what comes before and after those of a training
COMPARED = 4  # epochs that take as long as comparing all particles with the landmarks, or with what classes are of
EMBEDDED = 7  # the same of embedding by another half's network
LANDMARKS, MOST = 4000, 2200  # bytes a voxel that the landmarks' components take, and MB at most
HALF_MAP = 48  # bytes a voxel that the sums of one half-map take, zero-padded
SEARCHING, SEARCHED = 50_000, 12_000  # particles, at most, by which classes and poses are looked for; bytes of each
POSES, SHAPES = (5.0, 0.06), (20.0, 0.16)  # milliseconds of a search: of each such particle, and for each pose of it
FOLLOWERS = 5  # particles, at least, that a pose stands for
GPU = 4000  # MB of the machine's own memory that a process with a GPU takes for CUDA's libraries
OVERHEAD = 500  # MB: a job of a cluster has two processes of Snakemake beside it
SEARCH = 300  # seconds that looking for many classes of many particles takes
SPARE_MEMORY, SPARE_TIME = 2, 4
SHORTEST = 15  # minutes


def megabytes(stage, size, gpus=0, memory=4.0):
    """What a job of the stage may take; `memory`: the GB that `volumes` has for the maps of one pass."""
    need = NEEDS[stage]
    found = need.base + (need.voxel * size.box**3 + need.particle * size.particles) / 1e6
    if stage == "volumes":
        found += min(1000 * memory, 2 * HALF_MAP * size.box**3 * size.maps / 1e6)
    if stage == "neutral":
        found += 0.1 * size.gaussians
    if stage == "latent" and size.decoded:
        found += 300 + min(MOST, LANDMARKS * size.box**3 / 1e6) + SEARCHED * min(SEARCHING, size.particles) / 1e6
    if stage in ("heterogeneity", "crossing"):
        found += min(MOST, LANDMARKS * size.box**3 / 1e6)
        found = max(1, gpus) * (found + 0.1 * size.gaussians)
    return math.ceil((OVERHEAD + GPU * gpus + SPARE_MEMORY * found) / 100) * 100


def minutes(stage, size, processes=1):
    """How long a job of the stage may take, on one core, or with GPUs that are no slower than one."""
    return max(SHORTEST, math.ceil(SPARE_TIME * seconds(stage, size, processes) / 60))


def seconds(stage, size, processes=1):
    """How long the stage is expected to take so."""
    need, images = NEEDS[stage], size.particles * size.box**2
    found = need.seconds + (need.per_voxel * size.box**3 + need.per_particle * size.particles) / 1e6
    found += need.per_pixel * images / 1e9
    if stage == "neutral":
        found += 0.05 * size.gaussians
    if stage == "heterogeneity" and size.poses:
        found += min(SEARCHING, size.particles) * searching(size) / 1e3
    found += epochs(stage, size) * size.particles * milliseconds(size) / 1e3 / max(1, processes)
    if stage == "latent" and size.decoded:
        found += SEARCH
    if stage in ("volumes", "agreement", "models"):
        found += size.maps * (0.5 + 3e-6 * size.box**3)
    return found


def epochs(stage, size):
    """Passes over the particles, each as long as an epoch of a training."""
    known = {
        "heterogeneity": AROUND + size.epochs * (not size.poses),
        "crossing": EMBEDDED,
        "latent": COMPARED * size.decoded,
    }
    return known.get(stage, 0)


def trained(epochs, em_rounds, em_epochs):
    """What a training's epochs and rounds of expectation maximisation come to, in epochs."""
    return epochs + em_rounds * (COMPARED + em_epochs)


def searching(size):
    """Milliseconds of a particle while poses are looked for, and the shape of what has them."""
    parts = [POSES, SHAPES][: 1 + size.shape]
    poses = min(size.poses, size.particles // FOLLOWERS)
    return sum(alone + each * poses for alone, each in parts)


def milliseconds(size):
    """Of a particle in an epoch of a training; the images' box stands for the band's, which is no larger."""
    return 0.15 + 5e-5 * size.box**2 + 5e-4 * size.gaussians


def table(jobs):
    """Lines with a row for each stage and one for all: jobs, the largest of them, and the hours of all together."""
    stages = list(dict.fromkeys(job.stage for job in jobs))
    groups = [(stage, [job for job in jobs if job.stage == stage]) for stage in stages]
    wide = max(14, *(len(stage) + 1 for stage in stages))  # another workflow may have given them longer names
    head = f"{'':<{wide}}{'jobs':>6}{'cores':>7}{'GPUs':>6}{'GB':>8}{'hours':>8}{'core hours':>13}{'GPU hours':>12}"
    return [head, *(row(name.ljust(wide), group) for name, group in [*groups, ("together", jobs)])]


def row(name, jobs):
    """A line: how many jobs, the most that one of them asks for, and core and GPU hours of all."""
    cores, gpus, memory, time = (max(job[field] for job in jobs) for field in (1, 2, 3, 4))
    core_hours = sum(job.threads * job.minutes for job in jobs) / 60
    gpu_hours = sum(job.gpus * job.minutes for job in jobs) / 60
    one = f"{name}{len(jobs):>6}{cores:>7}{gpus:>6}{memory / 1000:>8.1f}{time / 60:>8.1f}"
    return f"{one}{core_hours:>13.1f}{gpu_hours:>12.1f}"
