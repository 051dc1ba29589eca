"""What the page says of each figure: a title and one sentence in plain words."""

CAPTIONS: dict[str, tuple[str, str]] = {
    "particles_examples": (
        "Particles beside the consensus",
        "Where sign, CTF and poses are right, protein is white, the low-passed image looks like the expected one, the "
        "corrected one like the projection, the first bar below is the longest and the second is near zero. A longer "
        "third bar means shifts of the wrong sign, a longer fourth that the images were phase-flipped before.",
    ),
    "particles_defocus": (
        "Defocus",
        "Usual is a spread of about a micrometre between 0.3 and 3 µm, without stragglers, and an astigmatism of a few "
        "hundred Å at most.",
    ),
    "particles_views": (
        "Views",
        "From where the particles are seen, in the map's frame. Best is one even colour; a molecule with symmetry may "
        "fill a part of the sphere only, and a few bright spots on dark ground mean preferred orientations.",
    ),
    "particles_offsets": (
        "Shifts",
        "How far the particles are from the middle of their images. Usual is one cloud of a few pixels round the "
        "middle; points beyond the dashed circle are most likely misaligned.",
    ),
    "consensus_fsc": (
        "Resolution of the consensus",
        "How far two independent halves of the particles give the same average map; below 0.143 it is mostly noise. "
        "The thick lines are corrected for what the mask adds by itself.",
    ),
    "consensus_slices": (
        "The consensus map",
        "Central slices of the average map of all particles, with the outline of the mask used for comparisons.",
    ),
    "noise_spectrum": (
        "Noise",
        "The power of the noise in the particle images at each spatial frequency, which weighs the fit.",
    ),
    "neutral_slices": (
        "Consensus and Gaussians",
        "The same slice of the consensus map and of the map drawn by the Gaussians, and what is left between them. "
        "Parts that are said to move (seeds.moving) stand at rest in the second, and are smeared in the first.",
    ),
    "neutral_fsc": (
        "How well the Gaussians draw the consensus",
        "Agreement of the map drawn by the Gaussians with the consensus map; finer detail than that they cannot hold.",
    ),
    "neutral_growth": (
        "How many Gaussians",
        "The lowest agreement of Gaussians and consensus inside the mask, up to the resolution beside the points, as "
        "their number grew. Where the dark curve flattens, more Gaussians bring little.",
    ),
    "neutral_mixture": (
        "The Gaussians",
        "The centres of the Gaussians that stand for the molecule, over two projections of the consensus map; "
        "dark rings: negative ones, which draw what lies below zero.",
    ),
    "training_history": (
        "Training",
        "The mismatch of model and particles during training; a dashed line that turns up would mean overfitting. "
        "The first epochs train at half the resolution, so the solid lines have a step where the whole begins; in the "
        "last ones latents are drawn from what each image says of its own, so there may be another. With the decoder "
        "pose nothing is trained: an epoch is a round in which poses join, move and leave.",
    ),
    "latent_pca": (
        "Where the particles lie",
        "Each particle's latent coordinates on the two axes along which particles differ most; left, how many "
        "there are and the trajectories, right, the clusters.",
    ),
    "latent_umap": (
        "UMAP picture",
        "A two-dimensional picture of all latent axes that keeps neighbours together; its distances mean little.",
    ),
    "cluster_number": (
        "How many clusters",
        "Left, what the latents of all particles ask for; right, how alike the networks of the two halves divide the "
        "same particles, 1 being the same division. The largest number above the dashed line is reproduced.",
    ),
    "cluster_sizes": (
        "Cluster sizes",
        "The share of the particles in each cluster; bars show three standard errors of counting.",
    ),
    "cluster_slices": (
        "The clusters' maps",
        "Each cluster's reconstruction seen from two sides, and what it has more (orange) or less (violet) than the "
        "consensus.",
    ),
    "cluster_fsc": (
        "Resolution of the clusters",
        "How far two halves of each cluster's particles give the same map.",
    ),
    "trajectory_slices": (
        "Along the trajectories",
        "Maps from one end of each principal component to the other, reconstructed from the particles nearest to each "
        "point and, below, as decoded by the network; the percentage is the share of particles before that point.",
    ),
    "trajectory_fsc": (
        "Resolution along the trajectories",
        "How far two halves of the particles of each point, and of each selection of your own, give the same map.",
    ),
    "motion_corrected": (
        "All particles, their motion taken back",
        "Central slices of the consensus and of one map of all particles in which the motions of rigid bodies are "
        "taken back, and how far half-maps agree.",
    ),
    "motion_quiver": (
        "Motion of the Gaussians",
        "Arrows lead from where each Gaussian is at the start of a trajectory to where it is at the end; a ring marks "
        "one whose density grows (red) or fades (black).",
    ),
    "displacement": (
        "Motion of the residues",
        "How far each residue of the atomic model moves between the ends of each trajectory.",
    ),
    "agreement_matrix": (
        "Even against odd: which class is which",
        "Every class of the even half compared with every class of the odd half; matched pairs are framed.",
    ),
    "agreement_sizes": (
        "Even against odd: sizes",
        "The share of each half's particles in matched classes, with three standard errors of counting; ✓ reproduced, "
        "? undecided, ✗ not reproduced.",
    ),
    "agreement_maps": (
        "Even against odd: maps",
        "Matched classes of the two halves side by side, from unregularised maps: the central slice, the view along y, "
        "and what was compared: how much more (orange) or less (violet) a class has than its half's other particles.",
    ),
    "agreement_fsc": (
        "Even against odd: resolution",
        "How far matched classes of the two halves give the same map (left), and agree in what sets them apart from "
        "the other classes (right), which is the stricter test; pale, the same in particles that do not vary.",
    ),
    "agreement_motions": (
        "Even against odd: motions",
        "Matched motions of the two halves from one end to the other, as displacements of the same Gaussians; where "
        "most of the change is what is present, how much more or less of each Gaussian there is.",
    ),
    "agreement_latents": (
        "Even against odd: the same particles by both networks",
        "Every particle was seen in training by one of the networks only. Left and middle, where both place it along "
        "what they have in common; right, where it lies by the network that never saw it, which should look the same "
        "for both halves.",
    ),
    "agreement_null": (
        "Data and null",
        "Each score beside its value in particles that do not vary, with the same views and noise, after the same "
        "analysis. What is no larger in the data says nothing.",
    ),
    "truth_latent": (
        "The truth in the latent space",
        "The same particles in the colours of how they were simulated.",
    ),
    "truth_recovery": (
        "How much of the truth was found",
        "Scores of this analysis beside the best that any method could reach with these images, which follows from "
        "comparing each particle with the true structures.",
    ),
}

CHAPTERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "states",
        "States",
        ("latent_pca", "latent_umap", "cluster_number", "cluster_sizes", "cluster_slices", "cluster_fsc"),
    ),
    (
        "motions",
        "Motions",
        ("trajectory_slices", "trajectory_fsc", "motion_corrected", "motion_quiver", "displacement"),
    ),
    (
        "agreement",
        "Even against odd",
        (
            "agreement_null",
            "agreement_matrix",
            "agreement_sizes",
            "agreement_maps",
            "agreement_fsc",
            "agreement_motions",
            "agreement_latents",
        ),
    ),
    ("truth", "Against the truth", ("truth_recovery", "truth_latent")),
    ("training", "Training", ("training_history",)),
)
