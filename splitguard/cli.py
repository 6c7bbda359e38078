# SPDX-License-Identifier: Apache-2.0
"""The command line. Commands import what they need when they run, so that ``--help`` is instant.

Exit status: 0 done; 1 a cell failed or a check did not pass; 2 bad use; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from splitguard.errors import SplitguardError

__all__ = ["app", "main"]

app = typer.Typer(
    name="splitguard",
    help="What can the other side of a split network reconstruct, and what does protection cost?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Kind(StrEnum):
    """What can be listed."""

    ATTACKS = "attacks"
    DEFENSES = "defenses"
    MODELS = "models"
    DATASETS = "datasets"
    MODES = "modes"


class Plugin(StrEnum):
    """What can be started from a template."""

    ATTACK = "attack"
    DEFENSE = "defense"


Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting; may be given several times.")
]


@app.command()
def init(file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("matrix.yaml")) -> None:
    """Write a commented matrix file to start from."""
    from splitguard.terminal import running

    running.init(file)


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="The matrix file.")],
    out: Annotated[Path, typer.Option(help="The run folder; an existing one is gone on from.")],
    jobs: Annotated[int, typer.Option(min=1, help="Worker processes; the numbers do not depend on it.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Run at most so many cells.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and stop.")] = False,
    json: Json = False,
) -> None:
    """Run a matrix; resumes by itself. Writes OUT/report.html, results.csv, summary.csv."""
    from splitguard.terminal import running

    raise typer.Exit(running.run(file, out, jobs=jobs, limit=limit, dry_run=dry_run, as_json=json))


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write report.html, results.csv and summary.csv from a run folder."""
    from splitguard.terminal import running

    running.report(folder)


@app.command("list")
def list_(kind: Annotated[Kind, typer.Argument(help="What to list.")], json: Json = False) -> None:
    """List attacks, defenses, models, datasets or modes."""
    from splitguard.terminal import listing

    listing.table(kind.value, as_json=json)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="An attack, defense, model or data set.")], json: Json = False
) -> None:
    """Show one attack, defense, model or data set with its settings."""
    from splitguard.terminal import listing

    listing.show(name, as_json=json)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="An attack or a defense; one from elsewhere as module:Class.")],
    json: Json = False,
) -> None:
    """Run the contract that every attack or defense must pass."""
    from splitguard.terminal import listing

    raise typer.Exit(listing.check(name, as_json=json))


@app.command()
def new(
    kind: Annotated[Plugin, typer.Argument(help="attack or defense")],
    name: Annotated[str, typer.Argument(help="Its name, as in my-attack.")],
    folder: Annotated[Path | None, typer.Option(help="Where to write it; default attacks/ or defenses/.")] = None,
) -> None:
    """Write the one file of a new attack or defense."""
    from splitguard.terminal import listing

    listing.new(kind.value, name, folder)


@app.command()
def cuts(
    model: Annotated[str, typer.Argument(help="A model, as in a matrix file.")],
    input: Annotated[str, typer.Option(help="Shape of one input, as in 3x32x32.")] = "3x32x32",
    classes: Annotated[int, typer.Option(min=1)] = 10,
    json: Json = False,
) -> None:
    """List every legal cut: shape, client parameters and FLOPs, bytes per sample."""
    from splitguard.terminal import numbers

    numbers.cuts(model, input, classes=classes, as_json=json)


@app.command()
def calibrate(
    epsilon: Annotated[float, typer.Option(help="The target.")] = 8.0,
    delta: Annotated[float, typer.Option()] = 1e-5,
    releases: Annotated[list[int] | None, typer.Option(help="T; may be given several times.")] = None,
    clip: Annotated[float, typer.Option(help="L2 norm that one row's smashed data is clipped to.")] = 1.0,
    json: Json = False,
) -> None:
    """Print sigma for each adjacency and T, exact and by Opacus' PRV accountant."""
    from splitguard.terminal import numbers

    numbers.calibrate(epsilon, delta, releases or [1, 10, 100], clip, as_json=json)


