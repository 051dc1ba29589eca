"""Even against odd: what one half of the particles says that the other half says too.

The halves share no particle and no network, only the frame of the refinement. Their classes are matched by maps
(`matching`), their motions as fields (`motions`), their latents on the same particles (`crossing`, `shared`), and every
score is put beside its value in particles that do not vary, which went through the same stages (`null`). The words and
their reasons are `judgement`'s and `verdict`'s.

It does not exclude agreement by errors that the halves share, such as the poses of one refinement.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from gaussemble.analysis.following import motion_scores
from gaussemble.analysis.judgement import motion_table, verdict
from gaussemble.analysis.match_curves import match_fsc, match_row
from gaussemble.analysis.matching import Classes, Comparison, compare, correlation_table, read_classes
from gaussemble.analysis.shared import (
    HALVES,
    Shared,
    arrangement,
    canonical,
    cluster_centers,
    evidence_scores,
    latent_scores,
    read_latents,
    shared_of,
)
from gaussemble.analysis.stability import Seen, reproduced, sentence, stability_table
from gaussemble.analysis.verdict import Options, read_null
from gaussemble.errors import InputError
from gaussemble.io.files import read_csv, read_json, write_csv, write_json
from gaussemble.io.mrc import read_map
from gaussemble.progress import say
from gaussemble.quantities import Map

FRAME = 2  # canonical variates that are written


def agreement(
    *,
    even: Path,
    odd: Path,
    out: Path,
    even_consensus: Path | None = None,
    odd_consensus: Path | None = None,
    nulls: list[Path] | None = None,
    options: Options,
) -> None:
    """Match classes and motions of the halves and judge which are reproduced.

    Writes matches.csv, correlations.csv, fsc/match_N.csv, motions.csv, motions/match_N.csv, latents.csv,
    stability.csv and verdict.json into `out`; without even/crossed/ and odd/crossed/ no latents and no motions.

    Args:
        even: folder of the analysis of the even half.
        odd: the same of the odd half.
        out: folder to write.
        even_consensus: the even half's consensus folder, for its mask; beside the analysis unless given.
        odd_consensus: the same of the odd half.
        nulls: verdict.json of the same analysis of each null run.
        options: see `Options`.
    """
    first, second = read_classes(even), read_classes(odd)
    if first.maps.shape[1:] != second.maps.shape[1:] or abs(first.pixel_size - second.pixel_size) > 1e-3:
        raise InputError(f"{even} and {odd}: class maps of another box or voxel size; the halves need equal options")
    consensus = even_consensus or even.parent / "consensus", odd_consensus or odd.parent / "consensus"
    mask = union_of_masks((even, odd), consensus, first.maps.shape[-1])
    limits = np.concatenate([first.half_map_resolution, second.half_map_resolution])
    found = compare(first, second, mask, options.resolution or float(np.median(limits)))
    say(f"agreement: maps are compared to {found.resolution:.1f} Å")
    rows = write_matches(out, first, second, found, mask)
    null = read_null([read_json(path) for path in nulls or []])
    masks = read_map(consensus[0] / "mask.mrc"), read_map(consensus[1] / "mask.mrc")
    crossed = crossed_scores(out, (even, odd), masks, (first, second), found, nulls or [])
    result = verdict(even.name, rows, (first, second), found, crossed, null, options)
    write_csv(out / "motions.csv", motion_table(result["motions"]))
    write_json(out / "verdict.json", result)
    say(f"agreement: {result['summary']}")


def union_of_masks(analyses: tuple[Path, Path], consensus: tuple[Path, Path], box: int) -> Float[Tensor, "z y x"]:
    """Where either half's mask is; those of the stage volumes where it made maps on a grid of their own."""
    masks = []
    for analysis, folder in zip(analyses, consensus, strict=True):
        own = analysis / "volumes" / "mask.mrc"
        path = own if own.is_file() else folder / "mask.mrc"
        masks.append(read_map(path).voxels)
        if masks[-1].shape[-1] != box:
            raise InputError(f"{path}: box {masks[-1].shape[-1]}, but the class maps have {box}")
    return torch.maximum(*masks)


