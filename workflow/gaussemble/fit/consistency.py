"""What a config of the heterogeneity may not say, beyond the types of its keys.

Imports nothing: the stage asks before it trains, and so does the workflow before anything runs, which reads this file
by itself. Values are the section's keys after the defaults. A problem is the dotted key and what is wrong with it.
"""

WITH_DOMAINS = ("rigid", "pose")
POSE = 12  # numbers of the latent vector that is a rigid domain's pose


def problems(values):
    """All problems, in the order of the keys."""
    yield from band_problems(values)
    yield from pose_problems(values)
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


def latent_length(values):
    """Numbers of a latent vector."""
    return POSE if finds_poses(values) else values["latent_dim"]


def finds_poses(values):
    """Whether poses are found in the place of a training."""
    return values["decoder"] == "pose" and not values["decoders"]


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
    rigid = section["kind"] in WITH_DOMAINS
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
    if kind in WITH_DOMAINS:
        yield from rigid_problems(prefix, section, kind, vary)
        return
    if section["domains"]:
        yield f"{prefix}domains", f"only a rigid or pose decoder has domains, this one is {kind}; leave them out"
    if not any(vary[name] for name in ("position", "amplitude", "width")):
        yield f"{prefix}position", "position, amplitude and width are all off, so nothing may vary; switch one on"


def rigid_problems(prefix, section, kind, vary):
    """A rigid or pose decoder's domains and variables."""
    if not section["domains"]:
        yield f"{prefix}domains", f"found none; a {kind} decoder needs one or more, each a mask or a selection"
    for number, domain in enumerate(section["domains"]):
        if bool(domain["mask"]) == bool(domain["selection"]):
            found = "both" if domain["mask"] else "neither"
            yield f"{prefix}domains.{number}", f"found {found} of mask and selection; give one of them"
    for key in ("selection", "region"):
        if section.get(key):
            yield f"{prefix}{key}", f"the region of a {kind} decoder is its domains; leave it out"
    for name in ("amplitude", "width"):
        if vary[name]:
            beside = "" if kind == "pose" else ", or add another decoder for it"
            yield f"{prefix}{name}", f"a {kind} decoder only moves; set {name}: false{beside}"
    if not vary["position"]:
        yield f"{prefix}position", f"found false; a {kind} decoder moves its domains"


def pose_problems(values):
    """What a decoder whose latent vectors are poses, found without training, does not go with."""
    for number, section in enumerate(values["decoders"]):
        if section["kind"] == "pose":
            key = f"decoders.{number}.kind"
            yield key, "a pose decoder is the only one; set decoder: pose, or kind: rigid here"
    if not finds_poses(values):
        if values["find_shape"]:
            yield "find_shape", "shapes are found with poses; set decoder: pose and one domain, or find_shape: false"
        return
    if len(values["domains"]) > 1:
        yield "domains", f"found {len(values['domains'])}; a pose decoder has one, several want decoder: rigid"
    if values["loss"] != "likelihood":
        yield "loss", f"found {values['loss']}; poses are found by their likelihood, so leave loss out"
    if values["rounds"]:
        yield "rounds", "a pose decoder is found without training; leave rounds out, or set decoder: rigid"
    if values["restraint"]:
        yield "restraint", "a pose decoder keeps all distances of its domain; leave restraint out"


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
