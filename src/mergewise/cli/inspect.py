"""``mergewise inspect``."""

from collections import Counter
from typing import Annotated, Any

import typer

from mergewise.cli.output import JsonOption, figure, print_json, print_pairs, print_table, size
from mergewise.cli.recipe import CHECKPOINT_HELP, CacheOption, OfflineOption, access

__all__ = ["inspect"]


def inspect(
    checkpoint: Annotated[str, typer.Argument(help=CHECKPOINT_HELP)],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    offline: OfflineOption = False,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Say what a checkpoint holds, as it is stored, from its headers alone."""
    from mergewise.checkpoint import Connections, DequantisedCheckpoint, GgufCheckpoint, open_source, stored_bytes

    opened = open_source(checkpoint, Connections(access(offline, cache)))
    if isinstance(opened, DequantisedCheckpoint):
        opened = opened.own
    gguf = opened if isinstance(opened, GgufCheckpoint) else None
    dtypes = {name: gguf.stored_dtype(name) if gguf else info.dtype for name, info in opened.tensors.items()}
    nbytes = {name: stored_bytes(opened, name) for name in opened.tensors}
    infos = sorted(opened.tensors.values(), key=lambda info: info.name.encode())
    config = opened.config()
    summary: dict[str, Any] = {
        "path": opened.location,
        "architectures": _architectures(config),
        "files": [file.name for file in opened.files],
        "tensors": len(infos),
        "parameters": sum(info.numel for info in infos),
        "bytes": sum(nbytes.values()),
        "dtypes": dict(Counter(dtypes[info.name] for info in infos)),
    }
    rows: list[dict[str, Any]] = [
        {"name": info.name, "dtype": dtypes[info.name], "shape": list(info.shape), "bytes": nbytes[info.name],
         "file": opened.files[info.file].name}
        for info in infos
    ]  # fmt: skip
    if json:
        print_json(summary | ({"tensor_list": rows} if tensors else {}))
        return
    print_pairs(
        [
            ("checkpoint", opened.location),
            ("architecture", ", ".join(summary["architectures"]) or "not stated"),
            ("files", f"{len(opened.files)}: {', '.join(summary['files'][:4])}{' …' * (len(opened.files) > 4)}"),
            ("tensors", f"{len(infos)} ({', '.join(f'{n} {d}' for d, n in summary['dtypes'].items())})"),
            ("parameters", figure(summary["parameters"])),
            ("size", size(summary["bytes"])),
        ]
    )
    if tensors:
        print()
        cells = [(row["name"], row["dtype"], row["shape"], size(row["bytes"]), row["file"]) for row in rows]
        print_table(("tensor", "dtype", "shape", "size", "file"), cells, numeric=("size",))


def _architectures(config: dict[str, Any]) -> list[str]:
    """Return the names of the architectures that a configuration states, in whatever form."""
    stated = config.get("architectures")
    found = stated if isinstance(stated, list) else [stated]
    return [str(name) for name in found if name]
