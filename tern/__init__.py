"""Rows of features into one unit vector, and how to learn that."""
