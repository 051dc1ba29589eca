"""Every figure alone: PNG, SVG and the CSV of what it shows. One small function a figure.

Drawing takes a second or two and reads only files that the stages wrote; no figure ever starts a stage. Nothing is
computed anew but by `particles_examples`, which holds images against projections of the consensus.
"""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from pydantic import Field

from gaussemble.errors import InputError
from gaussemble.io.files import write_csv, written
from gaussemble.options import StageOptions
from gaussemble.report import (
    agreement,
    curves,
    densities,
    evidence,
    latents,
    matched_maps,
    numbers,
    particles,
    volumes,
)
from gaussemble.report.style import SETTINGS, Drawing

FIGURES: dict[str, Callable[[Path, str], Drawing]] = {
    "particles_examples": particles.particles_examples,
    "particles_defocus": particles.particles_defocus,
    "particles_views": particles.particles_views,
    "particles_offsets": particles.particles_offsets,
    "consensus_fsc": curves.consensus_fsc,
    "consensus_slices": densities.consensus_slices,
    "noise_spectrum": curves.noise_spectrum,
    "neutral_slices": densities.neutral_slices,
    "neutral_fsc": curves.neutral_fsc,
    "neutral_growth": curves.neutral_growth,
    "neutral_mixture": densities.neutral_mixture,
    "training_history": curves.training_history,
    "latent_pca": latents.latent_pca,
    "latent_umap": latents.latent_umap,
    "cluster_number": numbers.cluster_number,
    "cluster_sizes": latents.cluster_sizes,
    "cluster_slices": volumes.cluster_slices,
    "cluster_fsc": volumes.cluster_fsc,
    "trajectory_slices": volumes.trajectory_slices,
    "trajectory_fsc": volumes.trajectory_fsc,
    "motion_corrected": volumes.motion_corrected,
    "motion_quiver": densities.motion_quiver,
    "displacement": curves.displacement,
    "agreement_matrix": agreement.agreement_matrix,
    "agreement_sizes": agreement.agreement_sizes,
    "agreement_maps": matched_maps.agreement_maps,
    "agreement_fsc": agreement.agreement_fsc,
    "agreement_motions": agreement.agreement_motions,
    "agreement_latents": agreement.agreement_latents,
    "agreement_null": agreement.agreement_null,
    "truth_latent": latents.truth_latent,
    "truth_recovery": evidence.truth_recovery,
}


class Options(StageOptions):
    """Options of the stage `figure`."""

    dpi: int = Field(default=160, ge=30, le=1200, description="Pixels per inch of the PNG.")


def figure(figure: str, *, results: Path, analysis: str, out: Path, options: Options) -> None:
    """Draw one figure of an analysis: writes {figure}.png, .svg and .csv into `out`.

    `results` is the data set's folder, results/{dataset}.
    """
    if figure not in FIGURES:
        near = difflib.get_close_matches(figure, FIGURES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the figures are {', '.join(FIGURES)}"
        raise InputError(f"no figure is called {figure}; {hint}")
    settings: dict[Any, Any] = {**mpl.rcParamsDefault, **SETTINGS, "backend": "agg"}
    with mpl.rc_context(settings):
        drawing = FIGURES[figure](results, analysis)
        for suffix, metadata in (
            (".png", {"Software": "Gaussemble"}),
            (".svg", {"Date": None, "Creator": "Gaussemble"}),
        ):
            with written(out / f"{figure}{suffix}") as temporary:
                drawing.figure.savefig(temporary, dpi=options.dpi, metadata=metadata)
    write_csv(out / f"{figure}.csv", drawing.table)
