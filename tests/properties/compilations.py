"""How often XLA compiled: what is called again, with arrays of the same shapes, must not."""

import contextlib

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"
_open: list[list[float]] = []


def _count(event: str, seconds: float, **_):
    if event == _EVENT:
        for counted in _open:
            counted.append(seconds)


# One listener for the whole process: jax has no public way to take one back.
jax.monitoring.register_event_duration_secs_listener(_count)


@contextlib.contextmanager
def compilations():
    """with compilations() as seconds: ... leaves one entry for each program compiled within."""
    seconds: list[float] = []
    _open.append(seconds)
    try:
        yield seconds
    finally:
        _open.remove(seconds)
