"""The weighted least squares at every element: neighbours, sums, systems, solutions."""
