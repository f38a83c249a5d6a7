"""save_pretrained: a directory with the published names and files, which LLM and the original's names load.

Files are written beside their place and moved there when they are complete. So a save that fails leaves the directory
as it was, and a model may be saved over the directory whose files its weights are mapped from.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from qwartet.files import atomic_write
from qwartet.quant_format.config import GptqConfig

_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")


class QwenSaving:
    """What the model does where transformers' PreTrainedModel saves."""

    config: Any

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **arguments: Any) -> None:
        """As in transformers. A GPTQ model is saved as it was loaded, with its quantize_config.json."""
        target = Path(save_directory)
        target.mkdir(parents=True, exist_ok=True)
        if arguments.get("push_to_hub"):
            arguments.setdefault("repo_id", target.name)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=target) as place:
            super().save_pretrained(place, *args, **arguments)  # type: ignore[misc]
            files = sorted(path.relative_to(place) for path in Path(place).rglob("*") if path.is_file())
            if self.config.gptq is not None and Path("config.json") in files:
                gptq = GptqConfig.from_dict(self.config.gptq, "config.json")
                with atomic_write(Path(place) / "quantize_config.json") as unfinished:
                    unfinished.write_text(json.dumps(gptq.to_dict(), indent=2) + "\n", encoding="utf-8")
                files.append(Path("quantize_config.json"))
            for file in files:
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(place) / file, target / file)
        names = {str(file) for file in files}
        if any(map(_WEIGHTS.fullmatch, names)):  # shards of an earlier save, in another number
            for old in target.iterdir():
                if _WEIGHTS.fullmatch(old.name) and old.name not in names:
                    old.unlink()
