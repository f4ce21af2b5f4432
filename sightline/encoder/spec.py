"""Encoder specs: how a command line names an encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sightline.bundle import is_bundle
from sightline.errors import EncoderUnknown

FORMS = "a bundle directory, MODEL:TAG (ViT-B-32-SigLIP2-256:webli), MODEL:/path/to/weights.safetensors or MODEL:random"


@dataclass(frozen=True)
class EncoderSpec:
    """One of the four kinds. ``model`` is an open_clip architecture name, empty for a bundle."""

    kind: Literal["bundle", "tag", "file", "random"]
    model: str = ""
    tag: str = ""
    path: Path | None = None

    @property
    def name(self) -> str:
        """How reports call the encoder: without the path of this machine."""
        if self.path is not None:
            return self.path.name if self.kind == "bundle" else f"{self.model}:{self.path.name}"
        return f"{self.model}:{self.tag}"


def parse_spec(text: str) -> EncoderSpec:
    """Parse a spec without importing torch. Raises EncoderUnknown for anything that is not one of the four forms."""
    path = Path(text).expanduser()
    if path.is_dir():
        if not is_bundle(path):
            raise EncoderUnknown(f"{text} is a directory but not an encoder bundle; give {FORMS}.")
        return EncoderSpec("bundle", path=path)
    model, colon, rest = text.partition(":")
    if not colon or not model or not rest or "/" in model:
        raise EncoderUnknown(f"'{text}' names no encoder: no such bundle, and not MODEL:TAG; give {FORMS}.")
    if rest == "random":
        return EncoderSpec("random", model=model, tag="random")
    if "/" in rest or rest.endswith((".safetensors", ".pt", ".bin", ".pth", ".npz", ".npy")):
        return _file_spec(model, Path(rest).expanduser())
    return EncoderSpec("tag", model=model, tag=rest)


def _file_spec(model: str, path: Path) -> EncoderSpec:
    if path.suffix != ".safetensors":
        raise EncoderUnknown(
            f"{path.name} is not a .safetensors file; other formats can run code when they are loaded, "
            "so convert the weights with safetensors first."
        )
    if not path.is_file():
        raise EncoderUnknown(f"There are no weights at {path}; check the path.")
    return EncoderSpec("file", model=model, tag=path.name, path=path)
