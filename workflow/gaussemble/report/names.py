"""The figures' names, each with the stages whose files it reads; the workflow reads this constant without importing it.

A stage of the list that a run does not have (`models` without an atomic model, `truth` without a simulation) leaves its
figures out. `figures.FIGURES` holds one function for each name.
"""

FIGURES: dict[str, tuple[str, ...]] = {
    "particles": ("particles",),
    "consensus_fsc": ("consensus",),
    "neutral_fsc": ("neutral",),
    "training": ("heterogeneity",),
    "latent_pca": ("latent",),
    "latent_umap": ("latent",),
    "volumes_fsc": ("volumes",),
    "volumes_slices": ("volumes",),
    "displacement": ("models",),
    "agreement": ("agreement",),
    "truth": ("truth", "latent"),
}
