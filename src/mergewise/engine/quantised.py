"""Weights whose codes cannot be merged, and are refused: integers, or eight-bit floats with scales of unknown names."""

import re
from collections import defaultdict

from mergewise.checkpoint import DequantisedCheckpoint, Source
from mergewise.errors import CheckpointError

__all__ = ["require_unquantised"]

_CODES = {"I8", "U8", "I16", "U16", "I32", "U32"}
"""What codes are packed into; buffers of indices, positions and masks, which are copied, are I64 or BOOL."""
_MARKS = re.compile(r"(^|.*_)(scales?|scale_inv|absmax|zeros|zero_point|SCB|quant_map)$")
"""Last parts of the names that scales and zero points have: of GPTQ, AWQ, bitsandbytes, compressed-tensors, MXFP4."""
_SCALE = re.compile(r"_*scales?(_inv)?_*")
"""What the name of a scale has beside that of its weight, if it has that: ``scale``, ``scale_weight``, ``_scale``."""


def require_unquantised(source: Source) -> None:
    """Require that no weights are codes, whose scales a merge would change without them.

    Eight-bit floats with known scales and GGUF are shown as the numbers they stand for, and are not concerned; nor are
    integer buffers.

    Raises:
        CheckpointError: Some are.
    """
    if isinstance(source, DequantisedCheckpoint):
        _require_known_scales(source)
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


def _require_known_scales(source: DequantisedCheckpoint) -> None:
    """Require that no eight-bit weight that is read as it is has a scale after all, under another name."""
    beside = defaultdict(list)
    for name in source.tensors:
        beside[name.rpartition(".")[0]].append(name)
    for weight in sorted(source.unscaled):
        module, _, leaf = weight.rpartition(".")
        near = [*beside[module], *beside[weight]] if len(source.tensors[weight].shape) > 1 else []
        for scale in near:
            if _SCALE.fullmatch(_last(scale).replace(leaf, "")):
                raise CheckpointError(
                    f"{source.location}: expected the scale of '{weight}', which is stored in eight bits, as "
                    f"'{weight}_scale' or '{weight}_scale_inv', found '{scale}', which is not known to be one; "
                    "dequantise the model and save it as BF16 first, or take the model that it was made from."
                )


def _last(name: str) -> str:
    return name.rpartition(".")[2]
