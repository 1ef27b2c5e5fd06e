"""Writes the golden files of this folder. Run from the root, where ../shared/parity lies beside the repository.

merge_discs.npz: the panoptic maps that the official K-Net code (commit 5e50ee5, run with torch 2.13.0 and numpy 1.26.4)
makes of 153 synthetic discs; the seed, PCG64(11), and the rule of the discs are in tests/model/test_merge.py.

mmsegmentation.npz is not written here: samples (tests/parity/test_mmsegmentation.py says which) of what mmsegmentation
1.2.2 makes of the inputs of the parity references in float64, with the weights of their rule.
"""

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
PARITY = HERE.parents[2] / "shared" / "parity" / "golden"


def merge_discs() -> None:
    """Values as in the official code: class + 1000 * running number of the segment; 133 = void."""
    with np.load(PARITY / "components.npz") as file:
        maps = {name: file[name] for name in ("merge_pan_thr0.3_ov0.6", "merge_pan_thr0.9_ov0.3")}
    np.savez_compressed(HERE / "merge_discs.npz", **maps)


if __name__ == "__main__":
    merge_discs()
