"""Extractors turn images into region features and captions into token features; they know no store and no plan.

- `extractors.config`: settings of all extractors, without heavy imports.
- `extractors.nn`: weights files, and networks prepared for inference.
- `extractors.regions`: base class of region extractors, torchvision, grid and detectron2 extractors, extraction of
  many images.
- `extractors.bottom_up`: the Visual Genome bottom-up model.
- `extractors.text`: token features of BERT-like models.
- `extractors.demo_detector`: training of the detector that ships with this repository.
- `extractors.registry`: builds the region extractor of a configuration.
"""
