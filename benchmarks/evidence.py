# SPDX-License-Identifier: Apache-2.0
"""What was measured, in words, from the stored results: docs/evidence.md.

Run: ``python -m benchmarks.evidence``, after a benchmark has stored its JSON by ``--out benchmarks/results/NAME.json``.
A test holds the page against what this writes.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.reference_he import CUTS
from benchmarks.versions import changed

__all__ = ["page"]

STORED = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs" / "evidence.md"
Result = dict[str, Any]

INTRODUCTION = """# What was measured

Each line is written from a stored result in `benchmarks/results` by `python -m benchmarks.evidence`, and the command
beside it measures it again. Times are of one core without a GPU, of a machine that was not always idle: a time alone is
rough, and so is the ratio of two where they are said to be of two processes.

| what | found | command |
|---|---|---|
"""


def engine(found: Result) -> str:
    """Split against unsplit steps."""
    cases = (
        f"{name}: {case['ratio']:.3f} [{case['ratio_low']:.3f}, {case['ratio_high']:.3f}]"
        for name, case in found["cases"].items()
    )
    return f"a split training step takes, of an unsplit one: {'; '.join(cases)}"


def inversion(found: Result) -> str:
    """White-box inversion beside the published schedule."""
    ours, best = found["ours"], max(found["reference"], key=lambda r: float(r["psnr"]))
    paper, trained = found["paper"], found["training"]
    return (
        f"{ours['psnr']:.1f} dB / SSIM {ours['ssim']:.3f} in {ours['seconds_an_image']:.1f} s an image, where the "
        f"reference schedule reaches {best['psnr']:.1f} dB / {best['ssim']:.3f} in {best['seconds_an_image']:.0f} s, "
        f"far short of the paper's {paper['psnr']} dB / {paper['ssim']} on its own network: this one is trained for "
        f"{trained['epochs']:.1f} epochs only, to an accuracy of {trained['accuracy']:.3f}, so that the schedule is "
        f"beaten here, where it stalls, and not at the paper's strength{_paired(found, 'ssim')}"
    )


def matrix(found: Result) -> str:
    """What the runner costs."""
    rest, minutes = 100 * found["share_of_the_rest"], found["seconds"] / 60
    return (
        f"{found['trainings']} trainings serve {found['attacks']} attacks on {found['deployments']} deployments; of "
        f"one worker's {minutes:.0f} min {rest:.1f} % are neither training nor attack; `splitguard --help` takes "
        f"{found['seconds_help']:.2f} s"
    )


def averaging(found: Result) -> str:
    """Noise that nobody accounts for."""
    frozen = "; ".join(
        f"T = {case['T']}: SSIM {case['ssim_T_releases']:.3f} against {case['ssim_one_release']:.3f}"
        for case in found["frozen"]
    )
    trained = found["trained"]
    return (
        f"under a frozen head, T releases at sigma tell what one at sigma / sqrt(T) does ({frozen}); under a trained "
        f"head the joint attack reaches {trained['joint']:.3f}, the best single release {trained['best_single']:.3f}, "
        f"the mean of all releases {trained['latent_mean']:.3f}"
    )


def nopeek(found: Result) -> str:
    """What NoPeek's weight buys."""
    rows = "; ".join(
        f"{row['weight']:g}: {row['dcor']['mean']:.2f}, {row['accuracy']['mean']:.3f}, {row['ssim']['mean']:.2f}"
        for row in found["rows"]
    )
    return f"weight: distance correlation, accuracy, SSIM of white-box inversion: {rows}"


def gradient_norm(found: Result) -> str:
    """Label leakage by length."""
    told = (
        f"with {number} a class known {', '.join(f'{row[column]:.3f}' for row in found['epochs'])}"
        for number, column in (("five rows", "auc_known_5"), ("one row", "auc_known_1"))
    )
    return f"{found['what']}: mean AUC by epoch {'; '.join(told)}"


def reference_unsplit(found: Result) -> str:
    """UnSplit beside its code."""
    ours, theirs = found["ours"], found["reference"]
    return (
        f"SSIM {ours['same_images']['ssim']:.3f} in {ours['seconds_an_image']:.1f} s an image, where the reference "
        f"schedule reaches {theirs['ssim']:.3f} in {theirs['seconds_an_image_for_1000_rounds']:.0f} s, and the mean "
        f"image {found['mean_image']['ssim']:.3f}{_paired(found, 'ssim', found['seeds'])}"
    )


def reference_pcat(found: Result) -> str:
    """PCAT's stolen head beside the clone of UnSplit's schedule."""
    gain = found["paired"]["stolen_accuracy"]
    unsplit, network = mean(found["unsplit"]), mean(found["network"])
    return (
        f"accuracy of the server's layers behind PCAT's head {gain['ours']:.3f}, behind the clone UnSplit's schedule "
        f"makes of {found['images']} images {gain['reference']:.3f}, behind the client's own {network:.3f}: "
        f"{gain['gain']:+.3f}, at least {gain['gain_at_least']:+.3f} (one-sided 95 %, paired, {gain['n']} networks); "
        f"behind our own unsplit-functionality's clone {unsplit:.3f}"
    )


def _paired(found: Result, metric: str, seeds: Sequence[int] = ()) -> str:
    """The limit of the difference, where images were compared one by one, or the means of several ``seeds``."""
    gain = found.get("paired", {}).get(metric)
    if gain is None:
        return ""
    what = f"on the same {gain['n']} images" if len(seeds) < 2 else f"on the same images of {gain['n']} networks"
    return (
        f"; {what} {gain['gain']:+.3f} of {metric.upper()}, at least "
        f"{gain['gain_at_least']:+.3f} (one-sided 95 %, paired)"
    )


