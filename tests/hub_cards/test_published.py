# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Everything is published to a local Hub over HTTP, and used from two other environments: one that has the built wheel
and not the clone, and one that cannot import the package and runs the code that travels with the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hub_server import Hub, client_environment, serve

from .material import build_set


pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
USE = """
import json, sys, torch
from transformers import AutoModel, AutoModelForZeroShotObjectDetection, AutoProcessor, pipeline
from PIL import Image
from skimage import data
remote = sys.argv[1] == "remote"
answer = {"cwd_is_clone": False}
if remote:
    try:
        import modeling_medglip
        raise SystemExit("modeling_medglip can be imported here")
    except ModuleNotFoundError:
        pass
else:
    import modeling_medglip
    answer["package"] = modeling_medglip.__file__
trust = {"trust_remote_code": True} if remote else {}
name = "my-hospital/med-glip-fundus"
image = data.retina()
processor = AutoProcessor.from_pretrained(name, **trust)
model = AutoModelForZeroShotObjectDetection.from_pretrained(name, **trust).eval()
inputs = processor(images=image, text="optic disc. optic cup.", return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs)
result = processor.post_process_grounded_object_detection(
    outputs, inputs, threshold=0.3, target_sizes=[image.shape[:2]])[0]
answer["labels"] = list(result["text_labels"])
answer["boxes"] = [[round(value, 2) for value in box] for box in result["boxes"].tolist()]
answer["scores"] = [round(value, 4) for value in result["scores"].tolist()]
answer["modality"] = processor.image_processor.modality
answer["base"] = type(AutoModel.from_pretrained(name, **trust)).__name__
answer["code"] = sys.modules[type(model).__module__].__file__
detector = pipeline("zero-shot-object-detection", model=name, **trust)
rows = detector(Image.fromarray(image), candidate_labels=["optic disc."])
answer["pipeline"] = sorted({row["label"] for row in rows})
print(json.dumps(answer))
"""
LOAD = """
import json
from datasets import load_dataset, get_dataset_config_names
name = "my-hospital/med-glip-5m"
rows = load_dataset(name, "endoscopy", split="train")
labels = load_dataset(name, "labels", split="train")
streamed = next(iter(load_dataset(name, "endoscopy", split="train", streaming=True)))
names = rows.features["objects"]["category"].feature.names
print(json.dumps({"configs": sorted(get_dataset_config_names(name)), "rows": len(rows), "labels": len(labels),
                  "objects": [names[i] for i in rows[0]["objects"]["category"]], "same": names == labels["name"],
                  "size": rows[0]["image"].size, "streamed": streamed["image_id"] == rows[0]["image_id"]}))
"""


