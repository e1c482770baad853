"""A file is a question, a folder is a part: answers are in `answers`."""
