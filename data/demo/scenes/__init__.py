"""Content of demo scenes: a random seed in, a place and groups of things out; independent of pixels."""
