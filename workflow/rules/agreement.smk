"""What the even and the odd half of the particles say alike: here the halves meet for the first time.

REQUIRES  results/{dataset}/even/ and results/{dataset}/odd/, each with consensus/ {analysis}/latent/ {analysis}/volumes/
PROVIDES  results/{dataset}/agreement/{analysis}/  matches.csv correlations.csv fsc/ verdict.json
"""


rule agreement:
    """Match the classes one to one and say which are reproduced."""
    input:
        masks=expand(
            "results/{{dataset}}/{half}/consensus/mask.mrc", half=["even", "odd"]
        ),
        clusters=expand(
            "results/{{dataset}}/{half}/{{analysis}}/latent/clusters.csv",
            half=["even", "odd"],
        ),
        volumes=expand(
            "results/{{dataset}}/{half}/{{analysis}}/volumes", half=["even", "odd"]
        ),
    output:
        matches="results/{dataset}/agreement/{analysis}/matches.csv",
        correlations="results/{dataset}/agreement/{analysis}/correlations.csv",
        fsc=directory("results/{dataset}/agreement/{analysis}/fsc"),
        verdict="results/{dataset}/agreement/{analysis}/verdict.json",
    log:
        "results/{dataset}/logs/agreement/{analysis}.txt",
    benchmark:
        "results/{dataset}/benchmarks/agreement/{analysis}.tsv"
    conda:
        "../../envs/gaussemble.yaml"
    resources:
        mem_mb=memory("agreement"),
        runtime=time("agreement"),
    params:
        options=flags("agreement"),
        code=digest("gaussemble.analysis.agreement"),
    shell:
        "python -m gaussemble agreement"
        " --even results/{wildcards.dataset}/even/{wildcards.analysis}"
        " --odd results/{wildcards.dataset}/odd/{wildcards.analysis}"
        " --even-consensus results/{wildcards.dataset}/even/consensus"
        " --odd-consensus results/{wildcards.dataset}/odd/consensus"
        " --out results/{wildcards.dataset}/agreement/{wildcards.analysis}"
        " {params.options} 2>&1 | tee {log:q} >&2"
