"""The particles of one split, checked, as a STAR file and as an image store that is read by memory map.

REQUIRES  the particles that the config names (particles.star, with passthrough, poses, ctf_file), or those of simulate;
          the user's map, if the config names it
PROVIDES  results/{dataset}/{split}/particles/  particles.star images.npy particles.npz report.json
          and particles.cs of a .cs, indices.pkl of particles with poses or ctf_file
"""


rule particles:
    """Split the particles once, into files: the halves share nothing from here on.

    The map tells the sign of the contrast, one bit, which is the same for all particles; so the halves may read it.
    """
    input:
        star=particle_star,
        passthrough=given("particles", "passthrough"),
        poses=given("particles", "poses"),
        ctf_file=given("particles", "ctf_file"),
        map=given("consensus", "map"),
    output:
        star="results/{dataset}/{split}/particles/particles.star",
        subsets=particle_subsets("results/{dataset}/{split}/particles"),
        images="results/{dataset}/{split}/particles/images.npy",
        table="results/{dataset}/{split}/particles/particles.npz",
        report="results/{dataset}/{split}/particles/report.json",
    log:
        "results/{dataset}/logs/{split}/particles.txt",
    benchmark:
        "results/{dataset}/benchmarks/{split}/particles.tsv"
    wildcard_constraints:
        dataset=config["dataset"],  # those of a null run are made by null
    conda:
        "../../envs/gaussemble.yaml"
    threads: half_the_cores(4)
    resources:
        mem_mb=memory("particles"),
        runtime=time("particles"),
    params:
        files=optional("passthrough", "poses", "ctf_file", "map"),
        options=flags("particles"),
        code=digest("gaussemble.prepare.particles"),
    shell:
        "python -m gaussemble particles --star {input.star:q} {params.files}"
        " --split {wildcards.split}"
        " --out results/{wildcards.dataset}/{wildcards.split}/particles"
        " {params.options} 2>&1 | tee {log:q} >&2"
