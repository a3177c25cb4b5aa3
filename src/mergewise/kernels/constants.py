"""Numbers that kernels and those who call them share."""

__all__ = [
    "APART",
    "BF16",
    "BLOCK_LANES",
    "BLOCK_ROWS",
    "CODES",
    "COLUMNS",
    "ENCODE_LIMIT",
    "F16",
    "F32",
    "F64",
    "JOINT_EXPERTS",
    "LANES",
    "LINE",
    "MASKED_EXPERTS",
    "MOST_BINS",
    "MOST_EXPERTS",
    "NORMALIZE",
    "PADDING",
    "SURVEY_TILE",
    "TILE",
    "VOTING_TILE",
]

TILE = 1024
"""Elements per tile: a handful of float64 tiles stay in the first-level caches."""

VOTING_TILE = 512
"""Elements per tile where there is a row per expert: what is worked on stays in the first-level cache."""

SURVEY_TILE = 512
"""Elements per tile of a survey: a row of float32 per model stays in the first-level cache."""

JOINT_EXPERTS = 8
"""Up to so many experts both masks of an element are counted together: one count for every element."""

MASKED_EXPERTS = 16
"""Up to so many experts both masks of an element are bits of one word of 32."""

MOST_EXPERTS = 64
"""A mask has no more bits."""

COLUMNS = 512
"""Columns of a low-rank product taken at once: their part of the right factor stays in the second-level cache."""

PADDING = 64
"""Rows that are ranked are padded to a multiple of so many elements: loops over them leave no remainder."""

MOST_BINS = 4096
"""Bins that the elements of a row are counted in, at most: four counts of each stay in the second-level cache."""

LANES = 16
"""Sums are taken in this many lanes, whatever the width of a machine's registers, so that they are equal everywhere."""

BLOCK_ROWS, BLOCK_LANES = 3, 16
"""Rows of either side whose products are taken together, which saves loads, and the lanes of each such sum."""

MARK_LANES = 64
"""Elements whose claims are marked at once: a bit of each makes a word."""

LIMIT_ROWS = 5
"""Rows of lanes that say what an expert claims."""

LINE = 64
"""Bytes of a cache line, which vectors should not straddle."""

APART = 192
"""Bytes between tiles: a load after a store to the same place of another page waits for it."""

F64, F32, F16, BF16 = 0, 1, 2, 3

CODES = {"F64": F64, "F32": F32, "F16": F16, "BF16": BF16}
"""Kernel code of each floating storage dtype, by its safetensors name."""

ENCODE_LIMIT = {
    "F64": float("inf"),
    "F32": float.fromhex("0x1.ffffffp+127"),
    "F16": 65520.0,
    "BF16": float.fromhex("0x1.ffp+127"),
}
"""The smallest magnitude that rounds to infinity, by storage dtype (for F64 itself: infinity)."""

NORMALIZE = {"none": 0, "weights": 1, "agreeing": 2, "count": 3}
"""How votes are normalised, by the name that a voting program gives it."""
