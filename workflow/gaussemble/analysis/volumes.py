"""A reconstruction with half-maps and FSC for each cluster, trajectory point and selection, the decoded map beside it.

`states` says which particles make a map. Of each there are the half-maps and their sum as reconstructed, and map.mrc,
filtered by Wiener with the half-maps' signal-to-noise ratio and ended at their resolution. The decoded map is what the
trained model draws for one latent vector: it has the grey scale of the reconstruction but is no evidence by itself.
Whether states are real, `agreement` says. `motion` brings the particles of all states together in one map.

Writes report.json: box, pixel_size (Å), symmetry, weighting; states (name, particles, effective, half1 and half2
(particles), resolution and resolution_unmasked (Å), b_factor (Å², of sharpened.mrc)); skipped (name, particles,
reason); motion (`motion_facts`, or null).
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from gaussemble.analysis.motion import Network, motion_corrected, motion_facts, moving_networks
from gaussemble.analysis.reconstruction import (
    Maps,
    averaged,
    decoded,
    reconstructed,
    remove_maps,
    sharpened,
    write_maps,
)
from gaussemble.analysis.selections import SelectionOptions, find_selections, write_selections
from gaussemble.analysis.state_files import read_inputs, remove_stale, write_subset
from gaussemble.analysis.states import (
    State,
    Weighting,
    cluster_states,
    read_latents,
    selection_states,
    trajectory_states,
)
from gaussemble.errors import InputError
from gaussemble.io.files import read_csv, write_json
from gaussemble.io.mrc import read_map, write_map
from gaussemble.io.refinement import Refinement, read_written
from gaussemble.io.store import ImageStore, open_store
from gaussemble.model.heterogeneity import DeformableMixture, load_model
from gaussemble.options import StageOptions
from gaussemble.physics.backprojection import Sums, sums_bytes
from gaussemble.prepare.fsc import curve_resolution
from gaussemble.prepare.originals import on_grid_of, open_originals
from gaussemble.prepare.slices import Source, check_symmetry, halves, sum_slices
from gaussemble.progress import say
from gaussemble.quantities import Map


class Options(StageOptions):
    """Options of the stage `volumes`."""

    padding: Literal[1, 2] = Field(default=2, description="Zero padding of reconstructions; 1 is quicker, coarser.")
    symmetry: str = Field(
        default="C1", description="Point group of the states' maps in RELION's names and axes; C1 where it may break."
    )
    box: Literal["working", "original"] = Field(
        default="working",
        description="Images that maps are made of: those in the working box, or the original ones, read again from "
        "their stacks.",
    )
    weighting: Weighting = Field(
        default="nearest",
        description="Particles of a trajectory point's map: the nearest, or all, each as often as its posterior says "
        "that it is there.",
    )
    nearest: int = Field(
        default=2000,
        ge=2,
        description="Particles nearest to a trajectory point that make its map; or as many as all of them amount to, "
        "where they are weighted.",
    )
    share: float = Field(
        default=1 / 3, gt=0, le=1, description="At most this share of all particles makes a trajectory point's map."
    )
    least: int = Field(default=10, ge=2, description="A state of fewer particles gets no map, which is reported.")
    selections: tuple[SelectionOptions, ...] = Field(
        default=(), description="Particles of your own choice, each of which gets a map."
    )
    sharpen: bool = Field(default=False, description="Make sharpened.mrc too, by a B-factor.")
    b_factor: float | None = Field(
        default=None,
        description="Å², negative sharpens; none: the slope of Guinier's plot between 10 Å and the resolution.",
    )
    motion: bool = Field(
        default=False,
        description="Make one map of all particles too, the decoded motions of rigid bodies taken back.",
    )
    bodies: int = Field(
        default=4, ge=1, description="Rigid bodies of that map, at most; no more than blur at its resolution asks for."
    )
    memory: float = Field(
        default=4.0, gt=0, description="GB for the volumes of one pass; where it is not enough there are more passes."
    )


# ---- Which maps


def refuse_together(options: Options) -> None:
    """Raise InputError for options that exclude each other; the workflow's config says it before anything runs."""
    if options.motion and options.symmetry.upper() != "C1":
        raise InputError(
            f"volumes.symmetry: found {options.symmetry}; expected C1 with volumes.motion, since bodies that move by "
            "themselves have no symmetry; set one of the two back"
        )


