"""The file of a survey: a zip of a JSON header and plain arrays, which any NumPy can read; nothing in it is executed.

Arrays of all tensors lie one upon the other, in the order of the header's names. Dates are left out, so that the same
survey has the same bytes.
"""

import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mergewise.engine.survey.record import MERGES, TAIL_FIGURES, Spectra, Survey, TensorRecord
from mergewise.errors import SurveyError
from mergewise.statistics.claims import Claims

__all__ = ["VERSION", "load", "pack", "save", "unpack"]

VERSION = 1
_KIND = "mergewise survey"
_HEADER = "survey.json"
_LEVEL = 4
_PER_TENSOR = ("products", "sums", "changed", "thresholds", "tails")
_PER_MASK = ("masks", "counts", "sides")


def save(survey: Survey, path: str | os.PathLike[str]) -> None:
    """Write a survey to one file, which appears when it is complete; see ``Survey.save``."""
    place = Path(path)
    beside = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            _write(survey, file)
        beside.replace(place)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise SurveyError(f"{place}: cannot be written: {error.strerror}; choose another place for it.") from error


def load(path: str | os.PathLike[str]) -> Survey:
    """Read a survey from its file; see ``Survey.load``."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise SurveyError(f"{path}: expected the file of a survey: {error.strerror}.") from error
    return unpack(content, str(path))


def pack(survey: Survey) -> bytes:
    """Return the bytes of a survey's file."""
    out = io.BytesIO()
    _write(survey, out)
    return out.getvalue()


def _write(survey: Survey, file: BinaryIO) -> None:
    """Write a survey into an open file, one array after the other: one of many experts is large as it is."""
    header = {
        "kind": _KIND, "version": VERSION, "base": survey.base, "experts": list(survey.experts),
        "identities": survey.identities, "density": survey.density, "seed": survey.seed,
        "merges": list(MERGES), "tail_figures": list(TAIL_FIGURES), "remarks": list(survey.remarks),
        "whole": survey.whole,
        "tensors": [
            {
                "name": t.name, "shape": list(t.shape), "sampled": t.sampled, "counted": t.claims.elements,
                "masks": int(t.claims.masks.size), "spectra": t.spectra is not None,
            }
            for t in survey.tensors
        ],
    }  # fmt: skip
    with zipfile.ZipFile(file, "w") as archive:
        _add(archive, _HEADER, json.dumps(header, ensure_ascii=False, indent=1).encode())
        for name, array in _stacked(survey):
            _add_array(archive, name, array)


def _stacked(survey: Survey) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays of all tensors one upon the other, with their names."""
    if survey.tensors:
        for name in _PER_TENSOR:
            yield name, np.stack([getattr(t, name) for t in survey.tensors])
    for name in _PER_MASK:
        parts = [getattr(t.claims, name) for t in survey.tensors]
        yield name, np.concatenate(parts) if parts else np.empty(0, np.int64)
    spectra = [t.spectra for t in survey.tensors if t.spectra is not None]
    if spectra:
        for field in fields(Spectra):
            yield f"spectra.{field.name}", np.stack([getattr(s, field.name) for s in spectra])


def _add_array(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    body = io.BytesIO()
    np.lib.format.write_array(body, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    _add(archive, f"{name}.npy", body.getbuffer())


def _add(archive: zipfile.ZipFile, name: str, content: bytes | memoryview) -> None:
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.create_system = 3
    archive.writestr(entry, content, zipfile.ZIP_DEFLATED, _LEVEL)


def unpack(content: bytes, where: str) -> Survey:
    """Return the survey that the bytes of a file hold.

    Args:
        content: The bytes.
        where: What messages call the file.

    Raises:
        SurveyError: They are not those of a survey, or of a version that is not known here.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            header = json.loads(archive.read(_HEADER))
            arrays = {
                entry.removesuffix(".npy"): np.lib.format.read_array(
                    io.BytesIO(archive.read(entry)), allow_pickle=False
                )
                for entry in archive.namelist()
                if entry.endswith(".npy")
            }
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, OSError, RuntimeError) as error:
        raise SurveyError(f"{where}: expected the file of a survey, found something else or a damaged one.") from error
    if not isinstance(header, dict) or header.get("kind") != _KIND:
        raise SurveyError(f"{where}: expected the file of a survey, found a zip of something else.")
    if header.get("version") != VERSION:
        raise SurveyError(
            f"{where}: expected a survey of version {VERSION}, found version {header.get('version')}; survey again."
        )
    if header.get("merges") != list(MERGES) or header.get("tail_figures") != list(TAIL_FIGURES):
        raise SurveyError(f"{where}: its figures are not those that this version gathers; survey again.")
    try:
        return _survey(header, arrays)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise SurveyError(f"{where}: the header and the arrays of this survey do not fit each other.") from error


