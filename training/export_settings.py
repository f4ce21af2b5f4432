"""The [export] table of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from training.onnx_export import require_onnx


class ExportSettings(BaseModel):
    """``onnx`` puts both towers as ONNX into the bundle's folder ``onnx`` (extra ``onnx``).

    ``weights`` are those of the last step, or their running mean (``ema_decay`` in ``[training]``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    onnx: bool = False
    weights: Literal["last", "ema"] = "last"

    def require(self) -> None:
        """Raise DependencyMissing before the first step when what the export needs is not installed."""
        if self.onnx:
            require_onnx()
