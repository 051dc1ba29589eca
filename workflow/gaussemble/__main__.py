"""The command line: `python -m gaussemble STAGE ...`, one subcommand for each stage.

The flags of a stage are its function's signature and its Options; nothing is written twice. A stage's module is
imported only when the stage is called. A user's mistake is one line and exit code 2; a bug keeps its traceback.
"""

import argparse
import difflib
import errno
import importlib
import inspect
import json
import os
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from gaussemble import __version__
from gaussemble.errors import InputError

STAGES: dict[str, tuple[str, str]] = {
    "simulate": ("gaussemble.prepare.simulate", "make particles of a molecule with a known motion"),
    "particles": ("gaussemble.prepare.particles", "read and check a STAR file and its stacks; keep one split of them"),
    "consensus": ("gaussemble.prepare.consensus", "reconstruct the neutral map, its mask, and the noise spectrum"),
    "seeds": ("gaussemble.fit.seeds", "place Gaussians at atoms and in the density that they leave unexplained"),
    "neutral": ("gaussemble.fit.neutral", "fit the mixture to the neutral map"),
    "heterogeneity": ("gaussemble.fit.heterogeneity", "learn how each particle deforms the mixture"),
    "latent": ("gaussemble.analysis.latent", "principal components, UMAP, clusters and trajectories of the latents"),
    "selections": ("gaussemble.analysis.volumes", "find your own selections of particles among a split's"),
    "volumes": (
        "gaussemble.analysis.volumes",
        "reconstruct every cluster and trajectory point, with half-maps and FSC",
    ),
    "null": ("gaussemble.analysis.null", "simulate a half's particles from its neutral mixture: nothing varies"),
    "crossing": ("gaussemble.analysis.crossing", "embed the particles of one half by the network of the other"),
    "models": ("gaussemble.analysis.models", "move the atomic model along every trajectory"),
    "agreement": ("gaussemble.analysis.agreement", "match the classes of the even and the odd half; give a verdict"),
    "truth": ("gaussemble.analysis.truth", "score an analysis of simulated particles against their truth"),
    "figure": ("gaussemble.report.figures", "draw one figure, with the table behind it"),
    "report": ("gaussemble.report.report", "write the page that holds all figures and numbers"),
    "summary": ("gaussemble.report.summary", "print where the report is and what was found"),
    "provenance": ("gaussemble.provenance", "write down the config, versions and inputs of a run"),
    "schema": ("gaussemble.config", "write the JSON schema of the config"),
    "reference": ("gaussemble.config", "write the reference of every option"),
}

TRAINED_BY_MANY = "heterogeneity"  # the stage that several processes can share

