"""Prefect flows over the stages of a pipeline. They decide what runs when; all facts are in the stores' manifests."""
