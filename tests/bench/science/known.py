"""What as many particles tell when each one's state is known: how much of the way to the oracle is for want of data.

    PYTHONPATH=workflow python tests/bench/science/known.py --set assembly --snr 0.01 --particles 20000

The oracle knows the true structures. No program has them: it learns them from the particles, and without being told
their states. Here it is told: from one half of the particles, with their true states, each state's Gaussians get
amplitudes of their own, and by these structures the particles of the other half are told apart, and the other way
round. For sets of few discrete states, which share nothing that a motion would connect.
"""

import argparse

import torch
from ensembles import SETS
from jaxtyping import Float, Int
from run import ROOT, fit_neutral, options_of, prepare
from scoring import oracle_probability
from simulated import simulate
from torch import Tensor

from gaussemble.analysis import recovery
from gaussemble.analysis.oracle import expected
from gaussemble.fit.band import Band
from gaussemble.fit.losses import likelihood
from gaussemble.fit.particles import particles_in_band
from gaussemble.fit.subspace import subspace_of
from gaussemble.io.mixtures import read_mixture
from gaussemble.io.store import open_store
from gaussemble.model.heterogeneity import Compared
from gaussemble.quantities import Mixture

RESOLUTION = 12.0  # Å, as trainings compare by default
SPREADS = (0.1, 0.3, 1.0)  # of amplitudes about the neutral ones, in their mean: the one that unseen particles want
PASSES, BATCH, RATE = 6, 256, 0.02


def learnt(neutral: Mixture, band: Band, state: Int[Tensor, " particle"], rows: Tensor, spread: float) -> Mixture:
    """(state, gaussian): the structures of the greatest posterior, of particles whose states are known."""
    count, unit = int(state.max()) + 1, neutral.amplitude.abs().mean()
    changed = torch.zeros(count, len(neutral), requires_grad=True)
    optimizer = torch.optim.Adam([changed], RATE)
    generator = torch.Generator().manual_seed(0)
    batches = [
        part
        for _ in range(PASSES)
        for part in rows[torch.randperm(len(rows), generator=generator)].tensor_split(-(-len(rows) // BATCH))
    ]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / len(batches))
    for part in batches:
        batch = band.batch(part)
        own = as_many(neutral, neutral.amplitude + unit * changed[state[part]])
        prior = 0.5 * (changed / spread).square().sum() / len(rows)
        optimizer.zero_grad()
        (likelihood(batch, batch.predict(own)).mean() + prior).backward()
        optimizer.step()
        schedule.step()
    return as_many(neutral, neutral.amplitude + unit * changed.detach())


def as_many(neutral: Mixture, amplitude: Float[Tensor, "structure gaussian"]) -> Mixture:
    """The neutral mixture with other amplitudes, once for each row."""
    count = len(amplitude)
    return Mixture(neutral.center.expand(count, -1, -1), amplitude, neutral.width.expand(count, -1))


@torch.no_grad()
def told(neutral: Mixture, band: Band, structures: Mixture, rows: Tensor) -> Float[Tensor, "particle state"]:
    """Log-likelihood of some particles under each structure, over the neutral mixture's."""
    blocks = zip(*(part.split(32) for part in (structures.center, structures.amplitude, structures.width)), strict=True)
    subspace = subspace_of((Mixture(*block) for block in blocks), neutral, band.batch(rows[:16]))
    return torch.cat([subspace.gains(band.batch(part)) for part in rows.split(64)]).double()


def main() -> None:
    """Print the scores of one set."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--set", required=True, choices=list(SETS))
    parser.add_argument("--snr", type=float, required=True)
    parser.add_argument("--particles", type=int, required=True)
    given = parser.parse_args()
    folder = ROOT / f"{given.set}_demo_{given.snr:g}_{given.particles}"
    simulation = simulate(SETS[given.set](None), folder / "simulated", given.particles, given.snr)
    prepare(folder, simulation)
    ensemble, state = simulation.ensemble, torch.tensor(simulation.state)
    probability = oracle_probability(folder, simulation)
    chosen = options_of(["seeds.count=256"])
    neutral = read_mixture(fit_neutral(folder, chosen))
    band = particles_in_band(open_store(folder / "particles"), folder / "consensus", neutral, Compared(RESOLUTION))
    share = torch.from_numpy(ensemble.share).log()
    found = torch.zeros(given.particles, len(ensemble), dtype=torch.float64)
    every = torch.arange(given.particles)
    for half in range(2):
        seen, others = every[every % 2 != half], every[every % 2 == half]
        tried = {each: told(neutral, band, learnt(neutral, band, state, seen, each), others) for each in SPREADS}
        best = max(tried, key=lambda each: float(tried[each][torch.arange(len(others)), state[others]].mean()))
        found[others] = torch.softmax(share + tried[best], dim=1)
        print(f"half {half + 1}: amplitudes that differ by {best} of the mean one are likeliest", flush=True)
    if ensemble.label is not None:
        label = ensemble.label[simulation.state]
        for name, one in (("states known in the other half", found), ("oracle", probability)):
            called = ensemble.label[one.argmax(1).numpy()]
            accuracy = recovery.balanced_accuracy(label, called)
            print(f"{name}: ARI {recovery.rand_index(label, called):.3f}, balanced accuracy {accuracy:.3f}")
    if ensemble.targets is not None:
        truth = ensemble.targets[simulation.state]
        for name, one in (("states known in the other half", found), ("oracle", probability)):
            print(f"{name}: R² {recovery.variance_explained(truth, expected(one, ensemble.targets)):.3f}")


if __name__ == "__main__":
    main()
