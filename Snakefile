"""Which states and motions are in these particles, and can they be trusted?

A table of contents: the stages in the order in which they run. docs/config.md says what a config may hold.
"""

from snakemake.utils import min_version

min_version("9.17")  # the first one whose profiles rules/resources.smk can read

if (
    not workflow.overwrite_configfiles
):  # a config of the command line stands alone, it is not laid over this one

    configfile: "config/config.yaml"


include: "workflow/rules/module.smk"
include: "workflow/rules/config.smk"
include: "workflow/rules/common.smk"
include: "workflow/rules/resources.smk"
include: "workflow/rules/simulate.smk"
include: "workflow/rules/particles.smk"
include: "workflow/rules/consensus.smk"
include: "workflow/rules/seeds.smk"
include: "workflow/rules/neutral.smk"
include: "workflow/rules/heterogeneity.smk"
include: "workflow/rules/latent.smk"
include: "workflow/rules/volumes.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/null.smk"
include: "workflow/rules/crossing.smk"
include: "workflow/rules/agreement.smk"
include: "workflow/rules/truth.smk"
include: "workflow/rules/report.smk"


rule all:
    """Everything that the report shows: maps, models, verdicts and figures of every analysis."""
    default_target: True
    input:
        expand("results/{dataset}/report.html", dataset=config["dataset"]),
