"""Mixed precision by name."""

from __future__ import annotations

import torch

__all__ = ["Autocast", "computes_bf16"]


class Autocast:
    """Mixed precision as a recipe says it: "bf16", "fp16", "off", or "auto", bf16 where the device computes in it; each
    call gives a fresh context.

    Raises:
        ValueError: another word, or fp16 on a CPU.
    """

    DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}

    def __init__(self, amp: str, device: torch.device):
        if amp == "auto":
            amp = "bf16" if computes_bf16(device) else "off"
        if amp not in self.DTYPES:
            raise ValueError(f"amp is {amp!r}: expected one of auto, {', '.join(self.DTYPES)}")
        if amp == "fp16" and device.type == "cpu":
            raise ValueError(
                "amp fp16 needs a GPU (on a CPU it is slower than fp32 and no smaller): use --amp bf16 or off"
            )
        self.dtype, self.device = self.DTYPES[amp], device

    def __call__(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)


def computes_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster than fp32: a processor without such arithmetic takes ten times as long."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
