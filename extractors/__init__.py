"""Photographs and sentences to rows of features: the only home of torchvision and transformers."""
