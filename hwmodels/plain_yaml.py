"""YAML and JSON that people hand over: bounded, without anchors or keys that come twice, one line when it fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from moesim.refusal import Refusal

MAX_BYTES = 1_000_000  # a page of text; anything larger is a mistake or an attack


class FileError(Refusal):
    """A file that is not there, too large, no text, or not YAML; the message says which, without the file's name."""


class _Plain(yaml.SafeLoader):
    """YAML without anchors (aliases can blow a small file up to gigabytes) and without keys that come twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise FileError("YAML aliases (*name) are not allowed here; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [key.value for key, _ in node.value if isinstance(key.value, str)]
        twice = next((name for name in names if names.count(name) > 1), None) if len(names) < 1000 else None
        if twice is not None:
            raise FileError(f"key {twice[:60]!r} is given twice in one mapping; keep one")
        return super().construct_mapping(node, deep)


def read_plain(file: Path, missing: str) -> Any:
    """The parsed file; every way in which it can be broken is a FileError, a file that is not there says `missing`."""
    try:
        size = file.stat().st_size if file.is_file() else None
    except (OSError, ValueError):  # a name that the file system cannot even be asked for
        size = None
    if size is None:
        raise FileError(missing)
    if size > MAX_BYTES:
        raise FileError(f"the file has {size:,} bytes; at most {MAX_BYTES:,} are read")
    try:
        return yaml.load(file.read_text(encoding="utf-8"), Loader=_Plain)  # a SafeLoader
    except FileError:
        raise
    except UnicodeDecodeError:
        raise FileError("is not a text file in UTF-8") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise FileError(f"is not valid YAML: {' '.join(str(error).split())[:200]}") from None
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror}") from None
