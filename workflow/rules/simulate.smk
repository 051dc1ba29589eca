"""Particles of a molecule with a known motion, as a refinement would leave them.

REQUIRES  the atomic model that the config names (simulate.model), and poses, if it does (simulate.star)
PROVIDES  results/{dataset}/simulated/  particles.star particles.mrcs truth.csv states.npz map.mrc
"""


rule simulate:
    """Make the particles; the only rule that knows the truth."""
    input:
        model=given("simulate", "model"),
        star=given("simulate", "star"),
    output:
        star="results/{dataset}/simulated/particles.star",
        stack="results/{dataset}/simulated/particles.mrcs",
        truth="results/{dataset}/simulated/truth.csv",
        states="results/{dataset}/simulated/states.npz",
        map="results/{dataset}/simulated/map.mrc",
    log:
        "results/{dataset}/logs/simulate.txt",
    benchmark:
        "results/{dataset}/benchmarks/simulate.tsv"
    conda:
        "../../envs/gaussemble.yaml"
    threads: half_the_cores(8)
    resources:
        mem_mb=memory("simulate"),
        runtime=time("simulate"),
    params:
        star=optional("star"),
        options=flags("simulate"),
        code=digest("gaussemble.prepare.simulate"),
    shell:
        "python -m gaussemble simulate --model {input.model:q} {params.star}"
        " --out results/{wildcards.dataset}/simulated"
        " {params.options} 2>&1 | tee {log:q} >&2"
