import platform
import subprocess
import sys

import pytest

CODE = """
import resource, sys
import numpy as np
from service.allocator import keep_freed_memory

def work(rounds):
    for _ in range(rounds):
        arrays = [np.ones((480, 640), np.int32) for _ in range(12)]  # freed before the next are made
        del arrays

if sys.argv[1] == "kept":
    keep_freed_memory()
work(3)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work(20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    result = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True)
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's")
def test_arrays_of_one_image_after_the_other_lie_in_the_same_memory():
    assert page_faults("kept") < page_faults("given back") / 10
