"""How far sketched effective ranks are from exact ones: what a survey says of matrices whose sides pass `EXACT_SIDE`.

    python benchmarks/sketch.py [--side 600] [--seeds 40]

Matrices of known eigenvalues in random position; every seed draws other probes. *Held* is the share of figures within
two of their stated standard errors (for the stable rank: within its bound). One thread, some seconds a row.
"""

import argparse

import numpy as np
from numpy.typing import NDArray

import results
from mergewise.engine.survey.spectra import PROBES, STEPS
from mergewise.statistics.spectrum import effective_ranks, lanczos

__all__ = ["main"]

NAMES = ("stable rank", "participation ratio", "entropy rank")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=40)
    options = parser.parse_args()
    side = options.side
    fall = np.arange(1.0, side + 1)
    spectra = {
        "1/√j": fall**-0.5,
        "1/j": fall**-1.0,
        "1/j^1.5": fall**-1.5,
        "1/j²": fall**-2.0,
        "16 as 1/j, and 3 % noise": np.where(fall <= 16, 1.0 / fall, 0.1 / side),
        "12 alike, and noise": np.where(fall <= 12, 1.0, 0.02),
    }
    print(f"{PROBES} probes, {STEPS} steps, side {side}, {options.seeds} seeds\n")
    rows = [row(name, values / values.sum(), options.seeds) for name, values in spectra.items()]
    print(results.table(("eigenvalues", *(f"{name}: exact, found, held" for name in NAMES)), rows))


def row(name: str, values: NDArray[np.float64], seeds: int) -> list[str]:
    """Return what the sketch says of one matrix: the mean and standard deviation over seeds, and what errors hold."""
    side = values.size
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((side, side)))[0].astype(np.float32)
    scales = values.astype(np.float32)
    exact = effective_ranks(values)
    found, errors = np.empty((seeds, 3)), np.empty((seeds, 3))

    def apply(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return (((rows @ basis) * scales) @ basis.T).astype(np.float32, copy=False)

    for seed in range(seeds):
        probes = np.random.default_rng([1, seed]).choice([-1.0, 1.0], (PROBES, side)).astype(np.float32)
        quadrature, _ = lanczos(apply, probes, 1, STEPS)
        (found[seed],), (errors[seed],) = quadrature.ranks()
    allowed = errors * np.array([1.0, 2.0, 2.0]) + 1e-4 * exact  # and rounding to float32
    held = (np.abs(found - exact) <= allowed).mean(axis=0)
    means, spread = found.mean(axis=0), found.std(axis=0)
    return [name, *(f"{exact[i]:.4g}, {means[i]:.4g} ± {spread[i]:.2g}, {held[i]:.0%}" for i in range(3))]


if __name__ == "__main__":
    main()
