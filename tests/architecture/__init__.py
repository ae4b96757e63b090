"""Tests of the source code itself: imports, sizes, language, documents, light starts, files of older versions."""
