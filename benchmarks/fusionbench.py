"""FusionBench's spectral methods as a black box: run by a Python that has fusion-bench and torch, not mergewise.

``python -P benchmarks/fusionbench.py FOLDER METHOD THREADS OUT`` reads ``base`` and ``expert-*`` below the folder,
merges their float32 task vectors, writes the merged delta, and prints seconds of wall and processor time of the merge
alone.
"""

import contextlib
import io
import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

__all__ = ["main"]


def main() -> None:
    """Merge once."""
    from fusion_bench.method.isotropic_merging.iso_utils import iso_c, iso_cts  # noqa: PLC0415 - slow to import
    from fusion_bench.method.task_singular_vector.utils import TSVM_utils  # noqa: PLC0415

    folder, method, threads, out = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(threads)
    base = load_file(folder / "base" / "model.safetensors")
    experts = [load_file(path / "model.safetensors") for path in sorted(folder.glob("expert-*"))]
    deltas = [{name: expert[name].float() - base[name].float() for name in base} for expert in experts]
    wall, processor = time.perf_counter(), time.process_time()
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        if method == "tsv_m":
            merged = TSVM_utils.compute_and_sum_svd_mem_reduction(deltas, accelerator="cpu")
        elif method == "iso_c":
            merged = iso_c(deltas, accelerator="cpu")
        else:
            merged = iso_cts(deltas, 0.8, accelerator="cpu")
    seconds = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
    save_file({name: delta.contiguous() for name, delta in merged.items()}, out)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
