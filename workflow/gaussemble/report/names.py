"""The figures' names, each with the stages whose files it reads; the workflow reads these constants without importing.

A stage of the list that a run does not have (`models` without an atomic model, `simulate` and `truth` without a
simulation, `motion_corrected` where not all analyses make that map) leaves its figures out. Every figure reads the
split `full`; those of EVERY_SPLIT read `even` and `odd` too.
Those of DATASET_FIGURES are the same for every analysis of a data set; first those of its particles.
"""

FIGURES: dict[str, tuple[str, ...]] = {
    "particles_examples": ("particles", "consensus"),
    "particles_defocus": ("particles",),
    "particles_views": ("particles",),
    "particles_offsets": ("particles",),
    "consensus_fsc": ("consensus",),
    "consensus_slices": ("consensus",),
    "noise_spectrum": ("consensus",),
    "neutral_slices": ("neutral", "consensus"),
    "neutral_fsc": ("neutral",),
    "neutral_growth": ("neutral",),
    "neutral_mixture": ("neutral", "consensus"),
    "training_history": ("heterogeneity",),
    "latent_pca": ("latent",),
    "latent_umap": ("latent",),
    "cluster_number": ("latent", "agreement"),
    "cluster_sizes": ("latent",),
    "cluster_slices": ("volumes", "latent", "consensus"),
    "cluster_fsc": ("volumes", "latent"),
    "trajectory_slices": ("volumes", "latent", "consensus"),
    "trajectory_fsc": ("volumes", "latent"),
    "motion_corrected": ("motion_corrected", "volumes", "consensus"),
    "motion_quiver": ("heterogeneity", "latent", "consensus"),
    "displacement": ("models",),
    "agreement_matrix": ("agreement",),
    "agreement_sizes": ("agreement",),
    "agreement_maps": ("agreement",),
    "agreement_fsc": ("agreement",),
    "agreement_motions": ("agreement",),
    "agreement_latents": ("agreement",),
    "agreement_null": ("agreement",),
    "truth_latent": ("latent", "simulate"),
    "truth_recovery": ("truth",),
}

DATASET_FIGURES: tuple[str, ...] = (
    "particles_examples",
    "particles_defocus",
    "particles_views",
    "particles_offsets",
    "consensus_fsc",
    "consensus_slices",
    "noise_spectrum",
    "neutral_slices",
    "neutral_fsc",
    "neutral_growth",
    "neutral_mixture",
)

EVERY_SPLIT: tuple[str, ...] = ("consensus_fsc", "training_history")
