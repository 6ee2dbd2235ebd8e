"""An adapter for a label that the checkpoint has never seen: scores, forgetting, size, time and memory.

    python -m training.fit.finetune --recipe embedded --data out/data --modality fundus --exclude "optic cup" \\
      --out runs/without
    python -m tests.benchmarks.bench_adapter --model runs/without/expert --data out/data --modality fundus \\
      --label "optic cup" --known "optic disc" "retinal vessel" --out docs/adapter.json

Runs `python -m training.fit.finetune --lora` with 20 images, and two epochs of full fine-tuning on the same images for
its memory, as its recipe says and with the adapter's steps; each in a process of its own, with two threads. Peak
memory is that of the whole process, with its libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from modeling_medglip.outputs.markdown import percent, table
from training.old_names import with_new_keys


IMAGES = 20
THREADS = "2"


def run(arguments: list[str], out: Path) -> dict[str, Any]:
    """One run of the command: what it wrote, its seconds and its peak memory in bytes.

    Raises:
        `subprocess.CalledProcessError`: it failed.
    """
    watch = "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:], stdout=2).returncode; "
    watch += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    command = [sys.executable, "-m", "training.fit.finetune", *arguments, "--threads", THREADS, "--out", str(out)]
    start = time.perf_counter()
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run([sys.executable, "-c", watch, *command], check=True, stdout=subprocess.PIPE, env=environment)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return {"seconds": time.perf_counter() - start, "peak_bytes": int(done.stdout) * 1024, **results}


def page(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lora, full, label = found["lora"], found["full"], found["label"]
    before, after = lora["before"]["labels"][label], lora["after"]["labels"][label]
    known = [lora[key]["mean"]["AP"] for key in ("known_before", "known_after")]
    known50 = [lora[key]["mean"]["AP50"] for key in ("known_before", "known_after")]
    images, settings = with_new_keys(lora)["images"], lora["settings"]
    rows = [
        [f"AP50 of {label}", percent(before["AP50"]), percent(after["AP50"])],
        [f"AP of {label}", percent(before["AP"]), percent(after["AP"])],
        ["AP of the known labels", *map(percent, known)],
        ["AP50 of the known labels", *map(percent, known50)],
    ]
    ratio, alike = (lora["peak_bytes"] / found[key]["peak_bytes"] for key in ("full", "full_alike"))
    return "\n".join(
        [
            "# An adapter for a label never seen",
            "",
            f"Made by `python -m tests.benchmarks.bench_adapter`: {found['modality']}, an expert trained without",
            f"{label!r}, then an adapter from {images['train']} images and, {settings['replay_share']:g} for each",
            f"of them, older ones drawn from {images['replayed']}; {lora['recipe']['epochs']:g} epochs, rank",
            f"{settings['rank']}.",
            "",
            table(["measured on validation images", "before", "after"], rows),
            *_alone(found.get("lora_alone"), label, full["peak_bytes"]),
            f"- adapter: {found['adapter_bytes'] / 1e6:.2f} MB",
            f"- time: {lora['seconds']:.0f} s with measuring before and after, {THREADS} threads",
            f"- peak memory: {lora['peak_bytes'] / 1e6:.0f} MB, {ratio:.2f} of full fine-tuning's",
            f"  {full['peak_bytes'] / 1e6:.0f} MB.",
            f"  The libraries alone take {found['imports_bytes'] / 1e6:.0f} MB of both; what comes on",
            f"  top of them is {_on_top(found):.2f} of full fine-tuning's. Both as their recipes say: steps of four",
            "  images, the adapter's one by one with activations recomputed. Full fine-tuning with these two",
            f"  takes {found['full_alike']['peak_bytes'] / 1e6:.0f} MB, of which the adapter's is {alike:.2f}.",
            "",
        ]
    )


def _alone(run: dict[str, Any] | None, label: str, full_bytes: int) -> list[str]:
    """What becomes of it without older images."""
    if run is None:
        return []
    after = [
        run["after"]["labels"][label]["AP50"],
        run["known_after"]["mean"]["AP"],
        run["known_after"]["mean"]["AP50"],
    ]
    new, ap, ap50 = map(percent, after)
    return [
        "Without older images, only with what the base finds in the new ones learned along: AP50 of",
        f"{label} {new}, AP of the known labels {ap}, AP50 {ap50}; {run['seconds']:.0f} s, peak memory",
        f"{run['peak_bytes'] / 1e6:.0f} MB, {run['peak_bytes'] / full_bytes:.2f} of full fine-tuning's.",
        "",
    ]


def _on_top(found: dict[str, Any]) -> float:
    lora, full = (found[key]["peak_bytes"] - found["imports_bytes"] for key in ("lora", "full"))
    return float(lora / full)


def imports_bytes() -> int:
    """Memory of a process that has only imported the command."""
    code = "import training.fit.finetune, resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    return int(subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE).stdout) * 1024


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="expert that was trained without the label")
    parser.add_argument("--data", required=True)
    parser.add_argument("--modality", required=True)
    parser.add_argument("--label", required=True)
    parser.add_argument("--known", nargs="+", required=True)
    parser.add_argument("--epochs", default="15")
    parser.add_argument("--out", type=Path, help="JSON file; the same as Markdown is written beside it")
    options = parser.parse_args()
    common = ["--model", options.model, "--data", options.data, "--modality", options.modality]
    common += ["--max_images", str(IMAGES), "--labels", options.label, "--known", *options.known]
    replay = ["--replay", options.data, "--replay_exclude", options.label]
    with tempfile.TemporaryDirectory() as folder:
        lora = run([*common, *replay, "--lora", "--epochs", options.epochs], Path(folder) / "lora")
        # The older images are named to be measured on; of so small a share hardly one is drawn.
        unseen = [*replay, "--replay_share", "0.001"]
        alone = run([*common, *unseen, "--lora", "--epochs", options.epochs], Path(folder) / "alone")
        full = run([*common, *replay, "--epochs", "2"], Path(folder) / "full")
        singly = ["--batch", "1", "--accumulate", "4", "--checkpointing", "true"]
        alike = run([*common, *replay, "--epochs", "2", *singly], Path(folder) / "alike")
        size = (Path(folder) / "lora" / "adapter" / "adapter_model.safetensors").stat().st_size
    found = {"modality": options.modality, "label": options.label, "lora": lora, "full": full, "full_alike": alike}
    found["lora_alone"] = alone
    found |= {"adapter_bytes": size, "imports_bytes": imports_bytes()}
    text = page(found)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
