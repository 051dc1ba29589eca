"""How much of a simulated motion an analysis found, and how much the best possible estimate would find.

REQUIRES  results/{dataset}/simulated/; results/{dataset}/full/  particles/ consensus/ {analysis}/;
          results/{dataset}/agreement/{analysis}/ and the halves' classes that it matched
PROVIDES  results/{dataset}/truth/{analysis}.json
"""


rule truth:
    """Compare the latents, clusters and maps with the truth."""
    input:
        truth="results/{dataset}/simulated/truth.csv",
        states="results/{dataset}/simulated/states.npz",
        images="results/{dataset}/full/particles/images.npy",
        table="results/{dataset}/full/particles/particles.npz",
        noise="results/{dataset}/full/consensus/noise.csv",
        mask="results/{dataset}/full/consensus/mask.mrc",
        latent="results/{dataset}/full/{analysis}/heterogeneity/latent.csv",
        clusters="results/{dataset}/full/{analysis}/latent/clusters.csv",
        volumes="results/{dataset}/full/{analysis}/volumes",
        matches="results/{dataset}/agreement/{analysis}/matches.csv",
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
        mem_mb=memory("truth"),
        runtime=time("truth"),
    params:
        options=flags("truth"),
        code=digest("gaussemble.analysis.truth"),
    shell:
        "python -m gaussemble truth --truth {input.truth:q} --states {input.states:q}"
        " --particles results/{wildcards.dataset}/full/particles"
        " --consensus results/{wildcards.dataset}/full/consensus"
        " --analysis results/{wildcards.dataset}/full/{wildcards.analysis}"
        " --agreement results/{wildcards.dataset}/agreement/{wildcards.analysis}"
        " --even results/{wildcards.dataset}/even/{wildcards.analysis}"
        " --odd results/{wildcards.dataset}/odd/{wildcards.analysis}"
        " --out {output.truth:q}"
        " {params.options} 2>&1 | tee {log:q} >&2"
