"""Sub-package `extractors.demo_detector`."""
