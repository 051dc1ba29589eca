"""How each particle of a split deforms the neutral mixture.

REQUIRES  results/{dataset}/{split}/  particles/ consensus/ neutral/; the region's mask, if the config names one
PROVIDES  results/{dataset}/{split}/{analysis}/heterogeneity/  model.pt latent.csv history.csv
"""


rule heterogeneity:
    """Train the networks and embed every particle."""
    input:
        images="results/{dataset}/{split}/particles/images.npy",
        table="results/{dataset}/{split}/particles/particles.npz",
        map="results/{dataset}/{split}/consensus/map.mrc",
        fsc="results/{dataset}/{split}/consensus/fsc.csv",
        noise="results/{dataset}/{split}/consensus/noise.csv",
        neutral="results/{dataset}/{split}/neutral/mixture.npz",
        region=given("heterogeneity", "region"),
    output:
        model="results/{dataset}/{split}/{analysis}/heterogeneity/model.pt",
        latent="results/{dataset}/{split}/{analysis}/heterogeneity/latent.csv",
        history="results/{dataset}/{split}/{analysis}/heterogeneity/history.csv",
    log:
        "results/{dataset}/logs/{split}/{analysis}/heterogeneity.txt",
    benchmark:
        "results/{dataset}/benchmarks/{split}/{analysis}/heterogeneity.tsv"
    conda:
        "../../envs/gaussemble.yaml"
    threads: half_the_cores(8)
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=1440,
    params:
        region=optional("region"),
        options=flags("heterogeneity"),
        code=digest("gaussemble.fit.heterogeneity"),
    shell:
        "python -m gaussemble heterogeneity"
        " --particles results/{wildcards.dataset}/{wildcards.split}/particles"
        " --consensus results/{wildcards.dataset}/{wildcards.split}/consensus"
        " --neutral {input.neutral:q} {params.region}"
        " --out results/{wildcards.dataset}/{wildcards.split}/{wildcards.analysis}/heterogeneity"
        " {params.options} 2>&1 | tee {log:q} >&2"
