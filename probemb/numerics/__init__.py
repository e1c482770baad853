"""What everything stands on: checked arguments, lengths, Bessel functions, pairs in blocks."""
