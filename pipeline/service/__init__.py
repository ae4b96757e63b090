"""Search service over HTTP: a plan goes in, a page and an API of JSON come out. Needs the extra `serve`."""
