# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Check the names of files: those that a repository of each kind may and must have.

Any other file is refused: its name may be that of a patient.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from modeling_medglip.errors import one_line


CODE = ("configuration_medglip.py", "modeling_medglip.py", "image_processing_medglip.py", "processing_medglip.py")
SOURCE = r"[a-z0-9][a-z0-9_]{0,63}"
SHARD = r"-\d{5}-of-\d{5}"
TOKENIZER = r"tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|vocab\.txt"
PROCESSOR = rf"processor_config\.json|router\.safetensors|{TOKENIZER}"
ALLOWED = {
    "model": re.compile(
        rf"README\.md|LICENSE\.md|config\.json|evaluation\.json|licenses\.json|{PROCESSOR}|"
        rf"model(?:{SHARD}|-[a-z]+)?\.safetensors|model\.safetensors\.index\.json|{'|'.join(map(re.escape, CODE))}"
    ),
    "adapter": re.compile(
        rf"README\.md|LICENSE\.md|adapter_config\.json|adapter_model\.safetensors|medglip_adapter\.json|results\.json|"
        rf"{PROCESSOR}"
    ),
    "dataset": re.compile(
        rf"README\.md|label_hierarchy\.json|provenance\.json|quality/report\.json|recipes/{SOURCE}\.yaml|"
        rf"(?:labels|{SOURCE})/(?:train|validation|test){SHARD}\.parquet"
    ),
    "space": re.compile(
        r"README\.md|LICENSE\.txt|requirements\.txt|app\.py|space(?:_[a-z_]+)?\.(?:py|css|js)|"
        r"modeling_medglip/(?:[a-z]+/)?[a-z_]+\.(?:py|yaml)|modeling_medglip/py\.typed"
        r"|modeling_medglip/demo/images/(?:LICENSES\.md|[a-z_]+\.(?:png|jpg|dcm))"
    ),
}
NEEDED = {
    "model": (
        "README.md", "LICENSE.md", "config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
        "licenses.json", "evaluation.json", *CODE,
    ),
    "adapter": ("README.md", "LICENSE.md", "adapter_config.json", "adapter_model.safetensors", "results.json"),
    "dataset": ("README.md", "label_hierarchy.json", "provenance.json"),
    "space": ("README.md", "app.py", "requirements.txt", "modeling_medglip/__init__.py"),
}  # fmt: skip


def check_file_names(role: str, files: Sequence[str]) -> list[str]:
    """Return which files are missing and which do not belong there, one line each.

    Args:
        role (`str`): One of `ALLOWED`.
        files (`Sequence[str]`): Paths in the repository.
    """
    faults = [f"{name} is missing" for name in NEEDED[role] if name not in files]
    if role == "model" and not any(name.startswith("model") and name.endswith(".safetensors") for name in files):
        faults.append("model.safetensors is missing")
    unknown = [name for name in files if not ALLOWED[role].fullmatch(name)]
    kind = "an adapter" if role == "adapter" else f"a {role}"
    return [*faults, *(f"{one_line(name, 60)!r} does not belong in the repository of {kind}" for name in unknown)]


__all__ = ["ALLOWED", "CODE", "NEEDED", "check_file_names"]
