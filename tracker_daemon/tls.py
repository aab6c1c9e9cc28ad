"""What a TLS handshake that failed means, in words for whoever has to put it right."""

from __future__ import annotations

import ssl

_NO_CERTIFICATE_IN_FILE = ("NO_CERTIFICATE_OR_CRL_FOUND", "NO_START_LINE")
_NO_TLS_SPOKEN = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")


def explained(error: BaseException | None, authority: str, certificate: str) -> str | None:
    """Say what is wrong and what to do; None: the error is not about TLS.

    `authority` is where this side names the CA that it trusts, `certificate` where it names its own.
    """
    if isinstance(error, ssl.SSLError) and isinstance(error.__cause__, ssl.SSLError):
        error = (
            error.__cause__
        )  # aiohttp wraps what happens to wss://, and its own tells neither reason nor code
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is refused: {_fault(error, authority)}"
    if not isinstance(error, ssl.SSLError):
        return None
    reason = error.reason or str(error)
    if reason in _NO_CERTIFICATE_IN_FILE:
        return f"a file that {authority} or {certificate} names holds no certificate or no key ({reason})"
    if reason in _NO_TLS_SPOKEN:
        return f"what answers there speaks no TLS ({reason}): look at host and port"
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return hung_up(certificate, reason)
    return f"no encrypted connection comes about ({reason}): look into the server's log"


def hung_up(certificate: str, reason: str = "it hung up") -> str:
    """Say that a server which demands a certificate does not like the one that `certificate` names."""
    return (
        f"the server refuses this side's certificate ({reason}): the one that {certificate} names must be "
        "signed by a CA that the server trusts, and be valid today"
    )


def _fault(error: ssl.SSLCertVerificationError, authority: str) -> str:
    match error.verify_code:  # X509_V_ERR_… of OpenSSL
        case 10:
            return "it has expired; renew it on the server, or set the clock of this machine"
        case 9:
            return "it is not valid yet; look at the clocks of both machines"
        case 62 | 64:
            return f"{error.verify_message} Name the server as its certificate does, or have another issued"
        case 2 | 18 | 19 | 20 | 21:
            return f"no CA that is trusted here has signed it; name the file of the right CA in {authority}"
        case _:
            return error.verify_message