def write_matches(
    out: Path, even: Classes, odd: Classes, found: Comparison, mask: Float[Tensor, "z y x"]
) -> list[dict[str, Any]]:
    """The tables of the classes; returns the rows of matches.csv."""
    rows = []
    remove_stale(out / "fsc")
    for number, pair in enumerate(found.pairs):
        fsc = match_fsc(even, odd, mask, pair)
        write_csv(out / "fsc" / f"match_{number + 1}.csv", fsc)
        rows.append(match_row(even, odd, found, number, fsc))
    write_csv(out / "matches.csv", pd.DataFrame(rows))
    write_csv(out / "correlations.csv", correlation_table(even, odd, found))
    return rows


def remove_stale(folder: Path) -> None:
    """Remove the tables of an earlier run, which may have had more."""
    for path in folder.glob("match_*.csv"):
        path.unlink()


def crossed_scores(
    out: Path,
    analyses: tuple[Path, Path],
    masks: tuple[Map, Map],
    classes: tuple[Classes, Classes],
    found: Comparison,
    nulls: list[Path],
) -> dict[str, Any] | None:
    """Keys latents, evidence, arrangement, clusters_by_stability, motions of verdict.json, and the tables behind them.

    None where nothing was crossed.
    """
    if not all((folder / "crossed" / "latent.csv").is_file() for folder in analyses):
        say("agreement: WARNING: nothing was crossed (even/crossed, odd/crossed): without evidence nothing is decided")
        return None
    table, units = read_latents(*analyses)
    shared = shared_of(table, units)
    centers = {}
    for half, folder, own in zip(HALVES, analyses, classes, strict=True):
        cluster = read_csv(folder / "latent" / "clusters.csv", ["cluster"])["cluster"].to_numpy()
        z = getattr(shared, half)[shared.half == (half == "even")]
        centers[half] = cluster_centers(z, cluster, own.number)
    write_csv(out / "latents.csv", in_one_frame(table, shared))
    motions, fields = motion_scores(*analyses, masks)
    remove_stale(out / "motions")
    for number, table in enumerate(fields, start=1):
        write_csv(out / "motions" / f"match_{number}.csv", table)
    return {
        "latents": latent_scores(shared, centers),
        "evidence": evidence_scores(shared),
        "arrangement": arrangement(centers["even"][found.even], centers["odd"][found.odd]),
        "clusters_by_stability": write_stability(out, shared, nulls),
        "motions": motions,
    }


def write_stability(out: Path, shared: Shared, nulls: list[Path]) -> dict[str, Any]:
    """stability.csv; returns how many clusters the halves find alike, beside the best null run, and a sentence."""
    rows = shared.half
    even, odd = Seen(shared.even[rows], shared.odd[rows]), Seen(shared.odd[~rows], shared.even[~rows])
    table, null = stability_table(even, odd), best_null([path.parent / "stability.csv" for path in nulls])
    shown = table
    if null is not None:
        scores = {f"null_{name}": null[name] for name in ("rand_index", "prediction_strength")}
        shown = table.merge(pd.DataFrame({"clusters": null["clusters"], **scores}), on="clusters", how="left")
    write_csv(out / "stability.csv", shown)
    return {"number": reproduced(table, null), "sentence": sentence(table, null)}


def best_null(paths: list[Path]) -> pd.DataFrame | None:
    """Of all null runs the highest scores of each number of clusters; None where there is no table."""
    columns = ["clusters", "rand_index", "rand_index_error", "prediction_strength"]
    tables = [read_csv(path, columns)[columns] for path in paths if path.is_file()]
    if not tables:
        return None
    together = pd.concat(tables)
    numbers = sorted(set(together["clusters"].tolist()))
    return pd.DataFrame([together[together["clusters"] == number].max() for number in numbers])


def in_one_frame(table: pd.DataFrame, shared: Shared) -> pd.DataFrame:
    """latents.csv with even1.., odd1..: the first canonical variates, by each network, of standard deviation 1."""
    _, *variates = canonical(shared.even, shared.odd)
    columns = {
        f"{half}{axis + 1}": values[:, axis]
        for half, values in zip(HALVES, variates, strict=True)
        for axis in range(min(FRAME, values.shape[1]))
    }
    return table.assign(**columns)
