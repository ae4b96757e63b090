"""A dataset on disk, turned into records; feature and vector stores. Knows nothing of models."""
