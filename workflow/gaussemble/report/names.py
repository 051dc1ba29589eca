"""The report's figures: their names, where they stand, what each reads and says. Imports nothing: rules read it too.

A figure of the data set stands at `figures/{name}.png`, a figure of an analysis at `figures/{analysis}/{name}.png`
(both below `results/{dataset}/`), with `.svg` and `.csv` beside it.
"""

DATASET_FIGURES = ("consensus_fsc", "consensus_slices", "noise_spectrum", "neutral_fsc", "neutral_mixture")

ANALYSIS_FIGURES = (
    "training_history",
    "latent_pca",
    "latent_umap",
    "cluster_sizes",
    "cluster_slices",
    "cluster_fsc",
    "trajectory_slices",
    "motion_quiver",
    "displacement",
    "agreement_fsc",
    "agreement_matrix",
    "truth_latent",
    "truth_recovery",
)

FIGURES = DATASET_FIGURES + ANALYSIS_FIGURES

UMAP_FIGURES = ("latent_umap",)  # need the option latent.umap
MODEL_FIGURES = ("displacement",)  # need an atomic model
TRUTH_FIGURES = ("truth_latent", "truth_recovery")  # need simulated particles

# What each reads, below results/{dataset}; {cluster} runs over 1, 2, ..., {component} over pc1, pc2, ... and {point}
# over pc1_1, pc1_2, ..., pc2_1, ...
READS = {
    "consensus_fsc": ("full/consensus/fsc.csv", "even/consensus/fsc.csv", "odd/consensus/fsc.csv"),
    "consensus_slices": ("full/consensus/map.mrc", "full/consensus/mask.mrc"),
    "noise_spectrum": ("full/consensus/noise.csv",),
    "neutral_fsc": ("full/neutral/fsc.csv",),
    "neutral_mixture": ("full/neutral/mixture.npz", "full/consensus/map.mrc"),
    "training_history": (
        "full/{analysis}/heterogeneity/history.csv",
        "even/{analysis}/heterogeneity/history.csv",
        "odd/{analysis}/heterogeneity/history.csv",
    ),
    "latent_pca": (
        "full/{analysis}/latent/embedding.csv",
        "full/{analysis}/latent/clusters.csv",
        "full/{analysis}/latent/trajectories/{component}.csv",
    ),
    "latent_umap": ("full/{analysis}/latent/embedding.csv", "full/{analysis}/latent/clusters.csv"),
    "cluster_sizes": ("full/{analysis}/latent/clusters.csv",),
    "cluster_slices": (
        "full/{analysis}/volumes/cluster_{cluster}/map.mrc",
        "full/{analysis}/latent/clusters.csv",
        "full/consensus/map.mrc",
        "full/consensus/mask.mrc",
    ),
    "cluster_fsc": ("full/{analysis}/volumes/cluster_{cluster}/fsc.csv", "full/{analysis}/latent/clusters.csv"),
    "trajectory_slices": (
        "full/{analysis}/volumes/trajectory_{point}/map.mrc",
        "full/{analysis}/volumes/trajectory_{point}/decoded.mrc",
        "full/{analysis}/latent/trajectories/{component}.csv",
        "full/consensus/mask.mrc",
    ),
    "motion_quiver": (
        "full/{analysis}/heterogeneity/model.pt",
        "full/{analysis}/latent/trajectories/{component}.csv",
        "full/consensus/map.mrc",
    ),
    "displacement": ("full/{analysis}/models/displacement.csv",),
    "agreement_fsc": ("agreement/{analysis}/fsc/match_{cluster}.csv", "agreement/{analysis}/matches.csv"),
    "agreement_matrix": ("agreement/{analysis}/correlations.csv",),
    "truth_latent": ("full/{analysis}/latent/embedding.csv", "simulated/truth.csv"),
    "truth_recovery": ("truth/{analysis}.json",),
}


def figures_of_analysis(umap: bool, model: bool, truth: bool) -> tuple[str, ...]:
    """The figures that an analysis has: with UMAP switched on, with an atomic model, with a known truth."""
    absent = (() if umap else UMAP_FIGURES) + (() if model else MODEL_FIGURES) + (() if truth else TRUTH_FIGURES)
    return tuple(name for name in ANALYSIS_FIGURES if name not in absent)
