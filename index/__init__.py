"""Vectors into neighbors: a sharded faiss inverted file, its metadata, and versions that are published whole."""
