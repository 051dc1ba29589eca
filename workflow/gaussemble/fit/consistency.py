"""What a config of the heterogeneity may not say, beyond the types of its keys.

Imports nothing: the stage asks before it trains, and so does the workflow before anything runs, which reads this file
by itself. Values are the section's keys after the defaults. A problem is the dotted key and what is wrong with it.
"""


def problems(values):
    """All problems, in the order of the keys."""
    yield from band_problems(values)
    if values["decoders"]:
        yield from name_problems(values["decoders"])
        for number, section in enumerate(values["decoders"]):
            yield from decoder_problems(f"decoders.{number}.", section, section["kind"], inherited(section, values))
    else:
        yield from decoder_problems("", values, values["decoder"], values)
    yield from round_problems(values)


def resolutions(values):
    """Every resolution (Å) that is given, with its key."""
    named = [("resolution", values["resolution"])]
    for key in ("decoders", "rounds"):
        named += [(f"{key}.{number}.resolution", each["resolution"]) for number, each in enumerate(values[key])]
    return [(key, value) for key, value in named if value is not None]


def model_keys(values):
    """The keys that need the seeds' atomic model: `selection`, for its atoms; `restraint`, for seeds in chains."""
    sections = [("", values)] + [(f"decoders.{number}.", each) for number, each in enumerate(values["decoders"])]
    found = {"selection": [], "restraint": []}
    for prefix, section in sections:
        places = [(prefix, section)]
        places += [(f"{prefix}domains.{number}.", each) for number, each in enumerate(section["domains"])]
        found["selection"] += [f"{place}selection" for place, each in places if each["selection"]]
        found["restraint"] += [f"{prefix}restraint"] * bool(section["restraint"])
    return found


def inherited(section, values):
    """A decoder's section, its empty keys as they are beside `decoders`; a rigid one varies positions alone."""
    names = ("position", "amplitude", "width")
    rigid = section["kind"] == "rigid"
    default = {name: name == "position" if rigid else values[name] for name in names}
    return {name: default[name] if section[name] is None else section[name] for name in names}


def band_problems(values):
    """Resolutions against each other."""
    finest, lowest = values["resolution"], values["lowest_resolution"]
    for key, value in resolutions(values):
        if finest is not None and value < finest:
            yield key, f"found {value:g} Å; expected at least resolution, {finest:g} Å, the finest that is compared"
        if lowest is not None and lowest <= value:
            beside = "resolution" if key == "resolution" else key
            yield "lowest_resolution", f"found {lowest:g}; expected more than {beside}, {value:g}"


def name_problems(sections):
    """Decoders of one name."""
    names = [section["name"] for section in sections]
    for number, name in enumerate(names):
        if name in names[:number]:
            yield f"decoders.{number}.name", f"{name} is the name of another decoder; each needs its own"


def decoder_problems(prefix, section, kind, vary):
    """One decoder's keys against each other."""
    if section["selection"] and section.get("region"):
        yield f"{prefix}selection", "region is given too; give one of them"
    if kind == "rigid":
        yield from rigid_problems(prefix, section, vary)
        return
    if section["domains"]:
        yield f"{prefix}domains", f"only a rigid decoder has domains, this one is {kind}; leave them out"
    if not any(vary[name] for name in ("position", "amplitude", "width")):
        yield f"{prefix}position", "position, amplitude and width are all off, so nothing may vary; switch one on"


def rigid_problems(prefix, section, vary):
    """A rigid decoder's domains and variables."""
    if not section["domains"]:
        yield f"{prefix}domains", "found none; a rigid decoder needs one or more, each a mask or a selection"
    for number, domain in enumerate(section["domains"]):
        if bool(domain["mask"]) == bool(domain["selection"]):
            found = "both" if domain["mask"] else "neither"
            yield f"{prefix}domains.{number}", f"found {found} of mask and selection; give one of them"
    for key in ("selection", "region"):
        if section.get(key):
            yield f"{prefix}{key}", "the region of a rigid decoder is its domains; leave it out"
    for name in ("amplitude", "width"):
        if vary[name]:
            yield f"{prefix}{name}", f"a rigid decoder only moves; set {name}: false, or add another decoder for it"
    if not vary["position"]:
        yield f"{prefix}position", "found false; a rigid decoder moves its domains"


def round_problems(values):
    """Rounds against the decoders: known names, and a last round in which all of them take part."""
    names = [section["name"] for section in values["decoders"]] or ["main"]
    named = [names if each["decoders"] is None else list(each["decoders"]) for each in values["rounds"]]
    for number, chosen in enumerate(named):
        key = f"rounds.{number}.decoders"
        if not chosen:
            yield key, "found none; name one decoder or more (null: all)"
        for name in chosen:
            if name not in names:
                yield key, f"no decoder is called {name}; expected some of {', '.join(names)}"
    left = [name for name in names if named and name not in named[-1]]
    if left:
        yield (
            f"rounds.{len(named) - 1}.decoders",
            f"the last round leaves out {', '.join(left)}; it must name all decoders (null), as all are used after it",
        )
