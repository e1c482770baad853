"""Networks whose weights the user has, and the files of weights; imported by name."""
