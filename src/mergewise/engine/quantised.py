"""Weights that are stored as integers with scales beside them: their codes cannot be merged, so they are refused."""

import re

from mergewise.checkpoint import Source
from mergewise.errors import CheckpointError

__all__ = ["require_unquantised"]

_CODES = {"I8", "U8", "I16", "U16", "I32", "U32"}
"""What codes are packed into; buffers of indices, positions and masks, which are copied, are I64 or BOOL."""
_MARKS = re.compile(r"(^|.*_)(scales?|scale_inv|absmax|zeros|zero_point|SCB|quant_map)$")
"""Last parts of the names that scales and zero points have: of GPTQ, AWQ, bitsandbytes, compressed-tensors, MXFP4."""


def require_unquantised(source: Source) -> None:
    """Require that no weights are integer codes, whose scales a merge would change without them.

    Eight-bit floats and GGUF are shown in floating point, and are not concerned; nor are integer buffers.

    Raises:
        CheckpointError: Some are.
    """
    codes = [info for info in source.tensors.values() if info.dtype in _CODES and len(info.shape) > 1]
    if not codes:
        return
    scaled = {name.rpartition(".")[0] for name in source.tensors if _MARKS.match(_last(name))}
    found = next((info for info in codes if not scaled.isdisjoint((info.name, info.name.rpartition(".")[0]))), None)
    stated = source.config().get("quantization_config")
    method = stated.get("quant_method") if isinstance(stated, dict) else None
    if found is None and not stated:
        return
    info = found or codes[0]
    why = "scales beside it" if found else "a 'quantization_config' in its configuration"
    raise CheckpointError(
        f"{source.location}: expected weights in floating point, found '{info.name}' stored as {info.dtype} with {why}"
        f"{f' (quantised by {method})' if method else ''}, which cannot be merged; dequantise the model and save it "
        "as BF16 first, or take the model that it was made from."
    )


def _last(name: str) -> str:
    return name.rpartition(".")[2]
