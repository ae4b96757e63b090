"""TERN: turn stored features into one unit vector per image and caption, and learn how.

Layers from low to high: `presets`, `config` and `card` (settings and model card, without torch), `networks`, `losses`,
`batching` (stores to padded batches), `evaluation` (metrics, without torch), `model` (load and use a trained model),
`parallel` (several processes), `training`. The package does not know images, text encoders, FAISS or Prefect.
"""
