"""Code that several test files share; it contains no tests."""
