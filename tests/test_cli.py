"""The command line: flags from signatures and options, one line and exit code 2 for a user's mistake."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from gaussemble import __main__ as command
from gaussemble.errors import InputError
from gaussemble.io.files import written
from gaussemble.options import StageOptions


class Part(StageOptions):
    """A section in a list."""

    title: str = Field(description="What it is called.")
    weight: float | None = Field(default=None, gt=0, description="How heavy.")
    file: Path | None = Field(default=None, description="Where it is.")


class Options(StageOptions):
    """A field of every kind that a stage may have."""

    count: int = Field(default=3, gt=0, description="How many.")
    rate: float | None = Field(default=None, description="How fast, in 100 % of something.")
    kind: Literal["round", "square"] = Field(default="round", description="Which shape.")
    name: str = Field(default="none of them", description="A text.")
    bright_side: bool = Field(default=True, description="Whether it shines.")
    parts: tuple[Part, ...] = Field(default=(), description="What it is made of.")


CALLS: list[dict] = []


def example(
    *,
    star: Path,
    out: Path,
    split: Literal["even", "odd"],
    mask: Path | None = None,
    more: list[Path] = (),
    options: Options,
) -> None:
    """Remember how it was called."""
    if star.name == "bad.star":
        raise InputError(f"{star}: row 3:\n  what is this?")
    if star.name == "bug.star":
        raise RuntimeError("a bug")
    if star.name == "late.star":
        with written(out / "first.txt") as temporary:
            temporary.write_text("done")
        raise InputError("the second file cannot be made")
    if star.name == "secret.star":
        raise PermissionError(errno.EACCES, "Permission denied", str(star))
    if star.name == "slow.star":
        with written(out / "first.txt"):
            print("writing", flush=True)
            time.sleep(60)
    CALLS.append({"star": star, "out": out, "split": split, "mask": mask, "more": more, "options": options})


@pytest.fixture
def run(monkeypatch):
    """Run the example stage with some arguments; returns the exit code and how the stage was called."""
    monkeypatch.setitem(command.STAGES, "example", (__name__, "an example"))
    monkeypatch.setattr(command, "stage_function", lambda stage: example)
    CALLS.clear()

    def call(*arguments: str) -> tuple[int, dict | None]:
        try:
            code = command.main(["example", *arguments])
        except SystemExit as end:
            code = end.code
        return code, CALLS[-1] if CALLS else None

    return call


FILES = ("--star", "a.star", "--out", "b", "--split", "odd")


def test_defaults_hold_where_no_flag_is_given(run):
    code, called = run(*FILES)
    assert code == 0
    assert called == {
        "star": Path("a.star"), "out": Path("b"), "split": "odd", "mask": None, "more": (), "options": Options(),
    }  # fmt: skip


def test_flags_reach_the_function_with_their_types(run):
    options = ("--count=7", "--rate=1e-3", "--kind=square", "--name=chain A/1-20", "--no-bright-side")
    code, called = run(*FILES, "--mask", "m.mrc", "--more", "x", "y", *options)
    assert code == 0
    assert called["mask"] == Path("m.mrc")
    assert called["more"] == [Path("x"), Path("y")]
    assert called["options"] == Options(count=7, rate=1e-3, kind="square", name="chain A/1-20", bright_side=False)


def test_a_list_of_sections_is_json(run):
    text = '[{"title": "it\'s {one}", "weight": null, "file": "a b.mrc"}, {"title": "two", "weight": 2}]'
    parts = (Part(title="it's {one}", file=Path("a b.mrc")), Part(title="two", weight=2.0))
    assert run(*FILES, f"--parts={text}")[1]["options"] == Options(parts=parts)
    assert run(*FILES, "--parts=[]")[1]["options"] == Options()


def test_none_is_none_only_where_it_may_be(run):
    assert run(*FILES, "--rate=none", "--name=none")[1]["options"] == Options(rate=None, name="none")
    assert run(*FILES, "--count=none")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--out", "b", "--split", "odd"), ["--star"]),
        ((*FILES, "--parts=one"), ["--parts", "JSON", "'one'"]),
        ((*FILES, '--parts={"title": "one"}'), ["--parts", "found"]),
        ((*FILES, '--parts=[{"title": "one"}, {"title": "two", "weight": -1}]'), ["--parts.1.weight", "greater", "-1"]),
        ((*FILES, '--parts=[{"weight": 1}]'), ["--parts.0.title", "required"]),
        ((*FILES, '--parts=[{"title": "one", "wieght": 1}]'), ["--parts.0.wieght", "not permitted"]),
        ((*FILES, "--cuont=3"), ["--cuont=3"]),
        ((*FILES, "--count=many"), ["--count", "'many'"]),
        ((*FILES, "--count=0"), ["--count", "greater than 0"]),
        ((*FILES, "--kind=oval"), ["--kind", "round", "square", "'oval'"]),
        (("--star", "a", "--out", "b", "--split", "left"), ["--split", "left", "even", "odd"]),
        (("--star", "bad.star", "--out", "b", "--split", "odd"), ["bad.star: row 3: what is this?"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, capsys, arguments, words):
    assert run(*arguments) == (2, None)
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("gaussemble example: ")
    assert output.err.count("\n") == 1
    assert all(word in output.err for word in words), output.err


def test_a_mistake_found_late_leaves_no_file(run, tmp_path):
    assert run("--star", "late.star", "--out", str(tmp_path), "--split", "odd") == (2, None)
    assert not list(tmp_path.iterdir())


def test_a_file_that_may_not_be_read_is_one_line(run, capsys):
    assert run("--star", "secret.star", *FILES[2:]) == (2, None)
    assert capsys.readouterr().err == "gaussemble example: secret.star: Permission denied\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_job_that_is_stopped_leaves_no_file_and_no_traceback(tmp_path, number, code):
    text = (
        "import signal, sys, gaussemble.__main__ as command, test_cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "command.stage_function = lambda stage: test_cli.example\n"
        f"sys.argv[1:] = ['example', '--star', 'slow.star', '--split', 'odd', '--out', {str(tmp_path)!r}]\n"
        "command.program()\n"
    )
    folders = os.pathsep.join([str(package_folder()), str(Path(__file__).parent)])
    job = subprocess.Popen(
        [sys.executable, "-c", text],
        env={**os.environ, "PYTHONPATH": folders},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert job.stdout
    assert job.stdout.readline() == "writing\n"
    assert list(tmp_path.iterdir())
    job.send_signal(number)
    _, said = job.communicate(timeout=30)
    assert (job.returncode, said) == (code, "")
    assert not list(tmp_path.iterdir())


def test_a_bug_keeps_its_traceback(run):
    with pytest.raises(RuntimeError, match="a bug"):
        run("--star", "bug.star", *FILES[2:])


def test_help_has_every_flag_with_meaning_and_default(run, capsys):
    assert run("--help")[0] == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Remember how it was called." in text
    assert "--count INT How many. (default: 3)" in text
    assert "--rate FLOAT|none How fast, in 100 % of something. (default: none)" in text
    assert "--bright-side, --no-bright-side" in text
    assert "--more PATH" in text
    assert "--parts JSON What it is made of. (default: [])" in text


def test_a_misspelt_stage_is_told_the_nearest(capsys):
    assert command.main(["neutrl"]) == 2
    assert capsys.readouterr().err == "gaussemble neutrl: no such stage; did you mean neutral?\n"


@pytest.mark.parametrize("stage", command.STAGES)
def test_every_stage_shows_its_help(stage, capsys):
    with pytest.raises(SystemExit) as end:
        command.main([stage, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: gaussemble {stage}")


def test_overview_needs_no_torch_and_names_every_stage():
    code = "import sys; from gaussemble.__main__ import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=package_folder())
    assert done.returncode == 0, done.stderr
    assert all(f"  {stage} " in done.stdout for stage in command.STAGES)


def test_threads_reach_the_libraries():
    code = (
        "import sys, gaussemble.__main__ as command\n"
        "def stage_function(stage):\n"
        "    import torch\n"
        "    sys.exit(torch.get_num_threads() - 1)\n"
        "command.stage_function = stage_function\n"
        "command.main(['example', '--threads', '1'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=package_folder())
    assert done.returncode == 0, done.stderr


def package_folder() -> Path:
    """The folder from which a fresh interpreter finds the package."""
    return Path(command.__file__).parents[1]