# What no code of ours can be to blame for: permissions, full or failing disks.
OUTSIDE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE}


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and no usage text."""
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run one stage; returns the exit code: 0, or 2 for a user's mistake."""
    stage, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if stage in ("-h", "--help", "--version"):
        print(overview() if stage != "--version" else f"gaussemble {__version__}")
        return 0
    try:
        processes = set_threads(stage, rest)
        function = stage_function(stage)
        called = arguments_of(function, stage_parser(stage, function).parse_args(rest))
        if processes > 1 and "LOCAL_RANK" not in os.environ:
            return importlib.import_module("gaussemble.fit.launch").launch(processes, [stage, *rest])
        files = importlib.import_module("gaussemble.io.files")  # not before set_threads: it loads numerical libraries
        with files.together():
            function(**called)
    except (InputError, ValidationError) as error:
        print(f"gaussemble {stage}: {one_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in OUTSIDE:
            raise
        print(f"gaussemble {stage}: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def program() -> NoReturn:
    """`main` in a process of its own: Ctrl-C and a queue's SIGTERM leave no half file and no traceback."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def overview() -> str:
    """The stages, one line each."""
    lines = [f"  {stage:<14} {line}" for stage, (_, line) in STAGES.items()]
    return "\n".join(
        ["usage: gaussemble STAGE ...  (gaussemble STAGE --help shows its files and options)", "", "stages:", *lines]
    )


def stage_function(stage: str) -> Callable[..., Any]:
    """The function of a stage; imports its module. Raises InputError for a name that is none."""
    if stage not in STAGES:
        nearest = difflib.get_close_matches(stage, STAGES, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else f"; the stages are {', '.join(STAGES)}"
        raise InputError(f"no such stage{hint}")
    return getattr(importlib.import_module(STAGES[stage][0]), stage)


def set_threads(stage: str, arguments: list[str]) -> int:
    """Take `--threads N`, and `--processes N` of a training, out of the arguments; returns the processes.

    The numerical libraries read OMP_NUM_THREADS when they are imported, and numba NUMBA_NUM_THREADS.
    """
    parser = Parser(prog=f"gaussemble {stage}", add_help=False, allow_abbrev=False)
    parser.add_argument("--threads", type=int)
    parser.set_defaults(processes=1)
    if stage == TRAINED_BY_MANY:
        parser.add_argument("--processes", type=int)
    known, arguments[:] = parser.parse_known_args(arguments)
    if known.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(known.threads)
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
    return known.processes


def stage_parser(stage: str, function: Callable[..., Any]) -> Parser:
    """The flags of a stage's files and options."""
    parser = Parser(prog=f"gaussemble {stage}", description=inspect.getdoc(function), allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for parameter in inspect.signature(function).parameters.values():
        if is_options(parameter.annotation):
            group = parser.add_argument_group("options")
            for name, field in parameter.annotation.model_fields.items():
                add_option(group, name, field)
        else:
            add_file(parser, parameter)
    parser.add_argument("--threads", metavar="N", help="threads of the numerical libraries (default: OMP_NUM_THREADS)")
    if stage == TRAINED_BY_MANY:
        parser.add_argument("--processes", metavar="N", help="that train together, one for each GPU (default: 1)")
    return parser


def add_file(parser: argparse.ArgumentParser, parameter: inspect.Parameter) -> None:
    """A flag for a parameter that is a path, a list of paths, or a word; positional where it is not keyword-only."""
    kind, _ = without_none(parameter.annotation)
    settings: dict[str, Any] = {"type": str}
    if get_origin(kind) is Literal:
        settings["choices"] = get_args(kind)
    elif kind is not str:
        settings.update(type=Path, metavar="PATH", nargs="+" if get_origin(kind) is list else None)
    if parameter.kind is not parameter.KEYWORD_ONLY:
        parser.add_argument(parameter.name, **settings)
        return
    required = parameter.default is parameter.empty
    parser.add_argument(flag(parameter.name), **settings, required=required, default=argparse.SUPPRESS)


def add_option(group: argparse._ArgumentGroup, name: str, field: FieldInfo) -> None:
    """A flag for a field of the Options; its value stays text, for pydantic to read."""
    kind, optional = without_none(field.annotation)
    default = "none" if field.default is None else "[]" if field.default == () else field.default
    text = f"{field.description or ''} (default: {default})".replace("%", "%%")
    if kind is bool:
        group.add_argument(flag(name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        return
    if get_origin(kind) is Literal:
        words = [str(choice) for choice in get_args(kind)]
    else:
        words = ["JSON" if get_origin(kind) is tuple else kind.__name__.upper()]
    metavar = "|".join([*words, "none"] if optional else words)
    group.add_argument(flag(name), metavar=metavar, default=argparse.SUPPRESS, help=text)


def arguments_of(function: Callable[..., Any], parsed: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of a stage's function; raises ValidationError for an option's wrong value."""
    given = vars(parsed)
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if is_options(parameter.annotation):
            fields = parameter.annotation.model_fields
            values = {key: read_value(key, given[key], fields[key].annotation) for key in fields if key in given}
            arguments[name] = parameter.annotation.model_validate(values)
        elif name in given:
            arguments[name] = given[name]
    return arguments


def read_value(name: str, text: str | bool, annotation: Any) -> Any:
    """`none` where None is allowed; a list from JSON; a choice that is no text; else the text itself."""
    kind, optional = without_none(annotation)
    if optional and text == "none":
        return None
    if get_origin(kind) is tuple:
        try:
            return json.loads(str(text))
        except ValueError as error:
            raise InputError(f"{flag(name)}: expected a list as JSON, found {text!r} ({error})") from error
    choices = {str(choice): choice for choice in get_args(kind)} if get_origin(kind) is Literal else {}
    return choices.get(str(text), text)


def is_options(annotation: Any) -> bool:
    """Whether a parameter holds a stage's Options."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def without_none(annotation: Any) -> tuple[Any, bool]:
    """The type X of `X | None`, and whether None was allowed."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation, False
    kinds = [kind for kind in get_args(annotation) if kind is not types.NoneType]
    return kinds[0], len(kinds) < len(get_args(annotation))


def flag(name: str) -> str:
    """`--resolution-limit` for `resolution_limit`."""
    return "--" + name.replace("_", "-")


def one_line(error: InputError | ValidationError) -> str:
    """What was wrong, in one line."""
    if isinstance(error, InputError):
        return " ".join(str(error).split())
    return "; ".join(
        f"{flag('.'.join(map(str, detail['loc'])))}: {detail['msg']}, found {detail['input']!r}"
        for detail in error.errors()
    )


if __name__ == "__main__":
    program()
