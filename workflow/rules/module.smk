"""Where this workflow's own files stand, which its rules run from: in a checkout, or where another workflow names it as
a module of a hosted repository, `module gaussemble: snakefile: github(...)`. docs/module.md is for that workflow's author.
"""

import os
import sys
import tarfile
import tempfile
from pathlib import Path


def checkout():
    """The folder of this workflow's files; those of a hosted repository are unpacked first."""
    place = workflow.current_basedir  # workflow/rules
    if hasattr(place, "hosted_repo"):
        return unpacked(
            place.hosted_repo.repo, place.ref, Path(workflow.sourcecache.cache_path)
        )
    path = place.get_path_or_uri(secret_free=True)
    if "://" in path:
        address = os.path.dirname(os.path.dirname(path))
        sys.exit(
            f"{address}: stages run from files, which an address does not give; clone the repository and name the clone's "
            "Snakefile, or use it as a module of github(...), as docs/module.md says"
        )
    return Path(path).parents[1]


def unpacked(repository, ref, cache):
    """The files of one commit, beside Snakemake's clone; written once, complete or not at all."""
    commit = repository.commit(ref).hexsha
    folder = cache / "gaussemble" / commit
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as new:
            with tempfile.TemporaryFile() as packed:
                repository.archive(packed, treeish=commit)
                packed.seek(0)
                with tarfile.open(fileobj=packed) as tar:
                    tar.extractall(f"{new}/files", filter="data")
            try:
                os.rename(f"{new}/files", folder)
            except OSError:  # another job was quicker
                if not folder.is_dir():
                    raise
    return folder


def check_prefix():
    """Stop at a module's prefix: it would move the files that rules name, not those that the stages write."""
    if workflow.modifier.path_modifier.replace_prefix("results/") != "results/":
        sys.exit(
            "module: prefix and replace_prefix cannot be used with gaussemble, whose results stand in results/DATASET; "
            "leave them out, and give each data set a name of its own"
        )


ROOT = checkout()
check_prefix()

IMAGE = os.environ.get("GAUSSEMBLE_IMAGE")
if IMAGE:  # for --sdm apptainer; envs/gaussemble.def says how it is built

    container: IMAGE