def read_states(folder: Path, store: ImageStore, selected: dict[str, np.ndarray], options: Options) -> list[State]:
    """All maps to make of an analysis."""
    latents = read_latents(folder, store)
    count = min(options.nearest, max(2, int(options.share * len(latents.rows))))
    return [
        *cluster_states(folder, latents, store),
        *trajectory_states(folder, latents, count, options.weighting),
        *selection_states(selected, latents),
    ]


def reason_to_skip(state: State, store: Source, options: Options) -> str | None:
    """Why a state gets no map."""
    count = len(state.rows)
    if count == 0:
        return "none of its particles is in this split"
    if count < options.least:
        return f"{count} particle{'s' * (count > 1)}, fewer than volumes.least, {options.least}"
    if len(torch.unique(store.half[state.rows])) < 2:
        return f"all of its {count} particles belong to one half-map: nothing tells signal from noise"
    return None


def passes(states: list[State], box: int, options: Options) -> Iterator[list[State]]:
    """The states in groups whose half-maps fit in memory together."""
    size = max(1, int(options.memory * 1e9 / (2 * sums_bytes(box, options.padding))))
    for start in range(0, len(states), size):
        yield states[start : start + size]


# ---- Maps


def sum_states(source: Source, states: list[State], padding: int) -> Sums:
    """Both halves of every state in one pass over the images: volumes 2 s and 2 s + 1 of state s."""
    pairs = [halves(source, state.rows) + torch.tensor([0, 2 * index]) for index, state in enumerate(states)]
    counts = [torch.ones(len(state.rows)) if state.count is None else state.count for state in states]
    return sum_slices(source, torch.cat(pairs), 2 * len(states), padding, torch.cat(counts))


def finish(folder: Path, maps: Maps, table: pd.DataFrame, frame: Map, options: Options) -> dict[str, Any]:
    """Sharpen and write the maps of a state; its resolutions, and what was done."""
    maps, done = sharpened(maps, table, frame, options.sharpen, options.b_factor)
    write_maps(folder, maps, table, frame)
    limits = {"resolution": curve_resolution(table), "resolution_unmasked": curve_resolution(table, "fsc")}
    if options.sharpen and "sharpened" not in maps:
        say(f"{folder.name}: ends at {limits['resolution']:.1f} Å: too few rings beyond 10 Å for a B-factor; give one")
    return limits | done


def counted(state: State, source: Source) -> dict[str, Any]:
    """How many particles a state has."""
    first, second = (int((source.half[state.rows] == half).sum()) for half in (0, 1))
    counts = {"particles": len(state.rows), "effective": state.effective, "half1": first, "half2": second}
    return {"name": state.name} | counts


def make_states(
    source: Source,
    states: list[State],
    model: DeformableMixture,
    frame: Map,
    working: int,
    out: Path,
    options: Options,
) -> list[dict[str, Any]]:
    """Write the maps of all states on the grid of `frame`; `working`: the box of the model. What report.json says."""
    facts, finer = [], frame.box / working
    for group in passes(states, source.box, options):
        sums = sum_states(source, group, options.padding)
        for index, state in enumerate(group):
            own = replace(sums, cells=sums.cells[2 * index : 2 * index + 2])
            maps, table = reconstructed(own, frame, options.symmetry)
            maps["decoded"] = finer**3 * decoded(model, state.latent, frame)  # amplitudes are sums of working voxels
            facts.append(counted(state, source) | finish(out / state.name, maps, table, frame, options))
            say(f"{state.name}: {len(state.rows)} particles, {facts[-1]['resolution']:.1f} Å at FSC 0.143 in the mask")
    return facts


# ---- Motion


