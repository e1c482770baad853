"""One question per file; the only place that reads files, trains and plots."""
