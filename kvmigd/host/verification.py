"""OpenSSL's judgement of a certificate in words."""

from __future__ import annotations

import ssl


def why_refused(error: ssl.SSLCertVerificationError) -> str:
    """What OpenSSL has against a certificate (x509_vfy.h), as the rest of a sentence that begins with its name."""
    match error.verify_code:
        case 9:
            return "is not valid yet"
        case 10:
            return "has expired"
        case 2 | 7 | 18 | 19 | 20 | 21:
            return "was not issued by this host's CA"
        case 23:
            return "has been revoked"
        case 26:
            return "is not meant for this use (extended key usage)"
        case 62 | 64:
            return "is for another host"
        case _:
            return f"is refused: {error.verify_message}"
