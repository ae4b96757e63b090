"""Small images of the page: made once per content of a file, kept in memory and on disk, both within a bound."""
