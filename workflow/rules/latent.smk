"""The order in a cloud of latent vectors: axes, clusters, and paths along which the molecule moves.

REQUIRES  results/{dataset}/{split}/{analysis}/heterogeneity/  latent.csv posterior.npz; for decoded classes model.pt,
          and results/{dataset}/{split}/  particles/ consensus/; a user's own labels
PROVIDES  results/{dataset}/{split}/{analysis}/latent/  embedding.csv clusters.csv structure.json numbers.csv
          trajectories/
"""


rule latent:
    """Principal components, UMAP, clusters and trajectories."""
    input:
        latent="results/{dataset}/{split}/{analysis}/heterogeneity/latent.csv",
        posteriors="results/{dataset}/{split}/{analysis}/heterogeneity/posterior.npz",
        labels=given("latent", "labels"),
        report=where_asked(
            "latent", "labels", "results/{dataset}/{split}/particles/report.json"
        ),
        compared=of_choice(
            "latent",
            "method",
            "decoded",
            "results/{dataset}/{split}/particles/images.npy",
            "results/{dataset}/{split}/particles/particles.npz",
            "results/{dataset}/{split}/consensus/noise.csv",
            "results/{dataset}/{split}/{analysis}/heterogeneity/model.pt",
        ),
    output:
        embedding="results/{dataset}/{split}/{analysis}/latent/embedding.csv",
        clusters="results/{dataset}/{split}/{analysis}/latent/clusters.csv",
        structure="results/{dataset}/{split}/{analysis}/latent/structure.json",
        numbers="results/{dataset}/{split}/{analysis}/latent/numbers.csv",
        trajectories=directory(
            "results/{dataset}/{split}/{analysis}/latent/trajectories"
        ),
    log:
        "results/{dataset}/logs/{split}/{analysis}/latent.txt",
    benchmark:
        "results/{dataset}/benchmarks/{split}/{analysis}/latent.tsv"
    conda:
        "../../envs/gaussemble.yaml"
    threads: half_the_cores(8)
    resources:
        mem_mb=memory("latent"),
        runtime=time("latent"),
    params:
        files=optional("labels", "report"),
        folders=of_choice(
            "latent",
            "method",
            "decoded",
            "--particles results/{dataset}/{split}/particles",
            "--consensus results/{dataset}/{split}/consensus",
            "--model results/{dataset}/{split}/{analysis}/heterogeneity/model.pt",
        ),
        options=flags("latent"),
        code=digest("gaussemble.analysis.latent"),
    shell:
        "python -m gaussemble latent"
        " --latent {input.latent:q} --posteriors {input.posteriors:q}"
        " --out results/{wildcards.dataset}/{wildcards.split}/{wildcards.analysis}/latent"
        " {params.files} {params.folders} {params.options} 2>&1 | tee {log:q} >&2"
