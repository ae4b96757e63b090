"""Headers that every answer of the search service has, so that a browser does not let other pages misuse it."""

SECURITY_HEADERS = [
    # The pages load files of this service only, and have neither script nor style in their HTML. `blob:` is the photo
    # that a user searches with, and images that were loaded with a token.
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
