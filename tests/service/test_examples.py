import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["service.geometry", "service.rle", "service.segments"])
def test_examples_in_docstrings_are_true(module):
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert attempted
    assert not failed
