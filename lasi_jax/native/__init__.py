"""LASI's kernel for CPUs, in C++: compiled at first use where there is a compiler."""

from lasi_jax.native import build


def status() -> str:
    """Which form LASI runs in on a CPU, and why, in one line.

    The kernel is compiled at the first call of its kind (a few seconds for each N, number of
    channels, precision and derivative), and then kept in the user's cache folder.
    `LASI_JAX_NATIVE=0` in the environment turns it off. On an accelerator, for images of more
    than three long axes and in exported programs the XLA form runs.

    Example:
      >>> status().split()[0] in ("native:", "XLA:")
      True
    """
    reason = build.switched_off() or build.failure()
    if reason is None:
        try:
            return f"native: compiled by {build.compiler()[0]}, kept in {build.folder()}"
        except (build.Unavailable, OSError) as error:
            reason = str(error)
    return f"XLA: {reason}"
