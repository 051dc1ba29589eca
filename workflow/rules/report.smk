"""The page, its figures, and how everything was made.

REQUIRES  everything before; models and truth where the run has them
PROVIDES  results/{dataset}/figures/{analysis}/{figure}.png .svg .csv, provenance.json, report.html
"""


rule figure:
    """Draw one figure, in the two formats that people use, with the numbers behind it."""
    input:
        files_of_figure,
    output:
        multiext(
            "results/{dataset}/figures/{analysis}/{figure}", ".png", ".svg", ".csv"
        ),
    log:
        "results/{dataset}/logs/figures/{analysis}/{figure}.txt",
    benchmark:
        "results/{dataset}/benchmarks/figures/{analysis}/{figure}.tsv"
    wildcard_constraints:
        figure="|".join(figures()),
    localrule: True
    conda:
        "../../envs/gaussemble.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        options=flags("figure"),
        code=digest("gaussemble.report.figures"),
    shell:
        "python -m gaussemble figure {wildcards.figure}"
        " --results results/{wildcards.dataset} --analysis {wildcards.analysis}"
        " --out results/{wildcards.dataset}/figures/{wildcards.analysis}"
        " {params.options} 2>&1 | tee {log:q} >&2"


rule provenance:
    """Write down the config after defaults, the versions, the seeds and the inputs' checksums."""
    input:
        files=sorted({path for _, path, kind in paths() if kind == "file"}),
    output:
        "results/{dataset}/provenance.json",
    log:
        "results/{dataset}/logs/provenance.txt",
    benchmark:
        "results/{dataset}/benchmarks/provenance.tsv"
    localrule: True
    conda:
        "../../envs/gaussemble.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        config=json.dumps(config),
        code=digest("gaussemble.provenance"),
    shell:
        "python -m gaussemble provenance --config {params.config:q} --inputs {input.files:q}"
        " --out {output:q} 2>&1 | tee {log:q} >&2"


rule report:
    """Put the figures and the numbers of all analyses on one page that needs no other file."""
    input:
        figures=expand(
            "results/{{dataset}}/figures/{analysis}/{figure}.png",
            analysis=config["analyses"],
            figure=figures(),
        ),
        stages=files_of_report,
        provenance="results/{dataset}/provenance.json",
    output:
        "results/{dataset}/report.html",
    log:
        "results/{dataset}/logs/report.txt",
    benchmark:
        "results/{dataset}/benchmarks/report.tsv"
    localrule: True
    conda:
        "../../envs/gaussemble.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        options=flags("report"),
        code=digest("gaussemble.report.report"),
    shell:
        "python -m gaussemble report --results results/{wildcards.dataset} --out {output:q}"
        " {params.options} 2>&1 | tee {log:q} >&2"
