"""The atomic model, moved as the mixture moves.

REQUIRES  results/{dataset}/{split}/  seeds/model.cif consensus/ neutral/
          {analysis}/heterogeneity/ {analysis}/latent/
PROVIDES  results/{dataset}/{split}/{analysis}/models/  pc1.cif pc2.cif ... displacement.csv
"""


rule models:
    """Morph the atomic model along every trajectory."""
    input:
        model="results/{dataset}/{split}/seeds/model.cif",
        map="results/{dataset}/{split}/consensus/map.mrc",
        neutral="results/{dataset}/{split}/neutral/mixture.npz",
        network="results/{dataset}/{split}/{analysis}/heterogeneity/model.pt",
        trajectories="results/{dataset}/{split}/{analysis}/latent/trajectories",
    output:
        models=directory("results/{dataset}/{split}/{analysis}/models"),
    log:
        "results/{dataset}/logs/{split}/{analysis}/models.txt",
    benchmark:
        "results/{dataset}/benchmarks/{split}/{analysis}/models.tsv"
    conda:
        "../../envs/gaussemble.yaml"
    resources:
        mem_mb=memory("models"),
        runtime=time("models"),
    params:
        options=flags("models"),
        code=digest("gaussemble.analysis.models"),
    shell:
        "python -m gaussemble models --model {input.model:q} --map {input.map:q}"
        " --neutral {input.neutral:q}"
        " --analysis results/{wildcards.dataset}/{wildcards.split}/{wildcards.analysis}"
        " --out {output.models:q}"
        " {params.options} 2>&1 | tee {log:q} >&2"
