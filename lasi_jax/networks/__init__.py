"""Networks whose weights the user has, and the files of weights; imported by name."""

from lasi_jax.networks import lpips_heads, squeezenet, trunks, weight_files

__all__ = ["lpips_heads", "squeezenet", "trunks", "weight_files"]
