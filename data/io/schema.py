"""Numbers of formats on disk: say whether an older or a newer version of this program wrote a file."""


def describe_other_version(path: object, what: str, found: object, expected: int, program: str = "") -> str:
    """Describe a file with a number that this version does not read, as a sentence; what to do next follows it.

    A reader compares the number before it reads the rest, so that a file of another version is never called damaged.

    Args:
        path: File or folder.
        what: Name of the number, such as `store schema`.
        found: Number in the file.
        expected: Number that this version reads.
        program: Version of this program that wrote `found`; empty if it is not known.
    """
    if not isinstance(found, int) or isinstance(found, bool):
        return f"{path} has {what} {found!r}, which no version of this program writes; this version reads {expected}."
    noun = what.rpartition(" ")[2]
    writer = f"version {program}" if program else "an older version" if found < expected else "a newer version"
    return f"{path} has {what} {found}, written by {writer} of this program; this version reads {noun} {expected}."
