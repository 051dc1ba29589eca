"""How much of a simulated motion an analysis found, and how much the best possible estimate would find.

REQUIRES  results/{dataset}/simulated/, results/{dataset}/full/
PROVIDES  results/{dataset}/truth/{analysis}.json
"""


rule truth:
    """Compare the latents, clusters and maps with the truth."""
    input:
        truth="results/{dataset}/simulated/truth.csv",
        states="results/{dataset}/simulated/states.npz",
        table="results/{dataset}/full/particles/particles.npz",
        noise="results/{dataset}/full/consensus/noise.csv",
        embedding="results/{dataset}/full/{analysis}/latent/embedding.csv",
        clusters="results/{dataset}/full/{analysis}/latent/clusters.csv",
        volumes="results/{dataset}/full/{analysis}/volumes",
    output:
        truth="results/{dataset}/truth/{analysis}.json",
    log:
        "results/{dataset}/logs/truth/{analysis}.txt",
    benchmark:
        "results/{dataset}/benchmarks/truth/{analysis}.tsv"
    conda:
        "../../envs/gaussemble.yaml"
    threads: half_the_cores(8)
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        options=flags("truth"),
        code=digest("gaussemble.analysis.truth"),
    shell:
        "python -m gaussemble truth"
        " --simulated results/{wildcards.dataset}/simulated"
        " --split results/{wildcards.dataset}/full"
        " --analysis results/{wildcards.dataset}/full/{wildcards.analysis}"
        " --out {output.truth:q}"
        " {params.options} 2>&1 | tee {log:q} >&2"
