"""Whole merges against the peers, against the floor, and against each other.

    python benchmarks/compare.py peers --size 320M          mergekit, sd-mecha
    python benchmarks/compare.py floor --size 1.3B [--cold]   what a merge must read and write
    python benchmarks/compare.py first                      inputs never hashed, kernels never compiled
    python benchmarks/compare.py memory                     peaks at a budget: larger models, more experts
    python benchmarks/compare.py scaling                    time over experts, model size, threads
    python benchmarks/compare.py kill                       killed at random moments, resumed, compared
    python benchmarks/compare.py options                    mergekit with other options

Every figure is of a whole process, start-up included; contenders take turns. Each row of a table becomes a JSON file,
of which report.py makes docs/benchmarks.md.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import results
from checkpoints import DTYPES, SIZES, parameters
from contenders import (
    MERGEKIT_OPTIONS,
    OTHER_OPTIONS,
    Bench,
    Caches,
    available_memory,
    drop_page_cache,
    parse_command,
    warm_page_cache,
    weight_files,
)
from measure import CommandError, Contender, Run, alternating, ratio, run
from recipes import CASES, Case, inputs

ROOT = Path(__file__).parent.parent


class Session:
    """One call of this script: what was asked, and how its rows are measured and kept."""

    def __init__(self, given: argparse.Namespace, arguments: Sequence[str]) -> None:
        self.given = given
        self.arguments = arguments
        self.bench = Bench(
            given.scratch.absolute(), parse_command(given.mergewise), given.mergekit.absolute(),
            given.sd_mecha.absolute(), given.dtype,
        )  # fmt: skip

    def cases(self) -> Iterator[Case]:
        """Yield the asked methods, without those that this mergewise lacks.

        Files that other rows left in memory are dropped first, where that is allowed: to make room for outputs would
        take time.
        """
        known = self.bench.methods()
        asked = self.given.methods or list(CASES)
        for method in asked:
            if method not in known:
                print(f"skipped {method}: 'mergewise methods' does not list it")
        for method in asked:
            if method in known:
                with suppress(CommandError):
                    drop_page_cache()
                yield CASES[method]

    def named(self, name: str) -> str:
        """Return the name of a row, with what is not as usual about it."""
        unusual = [] if self.given.dtype == "bfloat16" else [self.given.dtype]
        return "-".join([name, *unusual, *([] if self.given.experts == 4 else [f"{self.given.experts}-experts"])])

    def measure(
        self,
        kind: str,
        name: str,
        case: Case,
        contenders: Sequence[Contender],
        peers: Sequence[str] = (),
        **row: Any,
    ) -> dict[str, list[Run]]:
        """Measure one row, print it and write it."""
        name = self.named(name)
        print(f"{kind}, {name}", flush=True)
        found = alternating(contenders, self.given.runs, _print_run)
        about = results.about(self.bench, self.arguments, peers)
        settings = {**case.per_expert, **case.overall}
        row = {"kind": kind, "method": case.method, "settings": settings, "dtype": self.given.dtype, **row}
        results.save(self.given.results, f"{kind}-{name}", {**row, "about": about}, found)
        return found

    def prepare(self, case: Case, family: Sequence[Path]) -> None:
        """Bring inputs into memory, hash them and compile kernels: what every merge but the first finds done."""
        read = inputs(case, family)
        wanted = sum(path.stat().st_size for path in weight_files([*read, family[0]]))
        if wanted > 0.9 * available_memory():
            print(f"  {wanted / 1e9:.1f} GB read and written do not fit into memory: not all files will be warm")
        warm_page_cache(read)
        again = self.bench.run_mergewise(case, family)
        again.before()
        run(again.command, again.environment)
        again.after()


def peers(session: Session) -> None:
    """Measure mergewise, mergekit and sd-mecha in turns, method by method."""
    given, bench = session.given, session.bench
    there = [name for name in given.peers if (bench.mergekit if name == "mergekit" else bench.sd_mecha).exists()]
    for name in sorted(set(given.peers) - set(there)):
        print(f"skipped {name}: it is not installed; 'make bench' does, or name it with --{name}")
    if "mergekit" in there:
        run([str(bench.mergekit), "--help"])
    if "sd-mecha" in there:
        run([str(bench.sd_mecha), "-c", "import sd_mecha"])
    family = bench.family(given.size, given.experts)
    for case in session.cases():
        session.prepare(case, family)
        contenders = [bench.run_mergewise(case, family)]
        if "mergekit" in there:
            contenders.append(bench.run_mergekit(case, family))
        if "sd-mecha" in there and case.sd_mecha and len(weight_files(family[:1])) == 1:
            contenders.append(bench.run_sd_mecha(case, family))
        found = session.measure(
            "peers", f"{given.size}-{case.method}", case, contenders, there, size=given.size, experts=given.experts,
            parameters=parameters(given.size), target=case.times_mergekit, mergekit_options=list(MERGEKIT_OPTIONS),
        )  # fmt: skip
        for name in list(found)[1:]:
            print(f"  {name} takes {_ratio(found[name], found['mergewise'])} times as long")


def floor(session: Session) -> None:
    """Measure mergewise and the floor in turns, with files in memory or not."""
    given, bench = session.given, session.bench
    before: Callable[[], None] = drop_page_cache if given.cold else os.sync
    family = bench.family(given.size, given.experts)
    for case in session.cases():
        session.prepare(case, family)
        contenders = [bench.run_mergewise(case, family, before=before), bench.run_floor(case, family, before)]
        state = "cold" if given.cold else "warm"
        found = session.measure(
            "floor", f"{given.size}-{state}-{case.method}", case, contenders, size=given.size, experts=given.experts,
            parameters=parameters(given.size), cold=given.cold, target=1.25 if given.cold else case.warm_floors,
        )  # fmt: skip
        print(f"  mergewise takes {_ratio(found['mergewise'], found['floor'])} times as long as the floor")


def first(session: Session) -> None:
    """Measure what only the first merge pays: hashing inputs, compiling kernels."""
    given, bench = session.given, session.bench
    family = bench.family(given.size, given.experts)
    unknown = Caches(bench.scratch / "first-cache", bench.caches.kernels)
    fresh = Caches(bench.scratch / "first-cache", bench.scratch / "first-kernels")

    def forget(caches: Sequence[Path]) -> None:
        for folder in caches:
            shutil.rmtree(folder, ignore_errors=True)
        os.sync()

    for case in session.cases():
        session.prepare(case, family)
        contenders = [
            bench.run_mergewise(case, family, "later merge"),
            bench.run_mergewise(
                case, family, "inputs not hashed yet", caches=unknown, before=partial(forget, [unknown.digests])
            ),
            bench.run_mergewise(
                case, family, "nor kernels compiled", caches=fresh,
                before=partial(forget, [fresh.digests, fresh.kernels]),
            ),
        ]  # fmt: skip
        session.measure(
            "first", f"{given.size}-{case.method}", case, contenders, size=given.size, experts=given.experts,
            parameters=parameters(given.size),
        )  # fmt: skip


def memory(session: Session) -> None:
    """Measure peaks at one budget for a model, one four times as large, and the model with more experts."""
    given, bench = session.given, session.bench
    points = {
        f"{given.size}, {given.experts} experts": (given.size, given.experts),
        f"{given.larger}, {given.experts} experts": (given.larger, given.experts),
        f"{given.size}, {given.more} experts": (given.size, given.more),
    }
    families = {name: bench.family(*point) for name, point in points.items()}
    for case in session.cases():
        contenders = []
        for name, family in families.items():
            session.prepare(case, family)
            contenders.append(bench.run_mergewise(case, family, name, ["--memory", given.memory]))
        found = session.measure(
            "memory", f"{given.memory}-{given.size}-{given.larger}-{given.more}-{case.method}", case, contenders,
            memory=given.memory,
            points={name: _point(case, size, families[name]) for name, (size, _) in points.items()},
        )  # fmt: skip
        peaks = {name: max(run.anonymous for run in runs) / 1e6 for name, runs in found.items()}
        print("  " + "; ".join(f"{name}: {peak:.0f} MB" for name, peak in peaks.items()))


def scaling(session: Session) -> None:
    """Measure wall time over the number of experts, the size of the model, and threads."""
    given, bench = session.given, session.bench
    tiny = bench.family("tiny", given.experts)
    axes: dict[str, dict[str, tuple[str, int, tuple[str, ...]]]] = {
        "experts": {f"{n} experts": (given.size, n, ()) for n in given.counts},
        "size": {size: (size, given.experts, ()) for size in given.sizes},
        "threads": {
            f"{n} thread{'s' if n > 1 else ''}": (given.size, given.experts, ("--threads", str(n)))
            for n in given.threads
        },
    }
    for axis in given.axes:
        families = {name: bench.family(size, n) for name, (size, n, _) in axes[axis].items()}
        for case in session.cases():
            if case.pair and axis == "experts":
                continue
            session.prepare(case, tiny)
            contenders = [bench.run_mergewise(case, tiny, "start-up")]
            for name, (_, _, options) in axes[axis].items():
                session.prepare(case, families[name])
                contenders.append(bench.run_mergewise(case, families[name], name, options))
                if axis != "threads":
                    contenders.append(bench.run_floor(case, families[name], name=f"floor, {name}"))
            session.measure(
                "scaling", f"{axis}-{given.size if axis != 'size' else '-'.join(given.sizes)}-{case.method}", case,
                contenders, axis=axis,
                points={name: _point(case, at[0], families[name]) for name, at in axes[axis].items()},
            )  # fmt: skip


def options(session: Session) -> None:
    """Measure mergekit with other options."""
    given, bench = session.given, session.bench
    family = bench.family(given.size, given.experts)
    for case in session.cases():
        warm_page_cache(inputs(case, family))
        contenders = [bench.run_mergekit(case, family, name, asked) for name, asked in OTHER_OPTIONS.items()]
        session.measure(
            "options", f"{given.size}-{case.method}", case, contenders, ["mergekit"], size=given.size,
            experts=given.experts, parameters=parameters(given.size),
            options={name: list(asked) for name, asked in OTHER_OPTIONS.items()},
        )  # fmt: skip


def kill(session: Session) -> None:
    """Kill merges at random moments, run them again, and compare bytes with an undisturbed one.

    Raises:
        CommandError: A resumed merge failed, or merges end too quickly to be killed.
    """
    given, bench = session.given, session.bench
    family = bench.family(given.size, given.experts)
    for case in session.cases():
        session.prepare(case, family)
        merge = bench.run_mergewise(case, family)
        out = bench.out(merge.name)
        merge.before()
        undisturbed = run(merge.command, merge.environment)
        expected = _digests(out)
        moments = random.Random(given.seed)
        killed = staged = identical = tries = 0
        while killed < given.kills:
            tries += 1
            if tries > 5 * given.kills:
                raise CommandError(f"{case.method}: expected {given.kills} kills, found {killed} in {tries} merges.")
            merge.before()
            if not _killed(merge, moments.uniform(0.0, undisturbed.wall)):
                continue
            killed += 1
            staged += out.with_name(f".{out.name}.mergewise-partial").exists()
            if not out.exists():
                run(merge.command, merge.environment)
            identical += _digests(out) == expected
            print(f"\r  {case.method}: {identical} of {killed} byte-identical", end="", flush=True)
        merge.before()
        print(f"; {staged} of them were killed while the output grew")
        row = {
            "kind": "kill", "method": case.method, "settings": {**case.per_expert, **case.overall},
            "dtype": given.dtype, "size": given.size, "experts": given.experts, "parameters": parameters(given.size),
            "kills": killed, "while_writing": staged, "identical": identical,
            "about": results.about(bench, session.arguments),
        }  # fmt: skip
        results.save(
            given.results, f"kill-{session.named(f'{given.size}-{case.method}')}", row, {"undisturbed": [undisturbed]}
        )


def _killed(merge: Contender, after: float) -> bool:
    """Start a merge and kill it after some seconds; say whether it still ran."""
    process = subprocess.Popen(
        list(merge.command), env={**os.environ, **merge.environment}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        time.sleep(after)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return process.returncode == -signal.SIGKILL


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as stream:
            found[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def _point(case: Case, size: str, family: Sequence[Path]) -> dict[str, int]:
    """Return what a merge of a row is about: weights, experts, and the bytes that it reads and writes at least."""
    files = weight_files([*inputs(case, family), family[0]])
    return {
        "parameters": parameters(size),
        "experts": 1 if case.pair else len(family) - 1,
        "bytes": sum(path.stat().st_size for path in files),
    }


def _print_run(name: str, run: Run) -> None:
    print(
        f"  {name:24s} {run.wall:8.2f} s  {run.cpu:8.2f} s of processors  {run.anonymous / 1e6:7.0f} MB anonymous"
        f"  {run.rss / 1e6:7.0f} MB resident",
        flush=True,
    )


def _ratio(above: Sequence[Run], below: Sequence[Run]) -> str:
    found = ratio((run.wall for run in above), (run.wall for run in below))
    return f"{found.median:.2f} ({found.least:.2f}–{found.greatest:.2f})"


COMMANDS: Mapping[str, Callable[[Session], None]] = {
    "peers": peers, "floor": floor, "first": first, "memory": memory, "scaling": scaling, "kill": kill,
    "options": options,
}  # fmt: skip


def _words(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _methods(text: str) -> list[str]:
    unknown = [word for word in text.split(",") if word not in CASES]
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(CASES)}; found {', '.join(unknown)}")
    return text.split(",")


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--size", choices=SIZES, default="320M")
    common.add_argument("--experts", type=int, default=4)
    common.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    common.add_argument("--methods", type=_methods, help="separated by commas; by default all")
    common.add_argument("--runs", type=int, default=5)
    scratch = Path(tempfile.gettempdir()) / "mergewise-bench"
    common.add_argument("--scratch", type=Path, default=scratch, help=f"by default {scratch}; kept for the next time")
    common.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    common.add_argument("--mergewise", help="the command, by default mergewise of this Python")
    common.add_argument("--mergekit", type=Path, default=ROOT / ".venv-mergekit" / "bin" / "mergekit-yaml")
    common.add_argument("--sd-mecha", type=Path, default=ROOT / ".venv-sd-mecha" / "bin" / "python")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    added = {
        name: commands.add_parser(name, parents=[common], help=function.__doc__.partition("\n")[0])
        for name, function in COMMANDS.items()
        if function.__doc__
    }
    added["peers"].add_argument("--peers", type=_words, default=["mergekit", "sd-mecha"])
    added["floor"].add_argument("--cold", action="store_true", help="drop the page cache before every run; takes root")
    added["memory"].add_argument("--memory", default="512MiB")
    added["memory"].add_argument("--larger", choices=SIZES, default="1.3B")
    added["memory"].add_argument("--more", type=int, default=16)
    added["scaling"].add_argument("--axes", type=_words, default=["experts", "size", "threads"])
    added["scaling"].add_argument("--counts", type=_numbers, default=[2, 4, 8, 16])
    added["scaling"].add_argument("--sizes", type=_words, default=["80M", "320M", "1.3B"])
    added["scaling"].add_argument("--threads", type=_numbers, default=[1, 2])
    added["kill"].add_argument("--kills", type=int, default=50)
    added["kill"].add_argument("--seed", type=int, default=0)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    arguments = sys.argv[1:] if arguments is None else arguments
    given = _parser().parse_args(arguments)
    # ended from outside, it must not leave behind what it measures
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    try:
        COMMANDS[given.command](Session(given, arguments))
    except (CommandError, ValueError) as error:
        sys.exit(str(error))
    finally:
        shutil.rmtree(given.scratch / "out", ignore_errors=True)


if __name__ == "__main__":
    main()
