"""Tests of the six packages, in the folders of the packages; see CONTRIBUTING.md for the rules."""
