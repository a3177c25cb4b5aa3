"""``mergewise merge``."""

from pathlib import Path
from typing import Annotated

import typer

from mergewise.cli.output import JsonOption, figure, print_json, print_pairs, print_remarks, progress_bar, size
from mergewise.cli.plan import print_plans
from mergewise.cli.recipe import (
    AdapterOption,
    BaseOption,
    CacheOption,
    DeviceOption,
    DtypeOption,
    ExpertOption,
    MemoryOption,
    MethodOption,
    OfflineOption,
    ParameterOption,
    RankOption,
    SelectOption,
    SurveyOption,
    ThreadsOption,
    access,
    quick_recipe,
    resolved,
)

__all__ = ["merge"]


def merge(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="[RECIPE] OUT", help="The recipe (not with --method), and the folder or URL to make."),
    ],
    method: MethodOption = None,
    base: BaseOption = None,
    expert: ExpertOption = None,
    parameter: ParameterOption = None,
    dtype: DtypeOption = None,
    adapter: AdapterOption = False,
    rank: RankOption = None,
    select: SelectOption = None,
    survey: SurveyOption = None,
    threads: ThreadsOption = None,
    memory: MemoryOption = "1GiB",
    device: DeviceOption = None,
    shard_size: Annotated[str, typer.Option(help="Largest file of the result.")] = "5GB",
    stages: Annotated[
        Path | None, typer.Option(help="Folder for what earlier stages of a recipe make; OUT.stages by default.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and print the plan; write nothing.")
    ] = False,
    offline: OfflineOption = False,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Merge experts into one checkpoint: from a recipe, or with --method, --base and --expert.

    mergewise merge recipe.yaml OUT

    mergewise merge --method ties --base B --expert E1 --expert E2 -p density=0.2 OUT

    mergewise merge recipe.yaml OUT --select 5
    """
    if len(paths) != (1 if method else 2):
        expected = (
            "only OUT, since --method stands for the recipe" if method else "RECIPE and OUT (or --method and OUT)"
        )
        raise typer.BadParameter(f"expected {expected}, found {len(paths)} paths")
    if not method and (base or expert or parameter or dtype or adapter or rank):
        options = "--base, --expert, --parameter, --dtype, --adapter and --rank"
        raise typer.BadParameter(f"{options} go with --method, not with a recipe file")
    if rank and not adapter:
        raise typer.BadParameter("--rank is that of an adapter and goes with --adapter")
    from mergewise.checkpoint import Destination, local_path
    from mergewise.engine import merge
    from mergewise.engine.devices.device import open_device
    from mergewise.engine.finished import holds_already, holds_merge
    from mergewise.engine.layout import parse_size
    from mergewise.engine.stages import output_folders, plan_stages

    shard_bytes = parse_size(shard_size, "shard size")
    output = {"rank": rank} if adapter else None
    out = paths[-1]
    destination = Destination.of(out, access(offline, cache))
    if destination is None:
        holds_merge(local_path(out))  # refused before a survey takes its time
    whole = (
        quick_recipe(method, base, expert, parameter, dtype, output, choose=select is not None) if method else paths[0]
    )
    recipe = resolved(whole, select, survey, access(offline, cache), threads=threads, memory=memory, quiet=json)
    if dry_run:
        folders = output_folders(recipe, out, destination, stages)
        plans = plan_stages(recipe, folders, access(offline, cache))
        place = local_path(out) if destination is None else destination.folder
        on = None if device is None else open_device(device).record()
        held = destination is None and holds_already(recipe, plans, folders, place, shard_bytes, on)
        remarks = [f"{place} holds this merge already; nothing would be done."] if held else []
        print_plans(recipe, plans, place, threads, memory, device, remarks=remarks, as_json=json)
        return
    with progress_bar("merging", quiet=json) as progress:
        report = merge.merge(
            recipe,
            out,
            threads=threads,
            memory=memory,
            shard_size=shard_bytes,
            stages=stages,
            progress=progress,
            access=access(offline, cache),
            device=device,
        )
    if json:
        print_json(report.summary())
        return
    print_remarks(report.remarks)
    error = [] if report.relative_error is None else [("lost", f"{report.relative_error:.2%} of its norm")]
    where = f"with {report.threads} threads" if report.device is None else f"on {report.device}"
    print_pairs(
        [
            ("merged", f"{report.experts} models with {report.method}"),
            ("into", report.out),
            ("tensors", f"{report.tensors} ({figure(report.parameters)} parameters, {size(report.bytes_out)})"),
            *error,
            ("read", size(report.bytes_in)),
            ("took", f"{report.seconds:.1f} s {where}"),
        ]
    )
