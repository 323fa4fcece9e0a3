"""What identifies a folder of weights: its files' hashes and its configuration, read without
loading it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path


def describe_folder(folder: Path, config_name: str) -> Mapping[str, object]:
    """Return the configuration and the sha256 of every weights file of a folder.

    Raises:
        FileNotFoundError: If the folder lacks its configuration.
    """
    weights = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            weights[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    config = json.loads((folder / config_name).read_text(encoding="utf-8"))
    return {"config": config, "weights": weights}
