# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""An adapter trained on a base from a Hub, pushed there, and used by somebody else; over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hub_cards.gates.front_matter import check_header, split_card
from tests.hub_server import Hub, client_environment, serve
from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint

from ..tiny_data import make_data


ROOT = Path(__file__).resolve().parents[3]
UPLOAD = """
import sys
from huggingface_hub import HfApi
HfApi().create_repo("clinic/base")
HfApi().upload_folder(repo_id="clinic/base", folder_path=sys.argv[1])
"""
USE = """
import json, torch
from peft import PeftModel
import modeling_medglip
from modeling_medglip import MedGlipForObjectDetection, MedGlipProcessor

processor = MedGlipProcessor.from_pretrained("clinic/adapter")
torch.manual_seed(0)
image = torch.rand(3, 64, 64)
inputs = processor(images=image, text="left kidney. liver.", modality="ct", return_tensors="pt")

def boxes(model):
    with torch.no_grad():
        return model.eval()(**inputs).pred_boxes

base = MedGlipForObjectDetection.from_pretrained("clinic/base", modalities=["ct"])
plain = boxes(base)
adapted = PeftModel.from_pretrained(base, "clinic/adapter")
found = boxes(adapted)
with adapted.disable_adapter():
    off = boxes(adapted)
adapted.merge_adapter()
merged = boxes(adapted)
adapted.unmerge_adapter()
unmerged = boxes(adapted)
auto = boxes(modeling_medglip.load_grounder("clinic/adapter", "cpu").model)
def far(a, b):
    return float((a - b).abs().max())
print(json.dumps({"effect": far(plain, found), "off": far(plain, off), "merged": far(found, merged),
                  "unmerged": far(found, unmerged), "auto": far(found, auto)}))
"""


def python(hub: Hub, tmp_path: Path, *arguments: str, token: str | None = "hf_writer") -> subprocess.CompletedProcess:
    environment = {**client_environment(hub, str(tmp_path / "cache"), token), "OMP_NUM_THREADS": "2"}
    run = [sys.executable, *arguments]
    return subprocess.run(run, capture_output=True, text=True, env=environment, timeout=300, cwd=ROOT)


@pytest.mark.slow
def test_an_adapter_goes_to_a_hub_and_comes_back(tmp_path: Path) -> None:
    checkpoint, data = save_tiny_checkpoint(tmp_path / "checkpoint"), make_data(tmp_path / "data")
    with serve() as hub:
        done = python(hub, tmp_path, "-c", UPLOAD, str(checkpoint))
        assert done.returncode == 0, done.stderr[-2000:]
        train = ["-m", "training.fit.finetune", "--model", "clinic/base", "--data", str(data), "--modality", "ct"]
        train += ["--lora", "--epochs", "2", "--no_distillation", "--out", str(tmp_path / "run")]
        done = python(hub, tmp_path, *train, "--push_to_hub", "clinic/adapter")
        assert done.returncode == 0, done.stderr[-2000:]
        files = hub.files("clinic/adapter")
        assert {"adapter_model.safetensors", "adapter_config.json", "README.md", "processor_config.json"} <= set(files)
        assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
        assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "clinic/base"
        header, body = split_card(files["README.md"].decode())
        assert header["base_model"] == "clinic/base" and "AP50 before" in body
        assert not list(check_header("model", header, files))
        assert not [name for name, content in files.items() if str(tmp_path).encode() in content]
        assert hub.repositories["model", "clinic/adapter"].private, "private data: nothing is public unasked"
        done = python(hub, tmp_path, "-c", USE)
        assert done.returncode == 0, done.stderr[-2000:]
    far = json.loads(done.stdout.splitlines()[-1])
    assert far["effect"] > 1e-3
    assert max(far[key] for key in ("off", "merged", "unmerged", "auto")) < 1e-3 * max(1.0, far["effect"]), far


@pytest.mark.slow
def test_without_a_connection_the_run_stays_and_the_error_says_why(tmp_path: Path) -> None:
    checkpoint, data = save_tiny_checkpoint(tmp_path / "checkpoint"), make_data(tmp_path / "data")
    train = ["-m", "training.fit.finetune", "--model", str(checkpoint), "--data", str(data), "--modality", "ct"]
    train += ["--lora", "--epochs", "1", "--no_distillation", "--out", str(tmp_path / "run")]
    done = python(Hub(endpoint="http://127.0.0.1:9"), tmp_path, *train, "--push_to_hub", "clinic/adapter")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and last.startswith("error: clinic/adapter: no connection"), done.stderr[-2000:]
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("token", "reason"), [(None, "401"), ("hf_wrong", "401"), ("hf_reader", "403")])
def test_without_the_right_token_the_run_stays_and_the_error_says_why(
    token: str | None, reason: str, tmp_path: Path
) -> None:
    checkpoint, data = save_tiny_checkpoint(tmp_path / "checkpoint"), make_data(tmp_path / "data")
    with serve() as hub:
        train = ["-m", "training.fit.finetune", "--model", str(checkpoint), "--data", str(data), "--modality", "ct"]
        train += ["--lora", "--epochs", "1", "--no_distillation", "--out", str(tmp_path / "run")]
        done = python(hub, tmp_path, *train, "--push_to_hub", "clinic/adapter", token=token)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and last.startswith("error: ") and reason in last and "Traceback" not in done.stderr
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "./checkpoint", "no path of this machine, and no id on the Hub"
