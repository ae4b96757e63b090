"""Imports that stages make when they begin, for a process from which others are forked.

The packages import torch, its compiler, transformers and the networks lazily. They take three to five seconds of CPU in
each process that does not inherit them.
"""
# ruff: noqa: F401  # nothing is used here

import matplotlib.pyplot
import torch._dynamo
import transformers.models.bert.modeling_bert

import extractors.regions.faster_rcnn
import extractors.text.extractor
import pipeline.pages
import pipeline.runs
import pipeline.search
import pipeline.stages.embed
import tern.model.query_export
import tern.training.train
