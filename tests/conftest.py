import os

# Before JAX starts: float64 is available, and float32 is asked for by name where it is tested.
os.environ["JAX_ENABLE_X64"] = "1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
