"""Where an imported checkpoint comes from: its files and their checksums. Imports no torch: plans need it, too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from trivium.errors import ArtifactError
from trivium.files import sha256

READ = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
)
"""The files of a folder that decide what is imported."""


ADAPTER = "adapter_config.json"


def sources(path: Path, base: Path | None = None) -> list[Path]:
    """The files that an import reads; `base`: the checkpoint that the adapter at `path` changes. ArtifactError if there is no
    checkpoint at `path`, or no adapter."""
    if base is not None:
        if not (path / ADAPTER).is_file():
            raise ArtifactError(
                f"{path} is no adapter: it has no {ADAPTER}",
                where=str(path),
                fix="leave `base` out, or name the adapter's folder",
            )
        return [
            *sorted(found for pattern in (ADAPTER, *READ) for found in path.glob(pattern)),
            *sources(base),
        ]
    fix = "give a folder in the Hugging Face layout, or a .gguf file"
    if path.is_file():
        if path.suffix != ".gguf":
            raise ArtifactError(f"{path.name} is no checkpoint", where=str(path), fix=fix)
        return parts(path)
    if not path.is_dir():
        raise ArtifactError(f"there is no checkpoint at {path}", where=str(path), fix=fix)
    if (path / ADAPTER).is_file() and not (path / "config.json").is_file():
        raise ArtifactError(
            f"{path} is an adapter and no whole checkpoint",
            where=str(path),
            fix="name the checkpoint that it changes as `base`",
        )
    if not (path / "config.json").is_file():
        inside = ", ".join(sorted(found.name for found in path.iterdir())[:5]) or "nothing"
        raise ArtifactError(
            f"{path} is no checkpoint: it has no config.json (it holds {inside})", where=str(path), fix=fix
        )
    return sorted({found for pattern in READ for found in path.glob(pattern) if found.is_file()})


_PART = re.compile(r"(.+-)\d{5}(-of-(\d{5})\.gguf)")


def parts(path: Path) -> list[Path]:
    """The files that a GGUF model was split into, by their names, or its only one. ArtifactError where some are missing."""
    name = _PART.fullmatch(path.name)
    if name is None:
        return [path]
    files = [path.with_name(f"{name[1]}{number:05d}{name[2]}") for number in range(1, int(name[3]) + 1)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise ArtifactError(
            f"{len(missing)} of {len(files)} parts of the model are missing: {', '.join(missing[:5])}",
            where=str(path),
            fix="put all its parts beside each other",
        )
    return files


def identity(path: Path, template: Path | None, base: Path | None = None) -> dict[str, Any]:
    """SHA-256 of each file that an import reads, by name, of an adapter's base, and of a chat template of its own.

    ArtifactError where there is none.
    """
    if template is not None and not template.is_file():
        raise ArtifactError(
            f"there is no chat template at {template}", where=str(template), fix="name a jinja file"
        )
    if base is not None:
        mine = {found.name: sha256(found) for found in sources(path, base) if found.parent == path}
        return mine | {"base": identity(base, template)}
    read = sources(path)
    prints = {found.name: sha256(found) for found in read}
    if path.is_file():  # a file may have any name, and its parts have numbers
        prints = {"gguf" if len(read) == 1 else f"gguf {n}": sha256(found) for n, found in enumerate(read)}
    return prints if template is None else {**prints, "template": sha256(template)}
