"""Merge with statistics by FusionBench, in an environment that has it.

``python -P run_fusionbench.py METHOD FOLDER OPTIONS OUT``: ``model-*.safetensors`` and ``statistics-*.safetensors``
below the folder are tensors of every model; OPTIONS is a JSON object of ``weight``, and of ``normalize`` for ``fisher``
or ``off_diagonal`` for ``regmean``.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def main():
    method, folder, options, out = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4]
    models = [load_file(path) for path in sorted(folder.glob("model-*"))]
    statistics = [load_file(path) for path in sorted(folder.glob("statistics-*"))]
    parameters = {name: [model[name] for model in models] for name in models[0]}
    if method == "fisher":
        from fusion_bench.method.fisher_merging.fisher_merging import merging_with_fisher_weights

        weights = torch.tensor(options["weight"], dtype=torch.float64)
        merged = merging_with_fisher_weights(parameters, statistics, weights, options["normalize"], 0.0)
    else:
        from fusion_bench.method.regmean.regmean import merging_with_regmean_weights

        # it has no weights of models: they are factors of the Gram matrices
        grams = [
            {name.removesuffix(".weight"): weight * gram for name, gram in of.items()}
            for weight, of in zip(options["weight"], statistics, strict=True)
        ]
        merged = merging_with_regmean_weights(parameters, grams, options["off_diagonal"])
    save_file({name: tensor.contiguous() for name, tensor in merged.items()}, out)


if __name__ == "__main__":
    main()
