"""What the even and the odd half of the particles say alike: here the halves meet.

REQUIRES  results/{dataset}/even/ and results/{dataset}/odd/, each with consensus/ and of the analysis heterogeneity/
          latent/ volumes/ crossed/; agreement/ of the null runs
PROVIDES  results/{dataset}/agreement/{analysis}/  matches.csv correlations.csv fsc/ motions.csv motions/
          latents.csv stability.csv verdict.json
"""


rule agreement:
    """Match classes and motions one to one, compare latents, and say what is reproduced."""
    input:
        masks=expand(
            "results/{{dataset}}/{half}/consensus/mask.mrc", half=["even", "odd"]
        ),
        networks=expand(
            "results/{{dataset}}/{half}/{{analysis}}/heterogeneity/{file}",
            half=["even", "odd"],
            file=["model.pt", "latent.csv", "posterior.npz"],
        ),
        crossed=expand(
            "results/{{dataset}}/{half}/{{analysis}}/crossed/{file}",
            half=["even", "odd"],
            file=["latent.csv", "posterior.npz"],
        ),
        clusters=expand(
            "results/{{dataset}}/{half}/{{analysis}}/latent/{file}",
            half=["even", "odd"],
            file=["clusters.csv", "structure.json"],
        ),
        trajectories=expand(
            "results/{{dataset}}/{half}/{{analysis}}/latent/trajectories",
            half=["even", "odd"],
        ),
        volumes=expand(
            "results/{{dataset}}/{half}/{{analysis}}/volumes", half=["even", "odd"]
        ),
        nulls=null_runs("results/{dataset}/agreement/{analysis}/verdict.json"),
    output:
        matches="results/{dataset}/agreement/{analysis}/matches.csv",
        correlations="results/{dataset}/agreement/{analysis}/correlations.csv",
        fsc=directory("results/{dataset}/agreement/{analysis}/fsc"),
        motions="results/{dataset}/agreement/{analysis}/motions.csv",
        fields=directory("results/{dataset}/agreement/{analysis}/motions"),
        latents="results/{dataset}/agreement/{analysis}/latents.csv",
        stability="results/{dataset}/agreement/{analysis}/stability.csv",
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
        nulls=optional("nulls"),
        options=flags("agreement"),
        code=digest("gaussemble.analysis.agreement"),
    shell:
        "python -m gaussemble agreement"
        " --even results/{wildcards.dataset}/even/{wildcards.analysis}"
        " --odd results/{wildcards.dataset}/odd/{wildcards.analysis}"
        " --even-consensus results/{wildcards.dataset}/even/consensus"
        " --odd-consensus results/{wildcards.dataset}/odd/consensus {params.nulls}"
        " --out results/{wildcards.dataset}/agreement/{wildcards.analysis}"
        " {params.options} 2>&1 | tee {log:q} >&2"
