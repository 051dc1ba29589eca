"""The page: report.html holds all figures, tables and numbers of a run and refers to nothing outside itself."""

import base64
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from pydantic import Field

from gaussemble.analysis.verdict import gain_text
from gaussemble.errors import InputError
from gaussemble.io.files import read_csv, read_json, read_npz, written
from gaussemble.options import StageOptions
from gaussemble.progress import say
from gaussemble.report.captions import CAPTIONS, CHAPTERS
from gaussemble.report.names import DATASET_FIGURES, FIGURES
from gaussemble.report.page import STYLE, TEMPLATE
from gaussemble.report.results import crossing, crossing_text, main_curve

OPTIONAL_STAGES = {
    "models": "an atomic model",
    "simulate": "simulated particles",
    "truth": "simulated particles",
    "motion_corrected": "volumes.motion in all analyses",
}
MOST_ROWS, LISTED = 20, 5  # optics groups, and particles left out, in tables of the page
SCREEN_SHARE = 0.6  # of a figure's pixels, as CSS pixels: figures are drawn for screens of twice the density


class Options(StageOptions):
    """Options of the stage `report`."""

    title: str | None = Field(default=None, description="Title of the page; none: the data set's name.")


def report(*, results: Path, out: Path, options: Options) -> None:
    """Write the page of a data set: `results` is its folder results/{dataset}, with figures/ and provenance.json."""
    provenance = read_json(results / "provenance.json")
    names = list(provenance["config"]["analyses"])
    absent: dict[str, str] = {}
    analyses = [analysis_part(results, name, absent) for name in names]
    of_particles = [name for name in DATASET_FIGURES if "particles" in FIGURES[name]]
    of_consensus = [name for name in DATASET_FIGURES if name not in of_particles]
    particles = particles_part(read_json(results / "full" / "particles" / "report.json"))
    particles["lines"].append(coverage_line(results, provenance["config"].get("consensus", {}).get("symmetry", "C1")))
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(TEMPLATE)
    text = page.render(
        title=options.title or f"{results.resolve().name}: heterogeneity report",
        style=STYLE,
        analyses=[each | {"summary": units_kept(each["summary"])} for each in analyses],
        caution=analyses[0]["caution"],
        numbers=dataset_numbers(results, names),
        particles=particles | {"figures": figures_of(results, names[0], of_particles, absent)},
        consensus=figures_of(results, names[0], of_consensus, absent),
        provenance=provenance_part(provenance),
        absent=[f"{title} ({reason})" for title, reason in absent.items()],
    )
    with written(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    say(f"report: {out} ({len(text.encode()) / 1e6:.1f} MB)")
    for analysis in analyses:
        say(f"report: {analysis['name']}: {analysis['summary']}")


# ---- figures


def figures_of(results: Path, analysis: str, names: Sequence[str], absent: dict[str, str]) -> list[dict[str, Any]]:
    """Some figures with their captions and pixels; those of stages that this run does not have go to `absent`."""
    found = []
    for name in names:
        path = results / "figures" / analysis / f"{name}.png"
        title, caption = CAPTIONS[name]
        if path.is_file():
            pixels = path.read_bytes()
            source = "data:image/png;base64," + base64.b64encode(pixels).decode("ascii")
            width = round(SCREEN_SHARE * struct.unpack(">I", pixels[16:20])[0])
            found.append(
                {"id": f"{analysis}-{name}", "title": title, "caption": caption, "source": source, "width": width}
            )
            continue
        missing = [OPTIONAL_STAGES[stage] for stage in FIGURES[name] if stage in OPTIONAL_STAGES]
        if not missing:
            raise InputError(f"{path}: no such figure; draw it with `gaussemble figure {name}`")
        absent[title] = f"it needs {missing[0]}"
    return found


# ---- one analysis


def analysis_part(results: Path, name: str, absent: dict[str, str]) -> dict[str, Any]:
    """Summary and chapters of one analysis."""
    verdict = read_json(results / "agreement" / name / "verdict.json")
    chapters = []
    for key, title, names in CHAPTERS:
        figures = figures_of(results, name, names, absent)
        lines, tables = chapter_text(results, name, key, verdict)
        if figures or tables:
            chapter = {"id": f"{name}-{key}", "title": title, "lines": lines, "tables": tables, "figures": figures}
            chapters.append(chapter)
    return {"name": name, "summary": verdict["summary"], "caution": verdict["caution"], "chapters": chapters}


def chapter_text(results: Path, name: str, chapter: str, verdict: dict[str, Any]) -> tuple[list[str], list[dict]]:
    """The sentences and tables of a chapter."""
    if chapter == "states":
        folder = results / "full" / name
        return structure_lines(folder) + skipped_lines(folder), [cluster_table(folder), *selection_tables(folder)]
    if chapter == "motions":
        return [], body_tables(results / "full" / name)
    if chapter == "agreement":
        tables = [match_table(verdict)] + [motion_table(verdict)] * bool(verdict["motions"])
        return agreement_lines(verdict), tables
    path = results / "truth" / f"{name}.json"
    if chapter == "truth" and path.is_file():
        scores = read_json(path)
        return truth_lines(scores), [truth_table(scores)]
    return [], []


def table(columns: list[str], rows: list[list[Any]], numbers: str = "", title: str = "") -> dict[str, Any]:
    """A table for the template; `numbers` has an n for each column of numbers, r for one of reasons."""
    styles = {"n": "number", "r": "reason"}
    marks = numbers.ljust(len(columns))
    heads = [{"label": label, "style": styles.get(mark, "")} for label, mark in zip(columns, marks, strict=True)]
    return {"columns": heads, "rows": rows, "title": title}


def structure_lines(folder: Path) -> list[str]:
    """Whether anything varies beyond chance, by particles that the networks were not trained on."""
    path = folder / "latent" / "structure.json"
    if not path.is_file():
        return []
    found = read_json(path)
    kept = f"{found['variation']['particles']:,} particles that were kept from training"
    judges = kept if found["kept_from_training"] else "every tenth particle, since none was kept from training"
    return [f"By {judges}: {found['sentence']}."]


def cluster_table(folder: Path) -> dict[str, Any]:
    """Size and resolution of each cluster."""
    counts = read_csv(folder / "latent" / "clusters.csv", ["cluster"])["cluster"].value_counts().sort_index()
    rows = []
    for number, count in counts.items():
        limits, share = resolutions(folder / "volumes" / f"cluster_{number}"), count / counts.sum()
        name = number if number else "in none"  # of hdbscan, or of a user's labels
        rows.append([name, f"{count:,}", percent(share, np.sqrt(share * (1 - share) / counts.sum())), *limits])
    return table(["cluster", "particles", "share", "Å at FSC 0.143", "Å at FSC 0.5"], rows, "nnnnn")


def resolutions(state: Path) -> list[str]:
    """Å at FSC 0.143 and 0.5 of a state; it has no map where it was too small."""
    if not (state / "fsc.csv").is_file():
        return ["no map", "no map"]
    fsc = read_csv(state / "fsc.csv", ["frequency", "fsc_masked"])
    return [crossing_text(fsc["frequency"], fsc[main_curve(fsc)], at) for at in (0.143, 0.5)]


def skipped_lines(folder: Path) -> list[str]:
    """The states that got no map, with the reasons."""
    path = folder / "volumes" / "report.json"
    skipped = read_json(path)["skipped"] if path.is_file() else []
    return [f"{each['name'].replace('_', ' ')} has no map: {each['reason']}." for each in skipped]


def selection_tables(folder: Path) -> list[dict[str, Any]]:
    """The user's selections, if there are any."""
    path = folder / "volumes" / "report.json"
    states = read_json(path)["states"] if path.is_file() else []
    rows = [
        [each["name"].removeprefix("selection_"), f"{each['particles']:,}", *resolutions(path.parent / each["name"])]
        for each in states
        if each["name"].startswith("selection_")
    ]
    return [table(["selection", "particles", "Å at FSC 0.143", "Å at FSC 0.5"], rows, " nnn")] * bool(rows)


def body_tables(folder: Path) -> list[dict[str, Any]]:
    """What the motion-corrected map, if there is one, has of each body."""
    path = folder / "volumes" / "report.json"
    motion = read_json(path)["motion"] if path.is_file() else None
    if motion is None:
        return []
    rows = [
        [number, body["gaussians"], *(f"{body[key]:.1f}" for key in ("motion", "resolution", "consensus_resolution"))]
        for number, body in enumerate(motion["bodies"], start=1)
    ]
    columns = ["body", "Gaussians", "moves by (Å)", "Å at FSC 0.143, motion taken back", "Å in the consensus"]
    return [table(columns, rows, "nnnnn", "Rigid bodies of the motion-corrected map, each in a mask of its own")]


def match_table(verdict: dict[str, Any]) -> dict[str, Any]:
    """The verdict on each pair of classes, with its reason."""
    columns = ["even", "odd", "verdict", "reason", "even share", "odd share", "maps", "differences", "Å at FSC 0.5"]
    rows = []
    for match in verdict["clusters"]:
        shares = [percent(*pair) for pair in zip(match["fractions"], match["fraction_errors"], strict=True)]
        numbers = [f"{match[key]:.2f}" for key in ("correlation", "difference_correlation")]
        words = [match["verdict"], match["reason"]]
        rows.append([match["even"], match["odd"], *words, *shares, *numbers, f"{match['resolution']:.1f}"])
    return table(columns, rows, "nn rnnnnn", "Classes")


def motion_table(verdict: dict[str, Any]) -> dict[str, Any]:
    """The verdict on each pair of motions, with its reason."""
    columns = ["even", "odd", "verdict", "reason", "Å", "differ by, Å", "cosine", "nats a particle"]
    rows = []
    for each in verdict["motions"]:
        length = "–" if each["kind"] == "presence" else f"{np.mean(each['displacement']):.1f}"
        apart = "–" if each["kind"] == "presence" else f"{each['difference']:.1f}"
        borne_out = gain_text({"gain": each["gain"], "error": each["gain_error"]})
        words = [each["verdict"], each["reason"]]
        rows.append([each["even"], each["odd"], *words, length, apart, f"{each['cosine']:.2f}", borne_out])
    return table(columns, rows, "   rnnnn", "Motions")


def agreement_lines(verdict: dict[str, Any]) -> list[str]:
    """How the halves were compared, in words."""
    lines = [
        f"Class maps of the even and the odd half were compared inside the mask to {verdict['resolution']:.1f} Å and "
        "matched one to one by what sets each class apart from its half's other classes. Unrelated maps of the "
        f"same spectrum hardly ever correlate by more than {verdict['chance']:.2f}."
    ]
    if not verdict["matching_by_maps_agrees"]:
        lines.append("Matching by the whole maps would pair the classes otherwise.")
    for half, numbers in verdict["unmatched"].items():
        if numbers:
            lines.append(f"Without a partner in the {half} half: class {', '.join(map(str, numbers))}.")
    for half, skipped in verdict["skipped"].items():
        lines += [f"Class {each['cluster']} of the {half} half has no map: {each['reason']}." for each in skipped]
    return [*lines, *latent_lines(verdict), *([f"For a methods section: {verdict['methods']}"])]


def latent_lines(verdict: dict[str, Any]) -> list[str]:
    """What the networks say of particles that they never saw, in words."""
    if not verdict["evidence"]:
        return []
    found, latents = verdict["evidence"], verdict["latents"]
    halves = ", ".join(f"{gain_text(found[half])} for {half}" for half in ("even", "odd"))
    correlations = ", ".join(f"{each:.2f}" for each in latents["canonical_correlations"])
    rand = latents["rand_index"]
    index = "" if rand is None else f"their clusters an adjusted Rand index of {rand:.2f}; "
    words = "more than chance" if found["both"]["beyond_chance"] else "no more than chance"
    lines = [
        "Embedded by the network of the other half, particles are likelier than if the molecule were rigid by "
        f"{halves} (nats a particle): {words}. The two networks' latents of the same particles have canonical "
        f"correlations of {correlations}; {index}"
        f"{latents['neighbor_overlap']:.0%} of the nearest neighbours are the same (by chance "
        f"{latents['neighbor_chance']:.1%})."
    ]
    if verdict["arrangement"]["correlation"] is not None:
        lines.append(
            f"Distances between the classes' centres agree with a correlation of "
            f"{verdict['arrangement']['correlation']:.2f} (of ranks {verdict['arrangement']['rank_correlation']:.2f})."
        )
    if verdict["clusters_by_stability"]:
        lines.append(verdict["clusters_by_stability"]["sentence"])
    return lines


def truth_lines(scores: dict[str, Any]) -> list[str]:
    """The scores in a sentence each."""
    ours, best, lines = scores["analysis"], scores["oracle"], []
    if ours["swing_r2"] is not None:
        lines.append(
            f"The swing is read from the latents with R² {ours['swing_r2']:.3f} (error {ours['swing_error']:.1f}°); "
            f"the best possible is {best['swing_r2']:.3f} ({best['swing_error']:.1f}°)."
        )
    if ours["occupancy_linear_probe"] is not None:
        lines.append(
            f"Presence or absence is told rightly for {ours['occupancy_linear_probe']:.1%} of the particles from the "
            f"latents, {ours['occupancy_clusters']:.1%} from the clusters (balanced accuracy); the best possible is "
            f"{best['occupancy_linear_probe']:.1%}."
        )
    same = [match["same_states"] for match in scores.get("matches", [])]
    if same:
        lines.append(f"{sum(same)} of {len(same)} matched even and odd classes hold the same true states.")
    return lines


def truth_table(scores: dict[str, Any]) -> dict[str, Any]:
    """What each cluster truly holds, and how far its map is right."""
    columns = ["cluster", "true swing", "occupied", "true map to, Å (FSC 0.5)"]
    rows = [
        [
            int(each["cluster"]),
            f"{each['swing']:+.1f} ± {each['swing_deviation']:.1f}°",
            f"{each['occupied']:.0%}",
            f"{each['resolution_0.5']:.1f}",
        ]
        for each in scores["clusters"]
    ]
    return table(columns, rows, "nnnn")


# ---- the particles


def particles_part(report: dict[str, Any]) -> dict[str, Any]:
    """Lines and tables of what the stage particles found in the full set, from its report.json."""
    found = report["inspection"]
    tables = [optics_table(found["optics"])]
    if report["left_out"]:
        tables.append(left_out_table(report["left_out"]))
    if found["suspicious"]:
        tables.append(suspicion_table(found["suspicious"]))
    remark = "" if found["suspicious"] else "No particle looks suspicious."
    return {"lines": count_lines(report), "assumed": report["assumed"], "tables": tables, "remark": remark}


def count_lines(report: dict[str, Any]) -> list[str]:
    """How many particles there are, and their usual defocus and shift."""
    found, left_out = report["inspection"], len(report["left_out"])
    counts = found["counts"]
    copies = f" of {counts['images']:,} images" if counts["images"] < counts["rows"] else ""
    lines = [
        f"{report['star']} has {report['particles_in_file']:,} particles; {counts['rows']:,}{copies} are used and "
        f"{left_out or 'none'} left out. The half-maps are of {counts['half1']:,} and {counts['half2']:,} images."
    ]
    usual = f"a shift of {middle(found['shift'], 'Å')}"
    if found["defocus"]:
        defocus, astigmatism = middle(found["defocus"], "µm"), middle(found["astigmatism"], "Å")
        usual = f"a defocus of {defocus}, an astigmatism of {astigmatism}, {usual}"
    lines.append(f"Nine tenths of them have {usual}.")
    if "contrast" in report:
        lines.append(sentence(report["contrast"]["evidence"]))
    return lines


def coverage_line(results: Path, symmetry: str) -> str:
    """How evenly the views fill Fourier space at the consensus resolution."""
    import torch  # here, because nothing else on the page needs it

    from gaussemble.physics.coverage import coverage

    arrays = read_npz(results / "full" / "particles" / "particles.npz", "the particles of an image store")
    fsc = read_csv(results / "full" / "consensus" / "fsc.csv", ["frequency"])
    limit = crossing(fsc["frequency"], fsc[main_curve(fsc)], 0.143)
    shell = float(arrays["box"] * arrays["pixel_size"]) / limit
    found = coverage(torch.from_numpy(arrays["rotation"]), shell, symmetry)
    return (
        f"At {limit:.1f} Å {found.unseen:.1%} of the directions of Fourier space are seen by no particle; the sampling "
        f"efficiency is {found.efficiency:.2f} (1: even views, 0.81: side views alone)."
    )


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."


def middle(quantiles: dict[str, float], unit: str) -> str:
    """From the 5th to the 95th hundredth of what is in Å."""
    scale, form = (1e4, ".2f") if unit == "µm" else (1, ".0f")
    return f"{quantiles['5 %'] / scale:{form}} to {quantiles['95 %'] / scale:{form}} {unit}"


def optics_table(groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The optics groups, at most twenty of them."""
    heads = ["group", "name", "particles", "kV", "Cs, mm", "amplitude contrast", "pixel, Å", "image, pixels"]
    keys = ["voltage", "spherical_aberration", "amplitude_contrast", "pixel_size", "image_size"]
    rows = [
        [group["group"], group["name"], f"{group['particles']:,}", *(plain(group[key]) for key in keys)]
        for group in groups[:MOST_ROWS]
    ]
    more = f"; {len(groups) - MOST_ROWS} more are in report.json" if len(groups) > MOST_ROWS else ""
    return table(heads, rows, "n nnnnnn", f"Optics groups{more}")


def plain(value: float | list[float] | None) -> str:
    """A number, a range of them, or a dash."""
    if isinstance(value, list):
        return " to ".join(f"{each:g}" for each in value)
    return "–" if value is None else f"{value:g}"


def suspicion_table(suspicious: list[dict[str, Any]]) -> dict[str, Any]:
    """What looks wrong, in how many particles, and the first three of them."""
    rows = []
    for each in suspicious:
        named = [f"{row['row']} ({row['value']:g} {each['unit']}".rstrip() + ")" for row in each["rows"][:3]]
        more = ", …" if each["count"] > len(named) and named else ""
        rows.append([each["what"], f"{each['count']:,}", ", ".join(named) + more])
    return table(["what", "particles", "rows of the file from 0 (and value)"], rows, "rn", "Suspicious particles")


def left_out_table(left_out: list[dict[str, Any]]) -> dict[str, Any]:
    """The first particles that were left out."""
    rows = [[each["row"], each["image"], each["reason"]] for each in left_out[:LISTED]]
    more = f", the first {LISTED} of {len(left_out):,}" if len(left_out) > LISTED else ""
    return table(["row", "image", "reason"], rows, "n r", f"Left out{more}")


# ---- the data set and how it was made


def dataset_numbers(results: Path, analyses: list[str]) -> list[dict[str, str]]:
    """The few numbers at the top of the page."""
    particles = read_json(results / "full" / "particles" / "report.json")
    fsc = read_csv(results / "full" / "consensus" / "fsc.csv", ["frequency", "fsc_masked"])
    with np.load(results / "full" / "neutral" / "mixture.npz", allow_pickle=False) as data:
        gaussians = len(data["amplitude"])
    numbers = {
        "particles": f"{particles['particles']:,}",
        "box and pixel": f"{particles['box']} × {particles['pixel_size']:.3g} Å",
        "consensus resolution": crossing_text(fsc["frequency"], fsc[main_curve(fsc)], 0.143) + " Å",
        "Gaussians": f"{gaussians:,}",
    }
    if particles["left_out"]:
        numbers["particles left out"] = f"{len(particles['left_out']):,}"
    for name in analyses:
        verdict = read_json(results / "agreement" / name / "verdict.json")
        for what, matches in {"classes": verdict["clusters"], "motions": verdict["motions"]}.items():
            good = sum(each["verdict"] == "reproduced" for each in matches)
            label = f"{what} reproduced" if len(analyses) == 1 else f"{name}: {what} reproduced"
            numbers |= {label: f"{good} of {len(matches)}"} if matches else {}
    return [{"label": label, "value": value} for label, value in numbers.items()]


def provenance_part(provenance: dict[str, Any]) -> dict[str, Any]:
    """Config, versions and inputs as tables."""
    inputs = [
        [each["path"], f"{each['bytes']:,}", each["modified"], each["sha256"][:16]] for each in provenance["inputs"]
    ]
    versions = {"python": provenance["python"], "platform": provenance["platform"]} | provenance["packages"]
    return {
        "sentence": f"Made with Gaussemble {provenance['gaussemble']}, {provenance['written']}. The file "
        "provenance.json beside this page holds the same for programs.",
        "tables": [
            table(["option", "value"], flat(provenance["config"]), title="Every setting"),
            table(["package", "version"], [[k, v or "not installed"] for k, v in versions.items()], title="Versions"),
            table(["file", "bytes", "modified", "SHA-256, first 16"], inputs, " n", title="Input files"),
        ],
    }


def flat(values: dict[str, Any], prefix: str = "") -> list[list[str]]:
    """A nested config as rows of dotted key and value."""
    rows = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows += flat(value, f"{prefix}{key}.")
        else:
            rows.append([prefix + str(key), "none" if value is None else str(value)])
    return rows


def units_kept(text: str) -> str:
    """Text whose numbers do not part from their units at the end of a line."""
    return re.sub(r"(\d) (Å|%)", "\\1\N{NO-BREAK SPACE}\\2", text)


def percent(share: float, error: float) -> str:
    """A share with its standard error."""
    return f"{100 * share:.1f} ± {100 * error:.1f} %"
