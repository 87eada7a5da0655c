"""The state of this process that a test may change and the next one must not find changed."""

import locale
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

OF_PYTEST = "PYTEST_CURRENT_TEST"


@contextmanager
def put_back() -> Iterator[None]:
    """Restore what a block changed: environment, folder, umask, locale, modules' path, torch."""
    environment, folder, path = dict(os.environ), os.getcwd(), list(sys.path)
    umask = os.umask(0)
    os.umask(umask)
    spoken = locale.setlocale(locale.LC_ALL)
    dtype, n_threads = torch.get_default_dtype(), torch.get_num_threads()
    products = torch.get_float32_matmul_precision()
    strict = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        _restore_environment(environment)
        os.chdir(folder)
        os.umask(umask)
        sys.path[:] = path
        if locale.setlocale(locale.LC_ALL) != spoken:
            locale.setlocale(locale.LC_ALL, spoken)
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != n_threads:
            torch.set_num_threads(n_threads)
        torch.set_float32_matmul_precision(products)
        if torch.are_deterministic_algorithms_enabled() != strict:
            torch.use_deterministic_algorithms(strict, warn_only=only_warns)


def _restore_environment(before: dict[str, str]) -> None:
    for name in set(os.environ) - set(before) - {OF_PYTEST}:
        del os.environ[name]
    for name, value in before.items():
        if name != OF_PYTEST and os.environ.get(name) != value:
            os.environ[name] = value