@dataclass
class PublishedHub:
    """A Hub with everything on it, and environments to use it from."""

    hub: Hub
    with_wheel: Path
    without: Path
    output: str
    folder: Path

    def run(self, python: Path, code: str, *arguments: str) -> dict:
        environment = client_environment(self.hub, str(self.folder / f"cache-{python.parts[-3]}"), "hf_writer")
        environment |= {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "2", "HOME": str(self.folder)}
        command = [str(python), "-I", "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400, cwd=self.folder)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])


def environment_beside(folder: Path) -> Path:
    """A new environment that shares the installed libraries of this one, but not its editable packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    return folder / "bin" / "python"


def publish(hub: Hub, folder: Path, built: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hub_cards.publish", "--org", "my-hospital", "--stage", str(folder / "stage")]
    command += ["--data", str(built), *arguments]
    environment = {**client_environment(hub, str(folder / "publisher")), "PATH": os.environ["PATH"]}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, cwd=ROOT)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PublishedHub]:
    folder = tmp_path_factory.mktemp("published")
    built = build_set(folder)
    wheel = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "wheel"), str(ROOT)]
    subprocess.run(wheel, check=True, capture_output=True, timeout=600)
    (file,) = (folder / "wheel").glob("*.whl")
    with_wheel, without = (environment_beside(folder / name) for name in ("with_wheel", "without"))
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(with_wheel),
        "install",
        "--no-deps",
        "--no-index",
        "--quiet",
    ]
    subprocess.run([*install, "--force-reinstall", str(file)], check=True, capture_output=True, timeout=600)
    with serve() as hub:
        what = ["--what", "experts,unified,dataset,space", "--modality", "fundus", "endoscopy", "--tag", "v0.1.0"]
        done = publish(hub, folder, built, *what, "--yes")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        again = publish(hub, folder, built, *what, "--yes")
        assert again.returncode == 0, again.stderr[-3000:]
        yield PublishedHub(hub, with_wheel, without, again.stdout, folder)


def test_a_second_run_sends_nothing(published: PublishedHub) -> None:
    assert len(published.hub.repositories) == 5
    for name in ("med-glip-fundus", "med-glip-endoscopy", "med-glip-5m", "med-glip"):
        assert f"my-hospital/{name}: nothing has changed" in published.output
    for repository in published.hub.repositories.values():
        assert repository.private and len(repository.commits) == 2  # the Hub's own, and ours
        assert repository.tags == {"v0.1.0": repository.commits[-1].oid}
    assert len(published.hub.uploaded) == len(set(published.hub.uploaded))


def test_the_wheel_alone_uses_the_experts(published: PublishedHub) -> None:
    answer = published.run(published.with_wheel, USE, "package")
    assert str(ROOT) not in answer["package"] and answer["package"].startswith(str(published.folder))
    assert answer["code"].startswith(str(published.folder)) and "transformers_modules" not in answer["code"]
    assert "optic disc" in answer["labels"] and answer["modality"] == "fundus" and answer["base"] == "MedGlipModel"


def test_remote_code_gives_the_same_boxes(published: PublishedHub) -> None:
    """The process that cannot import the package, and says so."""
    package, remote = (
        published.run(published.with_wheel, USE, "package"),
        published.run(published.without, USE, "remote"),
    )
    assert "transformers_modules" in remote["code"]
    for key in ("labels", "boxes", "scores", "base", "pipeline", "modality"):
        assert remote[key] == package[key], key


def test_the_data_set_is_loaded_by_its_configs(published: PublishedHub) -> None:
    answer = published.run(published.with_wheel, LOAD)
    assert answer["configs"] == ["endoscopy", "labels"] and answer["rows"] > 0 and answer["labels"] >= 198
    assert set(answer["objects"]) == {"polyp"} and answer["same"] and answer["streamed"] and min(answer["size"]) > 8


def test_what_is_on_the_hub_is_complete_and_private(published: PublishedHub) -> None:
    files = published.hub.files("my-hospital/med-glip-5m", "dataset")
    assert "recipes/abdomen_of_mine_ct.yaml" in files and not [name for name in files if name.startswith("ct/")]
    model = published.hub.files("my-hospital/med-glip-fundus")
    assert {"modeling_medglip.py", "evaluation.json", "licenses.json", "LICENSE.md"} <= set(model)
    assert not [name for name in model if name.endswith((".bin", ".pt", ".pkl"))]
    for name in published.hub.repositories.values():
        for path, blob in name.at("main").files.items():
            assert str(ROOT).encode() not in blob.content and str(published.folder).encode() not in blob.content, path


def test_the_space_starts_from_its_repository_alone(published: PublishedHub) -> None:
    """Downloaded as the Hub would run it: its own folder, the model by the variable, no package installed."""
    pytest.importorskip("gradio")
    start = """
import json, os, sys
from huggingface_hub import snapshot_download
folder = snapshot_download("my-hospital/med-glip", repo_type="space")
os.chdir(folder)
sys.path.insert(0, folder)
import app
from modeling_medglip.grounding import load_grounder
grounder = load_grounder(os.environ["MEDGLIP_MODEL"])
print(json.dumps({"app": app.__file__, "modalities": list(grounder.modalities), "name": grounder.name}))
"""
    repository = published.hub.repositories["space", "my-hospital/med-glip"]
    assert repository.variables == {"MEDGLIP_MODEL": "my-hospital/med-glip"}
    code = f"import os; os.environ.update({repository.variables!r}, GRADIO_ANALYTICS_ENABLED='False')\n{start}"
    answer = published.run(published.without, code)
    assert answer["modalities"] == ["fundus", "endoscopy"] and str(ROOT) not in answer["app"]
