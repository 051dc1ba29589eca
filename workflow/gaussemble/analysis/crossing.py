"""Each half's particles, embedded by the network of the other half: latents and evidence of what training never saw.

A particle then has two latents, of which one belongs to a network that knows nothing of it. Where both networks have
found what varies, the two say the same. And it has an evidence, in nats: how much likelier its image is when its latent
is drawn from the distribution that the *other* half's particles have under the other half's network, than if the
molecule were rigid. Rigid means the better of two structures, for all particles together: the network's neutral
mixture, and what it decodes at the one latent that suits the other half best. If nothing varies, and poses and noise
are what they are said to be, the expected gain is not above 0 (Gibbs' inequality): whatever was fitted was fitted to
other particles.

Nothing of the crossing goes back into a half: only `agreement` reads it.
"""

from functools import partial
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from gaussemble.analysis.chance import best_point, gain, likelihoods, plausible
from gaussemble.errors import InputError
from gaussemble.fit.band import Band
from gaussemble.fit.distributed import combine, is_first, share, workers
from gaussemble.fit.embedding import embed_under
from gaussemble.fit.evidence import log_evidence, log_likelihood
from gaussemble.fit.gradients import BANDS, COLUMNS, gradient_inputs, make_pooling
from gaussemble.fit.heterogeneity import Options, as_posteriors, no_inputs
from gaussemble.fit.losses import LOSSES
from gaussemble.fit.particles import particles_in_band
from gaussemble.fit.posterior import Posterior, Prior
from gaussemble.fit.study import EVALUATION_BATCH, Study, make_study
from gaussemble.fit.training import encode_all
from gaussemble.io.files import write_csv
from gaussemble.io.posteriors import Posteriors, read_posteriors, write_posteriors
from gaussemble.io.store import open_store
from gaussemble.model.heterogeneity import DeformableMixture, load_model
from gaussemble.progress import progress, say

MOST = 4000  # particles whose evidence is taken: the error of their mean is a sixtieth of their spread


def crossing(*, particles: Path, consensus: Path, network: Path, posteriors: Path, out: Path, options: Options) -> None:
    """Write latent.csv and posterior.npz of the particles of one half under the network of the other.

    Args:
        particles: folder of this half's image store.
        consensus: folder of this half's consensus, for the noise.
        network: model.pt of the other half.
        posteriors: posterior.npz of the other half: the prior that its particles share, and where they stand.
        out: folder to write; latent.csv has particle, z1.., sd1.., gain (nats over a rigid molecule; of `MOST`).
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
        band = particles_in_band(store, consensus, model.neutral, compared)
        model, prior = model.to(device), shared_prior(known)
        study = study_of(model, band, compared.resolution, options, device)
        latent = encode_all(model, study)
        posterior = embed_under(model, study, latent, prior, options.refine_steps, options.posterior_samples)
        gains = evidence_gains(model, study, posterior, prior, rigid_latent(known))
        if is_first():
            write_csv(out / "latent.csv", crossed_table(study, posterior, gains))
            write_posteriors(out / "posterior.npz", as_posteriors(band, posterior, prior))
        taken = gains.isfinite()
        found = gain(gains[taken].double().numpy(), store.particles.particle[taken].numpy())
        say(f"crossing: {found.mean:.3g} ± {found.error:.2g} nats a particle over a rigid molecule")


def study_of(model: DeformableMixture, band: Band, resolution: float, options: Options, device: torch.device) -> Study:
    """What the network's encoder reads of the particles of another half; pooled as in its training."""
    neutral, loss, design = model.neutral, LOSSES[options.loss], model.design.encoder
    variables = [name for name in COLUMNS if any(getattr(each, name) for each in model.design.decoders)]
    seen = no_inputs
    if design.inputs:
        groups = design.inputs // (len(BANDS) * sum(len(COLUMNS[name]) for name in variables))
        pooling = make_pooling(neutral.to("cpu"), model.varies.cpu(), groups, variables, options.seed)
        seen = partial(gradient_inputs, neutral=neutral, loss=loss, pooling=pooling, length=resolution)
    return make_study(band, loss, neutral, seen, set(), torch.ones(len(band), dtype=torch.bool))


def shared_prior(known: Posteriors) -> Prior:
    """The normal distribution of the other half's latents."""
    return Prior(torch.from_numpy(known.prior_mean), torch.from_numpy(known.prior_covariance))


def rigid_latent(known: Posteriors) -> Float[Tensor, " latent"]:
    """The one latent that suits all particles of the other half best."""
    seen = likelihoods(known.latent, known.covariance, known.prior_mean, known.prior_covariance)
    seen = plausible(seen, known.prior_mean, known.prior_covariance)
    return torch.from_numpy(best_point(seen)).float()


def evidence_gains(
    model: DeformableMixture, study: Study, posterior: Posterior, prior: Prior, rigid: Float[Tensor, " latent"]
) -> Float[Tensor, " image"]:
    """Log evidence of particles less their log likelihood under the better of the two rigid molecules.

    Of no more than `MOST` particles, evenly from all; not a number for the others.
    """
    device = study.device
    prior, rigid = prior.to(device), rigid.to(device)
    flexible, at_point, at_neutral = torch.zeros(3, len(study))
    chosen = torch.arange(len(study))[:: max(1, -(-len(study) // MOST))]
    for rows in progress(chosen[share(len(chosen))].split(EVALUATION_BATCH), "evidence"):
        batch = study.band.batch(rows, device)
        flexible[rows] = log_evidence(model, batch, posterior[rows].to(device), prior).cpu()
        at_point[rows] = log_likelihood(model, batch, rigid).cpu()
        at_neutral[rows] = log_likelihood(model, batch, None).cpu()
    flexible, at_point, at_neutral = combine(flexible), combine(at_point), combine(at_neutral)
    gains = torch.full_like(flexible, torch.nan)
    gains[chosen] = (flexible - (at_point if at_point.sum() > at_neutral.sum() else at_neutral))[chosen]
    return gains


def crossed_table(study: Study, posterior: Posterior, gains: Float[Tensor, " image"]) -> pd.DataFrame:
    """Columns particle, z1.., sd1.., gain."""
    columns = {"particle": study.band.particles.particle}
    for name, values in (("z", posterior.latent), ("sd", posterior.deviation)):
        columns |= {f"{name}{number}": column for number, column in enumerate(values.unbind(1), start=1)}
    return pd.DataFrame({name: values.numpy() for name, values in (columns | {"gain": gains}).items()})
