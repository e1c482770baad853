"""Distributions of images and captions: methods, training, evaluation, page and pictures."""