@app.command()
def estimate(
    defense: Annotated[str | None, typer.Argument(help="A defense by name.")] = None,
    module: Annotated[str | None, typer.Option(help="One from elsewhere: package.file:Class.")] = None,
    set_: Settings = None,
    channel: Annotated[str | None, typer.Option(help="inputs, labels or head-weights; else what it claims.")] = None,
    shape: Annotated[str, typer.Option(help="Of one row's smashed data, or gradient, as in 16x7x7.")] = "4x2x2",
    classes: Annotated[int, typer.Option(min=1, help="Of the task, for labels.")] = 10,
    batch: Annotated[int, typer.Option(min=1, help="Rows in a batch, as deployed.")] = 32,
    releases: Annotated[int, typer.Option(min=1, help="T of a row.")] = 4,
    trials: Annotated[int, typer.Option(min=1, help="Of each side of each world; more can show more.")] = 1000,
    seed: Annotated[int, typer.Option()] = 0,
    json: Json = False,
) -> None:
    """Attack a defense's own mechanism and hold what that shows against its epsilon; exit 1 if the claim is false."""
    from splitguard.terminal import estimating

    stands = estimating.estimate(
        defense, module, set_ or [], channel=channel, shape_text=shape, classes=classes, batch=batch,
        releases=releases, trials=trials, seed=seed, as_json=json,
    )  # fmt: skip
    raise typer.Exit(0 if stands else 1)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Where to save the session; `attack` reads it.")],
    model: Annotated[str, typer.Option()] = "lenet",
    data: Annotated[str, typer.Option(help="A data set by name, or YAML as in a matrix file.")] = "faces",
    mode: Annotated[str, typer.Option()] = "vanilla",
    cut: Annotated[str | None, typer.Option(help="A layer, or two as in conv2..fc1.")] = None,
    labels: Annotated[str | None, typer.Option(help="sent, server or client.")] = None,
    defense: Annotated[str, typer.Option(help="A name, or YAML as in a matrix file.")] = "none",
    seed: Annotated[int, typer.Option()] = 0,
    set_: Settings = None,
    json: Json = False,
) -> None:
    """Train one deployment without a matrix file; --set gives training settings, as in --set epochs=5."""
    from splitguard.terminal import single

    single.train(
        out, model=model, data=data, mode=mode, cut=cut, labels=labels, defense=defense, seed=seed,
        settings=set_ or [], as_json=json,
    )  # fmt: skip


@app.command()
def attack(
    name: Annotated[str, typer.Argument(help="An attack by name; one that watches a training needs a matrix file.")],
    session: Annotated[Path, typer.Option(help="A folder written by `train`.")],
    phase: Annotated[str, typer.Option(help="training or query: which victims.")] = "training",
    profile: Annotated[str, typer.Option(help="The strongest adversary considered.")] = "head-known",
    static: Annotated[bool, typer.Option("--static", help="The attack ignores what it knows of the defense.")] = False,
    seed: Annotated[int, typer.Option()] = 0,
    set_: Settings = None,
    json: Json = False,
) -> None:
    """Attack a session that `train` saved, and score the guess."""
    from splitguard.terminal import single

    single.attack(
        name, session, phase=phase, profile=profile, adaptive=not static, seed=seed, settings=set_ or [], as_json=json
    )


@app.command()
def fetch(name: Annotated[str, typer.Argument(help="A data set, or lpips for its weights.")]) -> None:
    """Download a data set or weights once, into the cache."""
    from splitguard.terminal import machine

    machine.fetch(name)


@app.command()
def doctor(json: Json = False) -> None:
    """Say what is installed, which data sets and weights are at hand, and what is missing."""
    from splitguard.terminal import machine

    raise typer.Exit(machine.doctor(as_json=json))


def main() -> None:
    """Runs the command line; bad input ends with one message and exit status 2, never with a traceback."""
    try:
        app()
    except SplitguardError as error:
        typer.echo(f"splitguard: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        typer.echo(f"splitguard: {_of_the_system(error)}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("splitguard: stopped. What was finished is kept; run the same command to go on.", err=True)
        sys.exit(130)


def _of_the_system(error: OSError) -> str:
    """What the operating system refused, with the path, and what to do."""
    path = error.filename2 or error.filename
    if path is None:
        return f"the system refused: {error}"
    if isinstance(error, FileNotFoundError):
        return f"no such file: {path}"
    wanted = {
        FileExistsError: "a folder is to be made there, and a file is in its place; give another path",
        NotADirectoryError: "a part of this path is a file where a folder is wanted; give another path",
        IsADirectoryError: "a file is to be there, and a folder is in its place; move that one away",
        PermissionError: "this user may not read or write there; give another path, or change who may",
    }
    return f"{path}: {error.strerror}: {wanted.get(type(error), 'give another path, or mend this one')}"
