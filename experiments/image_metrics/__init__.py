"""Image metrics by name, and what is asked of them: their order, choices, opinions, competition."""
