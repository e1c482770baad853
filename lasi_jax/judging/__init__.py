"""How metrics are held against people's judgements."""
