"""Secrets taken out of text that is kept for good: command lines, variables, addresses, diffs.

A name that says "secret" loses its value; a value that looks like a credential goes whatever it is called. It is a
net, not a wall: what looks like ordinary text is not found.
"""

import re
from collections.abc import Sequence

HIDDEN = "<redacted>"

_TELLING_NAME = r"[\w.-]*(?:key|token|secret|passw(?:or)?d|passphrase|pwd|credential|cookie|authorization|signature)s?"
# Names such as `primary_key=id` or `keyboard` end otherwise; `max_tokens=512` and `key=None` are worth keeping.
_PLAIN = r"(?:\d{1,9}|none|null|true|false)"
# The look behind is also what keeps all this linear: a run of such characters is tried from its beginning only.
_NAMED = re.compile(
    rf"""(?ix) (?<![\w.-]) (?P<name> -{{0,2}} {_TELLING_NAME}) (?P<quote>["']?) (?P<sign>\s*(?:=>|:=|[=:])\s*)
    (?P<open>["']?) (?! {_PLAIN} (?:["',;)\]}}\s]|$) ) (?P<value>[^\s"',;)\]}}]{{3,}})""",
)
_URL = re.compile(r"(?i)\b(?P<scheme>[a-z][a-z0-9+.-]{1,20}://)[^\s/@'\"]+@")
_BEARER = re.compile(r"(?i)\b(?P<kind>bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
_KNOWN = re.compile(
    r"""(?x) (?<![\w-])(?:
        (?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}            # AWS
      | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_\w{20,}  # GitHub
      | glpat-[\w-]{16,}                                # GitLab
      | hf_[A-Za-z0-9]{20,}                             # Hugging Face
      | sk-[\w-]{20,}                                   # OpenAI and others
      | xox[abeoprs]-[\w-]{10,}                         # Slack
      | AIza[\w-]{30,}                                  # Google
      | eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*                 # JSON web token
    )""",
)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
# After '=' or ':' only: bare hashes in a diff (git's own index lines) are no secrets.
_RANDOM = re.compile(r"""(?P<sign>[=:]\s*["']?)(?P<value>[A-Za-z0-9+/_-]{32,}={0,2})(?![A-Za-z0-9+/_.-])""")
_SECRET_OPTION = re.compile(rf"-{{1,2}}{_TELLING_NAME}", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(_TELLING_NAME, re.IGNORECASE)


def redact(text: str) -> str:
    """Return ``text`` without what looks like a credential; everything else stays as it is.

    >>> redact("git clone https://me:hunter2@host/x.git --api-key=abc123 --lr=0.1")
    'git clone https://<redacted>@host/x.git --api-key=<redacted> --lr=0.1'
    """
    text = _PRIVATE_KEY.sub(HIDDEN, text)
    text = _URL.sub(rf"\g<scheme>{HIDDEN}@", text)
    text = _BEARER.sub(rf"\g<kind> {HIDDEN}", text)
    text = _KNOWN.sub(HIDDEN, text)
    text = _NAMED.sub(rf"\g<name>\g<quote>\g<sign>\g<open>{HIDDEN}", text)
    return _RANDOM.sub(_hide_random, text)


def redact_arguments(arguments: Sequence[str]) -> list[str]:
    """Return a command line without credentials, ``--token VALUE`` in two words included.

    >>> redact_arguments(["train.py", "--token", "abc", "--epochs", "3"])
    ['train.py', '--token', '<redacted>', '--epochs', '3']
    """
    found: list[str] = []
    after_option = False
    for argument in arguments:
        hidden = after_option and not argument.startswith("-")
        found.append(HIDDEN if hidden else redact(argument))
        after_option = _SECRET_OPTION.fullmatch(argument) is not None
    return found


def redact_variable(name: str, value: str) -> str:
    """Return the value of a variable, hidden where its name says that it is a secret.

    >>> redact_variable("HF_TOKEN", "abc"), redact_variable("OMP_NUM_THREADS", "4")
    ('<redacted>', '4')
    """
    return HIDDEN if _SECRET_VARIABLE.fullmatch(name) and value else redact(value)


def _hide_random(match: re.Match[str]) -> str:
    """Hide what no person has typed: long, with digits and letters mixed. Paths and plain words stay."""
    value = match["value"]
    is_path = "/" in value and not value.endswith("=") and all(len(part) < 24 for part in value.split("/"))
    is_mixed = any(char.isdigit() for char in value) and any(char.isalpha() for char in value)
    return match["sign"] + (HIDDEN if is_mixed and not is_path else value)
