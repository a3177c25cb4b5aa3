"""The storage dtypes of the safetensors format."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FLOAT_NAMES", "STORAGE_DTYPES", "StorageDtype", "numpy_dtype", "storage_name"]


@dataclass(frozen=True)
class StorageDtype:
    """One dtype of the format.

    Attributes:
        name: As in a safetensors header.
        bits: Width of an element; below eight, elements are packed.
        numpy_name: Its NumPy or ml_dtypes name; empty where arrays of it are not supported here.
        kind: ``float`` dtypes are merged, ``exact`` ones (integers, booleans) are copied, ``other`` are refused.
        config_name: Its name in a model's ``config.json``; empty where a model cannot have it.
    """

    name: str
    bits: int
    numpy_name: str
    kind: Literal["float", "exact", "other"]
    config_name: str = ""


STORAGE_DTYPES = {
    d.name: d
    for d in (
        StorageDtype("F64", 64, "float64", "float", "float64"),
        StorageDtype("F32", 32, "float32", "float", "float32"),
        StorageDtype("F16", 16, "float16", "float", "float16"),
        StorageDtype("BF16", 16, "bfloat16", "float", "bfloat16"),
        StorageDtype("I64", 64, "int64", "exact"),
        StorageDtype("I32", 32, "int32", "exact"),
        StorageDtype("I16", 16, "int16", "exact"),
        StorageDtype("I8", 8, "int8", "exact"),
        StorageDtype("U64", 64, "uint64", "exact"),
        StorageDtype("U32", 32, "uint32", "exact"),
        StorageDtype("U16", 16, "uint16", "exact"),
        StorageDtype("U8", 8, "uint8", "exact"),
        StorageDtype("BOOL", 8, "bool", "exact"),
        StorageDtype("C64", 64, "complex64", "other"),
        StorageDtype("F8_E4M3", 8, "float8_e4m3fn", "other"),
        StorageDtype("F8_E5M2", 8, "float8_e5m2", "other"),
        StorageDtype("F8_E4M3FNUZ", 8, "float8_e4m3fnuz", "other"),
        StorageDtype("F8_E5M2FNUZ", 8, "float8_e5m2fnuz", "other"),
        StorageDtype("F8_E8M0", 8, "float8_e8m0fnu", "other"),
        StorageDtype("F6_E2M3", 6, "", "other"),
        StorageDtype("F6_E3M2", 6, "", "other"),
        StorageDtype("F4", 4, "", "other"),
    )
}
"""Every dtype of the format, by its name."""

FLOAT_NAMES = {d.config_name: d.name for d in STORAGE_DTYPES.values() if d.config_name}
"""Storage name of each dtype that a recipe may ask for, by its everyday name."""


def numpy_dtype(name: str) -> "np.dtype":
    """Return the NumPy dtype (from ml_dtypes where NumPy has none) of a storage dtype."""
    import ml_dtypes  # noqa: F401, PLC0415 - registers the names; imported when arrays are made, not before
    import numpy as np  # noqa: PLC0415

    return np.dtype(STORAGE_DTYPES[name].numpy_name)


def storage_name(dtype: "np.dtype") -> str | None:
    """Return the storage dtype name of a NumPy dtype, or ``None`` if the format has no such dtype."""
    return next((d.name for d in STORAGE_DTYPES.values() if d.numpy_name == dtype.name), None)