def _survey(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Survey:
    tensors: Sequence[Mapping[str, Any]] = header["tensors"]
    _require_types(header)
    _require_shapes(len(header["experts"]), tensors, arrays)
    ends = np.cumsum([entry["masks"] for entry in tensors])
    spectra = iter(range(sum(bool(entry["spectra"]) for entry in tensors)))
    records = []
    for place, entry in enumerate(tensors):
        masks = slice(int(ends[place]) - entry["masks"], int(ends[place]))
        claims = Claims(entry["counted"], *(arrays[name][masks] for name in _PER_MASK))
        found = None
        if entry["spectra"]:
            at = next(spectra)
            found = Spectra(**{f.name: arrays[f"spectra.{f.name}"][at] for f in fields(Spectra)})
        own = {name: arrays[name][place] for name in _PER_TENSOR}
        named = {"name": entry["name"], "shape": tuple(entry["shape"]), "sampled": entry["sampled"]}
        records.append(TensorRecord(**named, **own, claims=claims, spectra=found))
    return Survey(
        header["base"], tuple(header["experts"]), _tuples(header["identities"]), header["density"], header["seed"],
        tuple(records), tuple(header["remarks"]), header.get("whole", 0),
    )  # fmt: skip


def _require_types(header: Mapping[str, Any]) -> None:
    """Require that the entries of a header are of their types.

    Raises:
        TypeError: One is not.
        KeyError: One is missing, or there is no expert.
    """
    wanted = {"base": str, "experts": list, "identities": list, "density": float, "seed": int, "remarks": list}
    of_tensor = {"name": str, "shape": list, "sampled": int, "counted": int, "masks": int, "spectra": bool}
    given = [(header, wanted), *((entry, of_tensor) for entry in header["tensors"])]
    entries = [(of[name], kind) for of, kinds in given for name, kind in kinds.items()]
    entries += [(name, str) for name in (*header["experts"], *header["remarks"])]
    entries += [(side, int) for entry in header["tensors"] for side in entry["shape"]]
    if wrong := [value for value, kind in entries if not isinstance(value, kind)]:
        raise TypeError(wrong[0])
    if not header["experts"]:
        raise KeyError("experts")


def _require_shapes(experts: int, tensors: Sequence[Mapping[str, Any]], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Require that there is every array, of its shape, with numbers that can be.

    Raises:
        KeyError: One is missing.
        ValueError: One is of another shape, holds NaN or infinity where nothing can be unknown, or counts experts that
            there are none of.
    """
    matrices, masks = sum(entry["spectra"] for entry in tensors), sum(entry["masks"] for entry in tensors)
    each, sides = (len(tensors), experts), (matrices, 2, experts)
    shapes = {
        "products": (len(tensors), 1 + experts, 1 + experts), "sums": (*each, 3), "changed": each, "thresholds": each,
        "tails": (len(tensors), experts + len(MERGES), len(TAIL_FIGURES)), **dict.fromkeys(_PER_MASK, (masks,)),
    }  # fmt: skip
    if matrices:
        shapes |= {f"spectra.{field.name}": sides for field in fields(Spectra)}
        shapes |= dict.fromkeys(("spectra.ranks", "spectra.rank_errors"), (matrices, experts, 3))
        shapes |= dict.fromkeys(("spectra.overlaps", "spectra.overlap_errors"), (*sides, experts))
        shapes["spectra.exact"] = (matrices, 2)
    for name, shape in shapes.items() if tensors else ():
        if arrays[name].shape != shape or not (name == "tails" or np.isfinite(arrays[name]).all()):
            raise ValueError(name)
    if np.any(arrays["masks"] >> np.uint64(experts - 1) > 1) or np.any(arrays["counts"] < 0):
        raise ValueError("masks")


def _tuples(value: Any) -> Any:
    """Return lists, and lists in lists, as tuples, so that what was read equals what was written."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
