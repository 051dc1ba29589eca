"""The order in a cloud of latent vectors: axes, clusters, and paths along which the molecule moves.

REQUIRES  results/{dataset}/{split}/{analysis}/heterogeneity/  latent.csv posterior.npz
PROVIDES  results/{dataset}/{split}/{analysis}/latent/  embedding.csv clusters.csv structure.json trajectories/
"""


rule latent:
    """Principal components, UMAP, clusters and trajectories."""
    input:
        latent="results/{dataset}/{split}/{analysis}/heterogeneity/latent.csv",
        posteriors="results/{dataset}/{split}/{analysis}/heterogeneity/posterior.npz",
    output:
        embedding="results/{dataset}/{split}/{analysis}/latent/embedding.csv",
        clusters="results/{dataset}/{split}/{analysis}/latent/clusters.csv",
        structure="results/{dataset}/{split}/{analysis}/latent/structure.json",
        trajectories=directory(
            "results/{dataset}/{split}/{analysis}/latent/trajectories"
        ),
    log:
        "results/{dataset}/logs/{split}/{analysis}/latent.txt",
    benchmark:
        "results/{dataset}/benchmarks/{split}/{analysis}/latent.tsv"
    conda:
        "../../envs/gaussemble.yaml"
    threads: half_the_cores(4)
    resources:
        mem_mb=memory("latent"),
        runtime=time("latent"),
    params:
        options=flags("latent"),
        code=digest("gaussemble.analysis.latent"),
    shell:
        "python -m gaussemble latent"
        " --latent {input.latent:q} --posteriors {input.posteriors:q}"
        " --out results/{wildcards.dataset}/{wildcards.split}/{wildcards.analysis}/latent"
        " {params.options} 2>&1 | tee {log:q} >&2"
