"""Each half's particles, embedded by the network of the other half: latents and evidence of what training never saw.

A particle then has two latents, of which one belongs to a network that knows nothing of it. Where both networks have
found what varies, the two say the same. And it has an evidence, in nats: how much likelier its image is when its latent
is drawn from the distribution that the *other* half's particles have under the other half's network, its landmarks and
their shares, than if the molecule were rigid. Rigid means the best of the landmarks' structures and of the network's
neutral mixture, for all particles together. If nothing varies, and poses and noise are what they are said to be, the
expected gain is not above 0 (Gibbs' inequality): whatever was fitted was fitted to other particles.

Nothing of the crossing goes back into a half: only `agreement` reads it.
"""

from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from gaussemble.analysis.chance import gain
from gaussemble.errors import InputError
from gaussemble.fit.band import Band
from gaussemble.fit.distributed import is_first, workers
from gaussemble.fit.embedding import embed_under
from gaussemble.fit.heterogeneity import Options, as_posteriors
from gaussemble.fit.particles import particles_in_band
from gaussemble.fit.population import population, spread_gain
from gaussemble.fit.posterior import Posterior
from gaussemble.io.files import write_csv
from gaussemble.io.posteriors import read_posteriors, write_posteriors
from gaussemble.io.store import open_store
from gaussemble.model.heterogeneity import load_model
from gaussemble.progress import say


def crossing(*, particles: Path, consensus: Path, network: Path, posteriors: Path, out: Path, options: Options) -> None:
    """Write latent.csv and posterior.npz of the particles of one half under the network of the other.

    Args:
        particles: folder of this half's image store.
        consensus: folder of this half's consensus, for the noise.
        network: model.pt of the other half.
        posteriors: posterior.npz of the other half, which says whose particles its network has seen.
        out: folder to write; latent.csv has particle, z1.., sd1.., gain (nats over a rigid molecule).
        options: those of the stage `heterogeneity` with which the network was trained.
    """
    store, model, known = open_store(particles), load_model(network), read_posteriors(posteriors)
    compared = model.design.compared
    if compared is None:
        raise InputError(f"{network}: made by an earlier version; run the stage heterogeneity again")
    if known.latent.shape[1] != model.latent_dim:
        raise InputError(
            f"{posteriors}: latents of {known.latent.shape[1]} dimensions, but {network} has {model.latent_dim}; give "
            "two files of one training"
        )
    if bool(torch.isin(store.particles.particle, torch.from_numpy(known.particle)).any()):
        raise InputError(f"{posteriors}: has particles of {particles}; give the other half's")
    with workers(options.device) as device:
        band, model = particles_in_band(store, consensus, model.neutral, compared, model.moving), model.to(device)
        posterior, table = embed_under(model, band, options.refine_steps, device)
        gains = spread_gain(model, table, band)
        if is_first():
            write_csv(out / "latent.csv", crossed_table(band, posterior, gains))
            write_posteriors(out / "posterior.npz", as_posteriors(band, posterior, population(model)))
        found = gain(gains.numpy(), store.particles.particle.numpy())
        say(f"crossing: {found.mean:.3g} ± {found.error:.2g} nats a particle over a rigid molecule")


def crossed_table(band: Band, posterior: Posterior, gains: Float[Tensor, " image"]) -> pd.DataFrame:
    """Columns particle, z1.., sd1.., gain."""
    columns = {"particle": band.particles.particle}
    for name, values in (("z", posterior.latent), ("sd", posterior.deviation)):
        columns |= {f"{name}{number}": column for number, column in enumerate(values.unbind(1), start=1)}
    return pd.DataFrame({name: values.numpy() for name, values in (columns | {"gain": gains}).items()})