def reference_fsha(found: Result) -> str:
    """FSHA beside its code."""
    ours, theirs = found["ours"], found["reference"]
    return (
        f"mean squared error {ours['mse']:.3f} after {ours['steps']} steps and {ours['seconds'] / 60:.0f} min, where "
        f"the reference reaches {theirs['mse']:.3f} in {theirs['steps']} steps and {theirs['seconds'] / 60:.0f} min; "
        f"the mean image {found['mse_of_the_mean_image']:.3f}. That is with the settings for clients that move slowly, "
        f"chosen among three on other rows: the defaults reach {found['defaults']['mse']:.3f} in "
        f"{found['defaults']['steps']} steps. The two ran in different processes, and the paper trains 10,000 steps"
    )


def reference_he(found: Result) -> str:
    """He et al.'s three attacks beside their code."""
    told = (
        f"{name} {case['ssim']['ours']:.3f} against {case['ssim']['reference']:.3f} "
        f"(at least {case['ssim']['gain_at_least']:+.3f})"
        for name, case in found["cases"].items()
    )
    cuts = CUTS[found["what"].removeprefix("he2019-")]
    missing = [cut for cut in cuts if not any(name.endswith(f" at {cut}") for name in found["cases"])]
    rest = f"; not run yet at {' and '.join(missing)}" if missing else ""
    return (
        f"SSIM of ours and of theirs on the same images, and the paired one-sided 95 % limit: {'; '.join(told)}{rest}"
    )


def estimate(found: Result) -> str:
    """The game against false and true claims."""
    what, told = found["what"], []
    for group, games in found["games"].items():
        wrong = [game["mechanism"] for game in games if game["flagged"] != game["false"]]
        bugs = [game for game in games if game["false"]]
        seen, right = sum(game["flagged"] for game in bugs), len(games) - len(bugs)
        kept = sum(not game["flagged"] for game in games if not game["false"])
        missed = f" (not so: {', '.join(wrong)})" if wrong else ""
        told.append(
            f"{group}: {seen} of {len(bugs)} planted bugs are flagged and {kept} of {right} correct mechanisms are "
            f"not{missed}, {len(games)} games in {found['seconds'][group]:.0f} s"
        )
    return (
        f"at epsilon {what['epsilon']:g}, T {what['T']}, batch {what['batch']}, {what['trials']} trials a side: "
        f"{'; '.join(told)}"
    )


def coded_head(found: Result) -> str:
    """Heads that are trained to be coded."""
    told = []
    for row in found["rows"]:
        gain = f" ({row['gain']:+.3f}, at most {row['gain_at_most']:+.3f})" if "gain" in row else ""
        told.append(f"{row['head']} {row['accuracy']:.3f}{gain} with {row['aux']:,} auxiliary rows")
    return (
        f"accuracy of a codebook at epsilon {found['epsilon']:g} behind a head pre-trained plainly, through its words, "
        f"and through its noisy answers: {'; '.join(told)}; limits are one-sided, 95 %, paired over "
        f"{len(found['seeds'])} seeds"
    )


CLAIMS: dict[str, tuple[str, Callable[[Result], str]]] = {
    "engine": ("The engine's cost", engine),
    "matrix": ("The matrix's cost", matrix),
    "inversion": ("White-box inversion, He et al.'s network at ReLU22, CIFAR-10", inversion),
    "reference_unsplit": ("UnSplit against its own schedule", reference_unsplit),
    "reference_unsplit_conv2": ("The same, two convolutions deep", reference_unsplit),
    "reference_pcat": ("PCAT against UnSplit's own schedule, split layer 1, MNIST", reference_pcat),
    "reference_pcat_conv2": ("The same, split layer 2", reference_pcat),
    "reference_he_mnist": ("He et al.'s attacks against their own code, MNIST", reference_he),
    "reference_he_cifar": ("The same, CIFAR-10", reference_he),
    "reference_fsha": ("FSHA against its own code, MNIST", reference_fsha),
    "gradient_norm": ("Labels by the length of gradients", gradient_norm),
    "averaging": ("Noise is averaged away", averaging),
    "nopeek": ("NoPeek's trade", nopeek),
    "estimate": ("False claims of an epsilon", estimate),
    "coded_head": ("A head trained to be coded", coded_head),
}


#: Said of a number that is not today's.
STALE = " (of an earlier version of the attack or of the defense: to be run again)"
#: The commands that are not the name of the stored result.
COMMANDS = {
    "inversion": "inversion --tv 10 1",
    "reference_unsplit_conv2": "reference_unsplit --cut conv2 --seeds 4 5 6 7 8 9 10 11 --images 2",
    "reference_pcat_conv2": "reference_pcat --cut conv2",
    "reference_he_mnist": "reference_he mnist",
    "reference_he_cifar": "reference_he cifar --images 10",
}


def page() -> str:
    """The Markdown page."""
    lines = []
    for name, (title, told) in CLAIMS.items():
        path = STORED / f"{name}.json"
        result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        found = "not run yet" if result is None else told(result) + (STALE if outdated(name, result) else "")
        lines.append(f"| {title} | {found} | `python -m benchmarks.{COMMANDS.get(name, name)}` |\n")
    return INTRODUCTION + "".join(lines)


def outdated(name: str, result: Result) -> bool:
    """Whether an attack or a defense that was measured has another version by now; one without a record had its first.

    A benchmark names in ``USED`` those that its numbers depend on.
    """
    module = importlib.import_module(f"benchmarks.{COMMANDS.get(name, name).split()[0]}")
    first: dict[str, int] = dict.fromkeys(getattr(module, "USED", ()), 1)
    return bool(changed(first | result.get("versions", {})))


def main() -> None:
    """Writes the page."""
    DOCS.write_text(page(), encoding="utf-8")
    print(page())


if __name__ == "__main__":
    main()