def make_motion(
    source: Source, networks: list[Network], frame: Map, consensus: Path, out: Path, options: Options
) -> dict[str, Any]:
    """Write the motion-corrected map; what report.json says of it."""
    limit = curve_resolution(read_csv(consensus / "fsc.csv", ["frequency", "fsc_masked"]))
    corrected = motion_corrected(source, networks, frame, options.bodies, limit, options.padding)
    maps, table = averaged(corrected.half1, corrected.half2, frame)
    done = finish(out, maps, table, frame, options)
    plain = [read_map(consensus / f"half{half}.mrc") for half in (1, 2)]
    facts = motion_facts(corrected, Map(plain[0].voxels, plain[0].pixel_size), plain[1].voxels, frame) | done
    for number, body in enumerate(facts["bodies"], start=1):
        say(
            f"motion-corrected: body {number} of {len(facts['bodies'])} moves by {body['motion']:.1f} Å: "
            f"{body['resolution']:.1f} Å in its mask, {body['consensus_resolution']:.1f} Å in the consensus"
        )
    return facts


# ---- Files


def open_source(store: ImageStore, refinement: Refinement, mask: Map, options: Options) -> tuple[Source, Map]:
    """The images that maps are made of, and the mask on their grid."""
    if options.box == "working":
        return store, mask
    source = open_originals(store, refinement.star)
    say(f"original images of {source.box} pixels of {source.pixel_size:.4g} Å are read again")
    return source, on_grid_of(mask, source)


def write_subsets(
    out: Path, states: list[State], refinement: Refinement, store: ImageStore, options: Options
) -> list[dict[str, Any]]:
    """Write each state's particles; the states that get no map, with their reasons, as report.json has them."""
    skipped = []
    for state in states:
        write_subset(out / state.name, state, refinement, store)
        if reason := reason_to_skip(state, store, options):
            say(f"warning: {state.name} gets no map: {reason}")
            remove_maps(out / state.name)
            skipped.append({"name": state.name, "particles": len(state.rows), "reason": reason})
    return skipped


def selections(*, particles: Path, out: Path, options: Options) -> None:
    """Look for the user's selections among the particles, long before their maps are made; write what was found.

    Args:
        particles: folder of the split's image store, with particles.star.
        out: table of selection and particle.
        options: of the stage volumes.

    Raises:
        InputError: a selection names particles that the input does not have, or cannot be read.
    """
    store = open_store(particles)
    write_selections(out, find_selections(options.selections, store, read_written(particles)), store)


def volumes(
    *,
    particles: Path,
    consensus: Path,
    analysis: Path,
    out: Path,
    even: Path | None = None,
    odd: Path | None = None,
    options: Options,
) -> None:
    """Write a folder for each state: map, unfiltered, half1, half2, decoded .mrc, fsc.csv, particles.star; report.json.

    Where the particles came from cryoSPARC or cryoDRGN, particles.cs or indices.pkl has the same subset for these.

    Args:
        particles: folder of the split's image store, with particles.star.
        consensus: folder of the split's consensus; its mask is where FSC is measured.
        analysis: folder of the analysis with heterogeneity/ and latent/.
        out: folder of the results.
        even: folder of the same analysis of the even half, whose network moves the first half-map's particles.
        odd: of the odd half, for the second half-map.
        options: of this stage.

    Raises:
        InputError: files that are missing or do not belong together.
    """
    refuse_together(options)
    store, refinement, mask = read_inputs(particles, consensus)
    check_symmetry(store, options.symmetry, "volumes.symmetry")
    model = load_model(analysis / "heterogeneity" / "model.pt")
    states = read_states(analysis, store, find_selections(options.selections, store, refinement), options)
    networks = moving_networks(store, analysis, even, odd) if options.motion else []
    source, frame = open_source(store, refinement, mask, options)
    remove_stale(out, [state.name for state in states] + ["motion_corrected"] * options.motion)
    write_map(out / "mask.mrc", frame)
    skipped = write_subsets(out, states, refinement, store, options)
    large = [state for state in states if state.name not in {each["name"] for each in skipped}]
    made = make_states(source, large, model, frame, mask.box, out, options)
    corrected = out / "motion_corrected"
    moved = make_motion(source, networks, frame, consensus, corrected, options) if options.motion else None
    frame_facts = {"box": frame.box, "pixel_size": frame.pixel_size}
    chosen = {"symmetry": options.symmetry, "weighting": options.weighting}
    write_json(out / "report.json", frame_facts | chosen | {"states": made, "skipped": skipped, "motion": moved})
