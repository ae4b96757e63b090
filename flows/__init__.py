"""Prefect flows over the stages. They say what runs when; every fact lives in the stores' manifests."""
