"""A merge on a device of torch's, beside the same merge by the kernels: ``python device_merge.py [cuda|mps|cpu]``."""

import sys

import numpy as np

import mergewise as mw

if __name__ == "__main__":
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    rng = np.random.default_rng(0)
    base = {"layers.0.weight": rng.normal(size=(256, 256)).astype(np.float32)}
    experts = [
        {name: (array + 0.01 * rng.normal(size=array.shape)).astype(np.float32) for name, array in base.items()}
        for _ in range(3)
    ]
    for method, settings in (("dare_ties", {"density": 0.3, "rescale": "expected"}), ("iso_c", {})):
        by_kernels = mw.merge_arrays(method, base, experts, **settings)["layers.0.weight"]
        on_device = mw.merge_arrays(method, base, experts, device=device, **settings)["layers.0.weight"]
        apart = float(np.max(np.abs(on_device - by_kernels)))
        print(f"{method} on {device}: {'the same but for a rounding step' if apart <= 5e-7 else apart}")
