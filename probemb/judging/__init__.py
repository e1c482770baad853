"""Whether retrieval and uncertainty can be trusted."""
