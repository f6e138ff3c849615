"""Secrets taken out of text that is kept for good: command lines, variables, addresses, diffs.

A name that says "secret" loses its value; a value that looks like a credential goes whatever it is called. It is a
net, not a wall: what looks like ordinary text is not found. Where it errs, it is meant to hide too much.

Each row takes linear time: a name is tried from its first character only and never given back, and what may fail late
is bounded.
"""

import re
from collections.abc import Sequence

HIDDEN = "<redacted>"

# Whole segments of a name, between _ - . digits and the humps of camel case: `db_pass`, `apiKey`, not `monkey`, `path`.
_SEGMENT = r"(?i:auth|pass|pw|pat|pin|sig|jwt|webhook|keys?)"
# These tell wherever a segment ends: `HFTOKEN`, `pgpassword`, `apikey`; not `tokenizer`.
_ENDING = r"""(?i:token|secret|passw(?:or)?d|passphrase|pwd|credential|cookie|authorization|signature
    |(?:api|access|secret|private|auth)key|(?:db|pg|my|user|root)pass)(?i:s?)"""
# Names with such a segment that hold no secret: `pin_memory`, `token_file`, `key_padding_mask`, `eos_token`.
_HARMLESS = r"""(?i:(?:[\w.-]*[_.-])?(?:memory|path|file|dir|mask|ids|type|name|shape|embeddings?|input_signature
    |(?:pad|eos|bos|mask|unk|sep|cls|special|stop)[_-]?tokens?))(?![\w.-])"""
_NAME = rf"""(?<![\w.-])(?!{_HARMLESS})(?P<name>(?>[\w.-]*?(?=[aAcCdDjJkKmMpPrRsStTuUwW])
    (?:(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])){_SEGMENT}|{_ENDING})
    (?:(?![A-Za-z])|(?<=[a-z])(?=[A-Z]))[\w.-]*+))"""

_TYPE = r"(?:Optional\[str\]|Final|SecretStr|[Ss]tr(?:ing)?|bytes|int|float|bool|Any)(?:[ ]?\|[ ]?None)?"
_PLAIN = re.compile(rf"(?i:none|null|true|false)|{_TYPE}")
_NUMBER = re.compile(r"[\d_.]+(?:e[+-]?\d+)?[kmb]?", re.IGNORECASE)
# A number under such a name is no secret (`--token-length 128`); under another it may be (`--pin 1234`).
_COUNT = re.compile(
    r"(?i)(?<![a-z])(?:max|min|num|n|len|length|count|size|dims?|per|total|limit|budget)(?![a-z])|tokens$"
)

_CODE = r"(?!(?:os|self|args|jax|keras|layers|tf|torch|np|nn)\.[a-zA-Z_]|lambda\b)"
_QUOTED = r"""(?i:[rbfu]{0,2})(?:(?P<triple>\"{3}|'{3})(?s:.*?)(?=(?P=triple)|\n@@[ ]|\ndiff[ ]|\Z)
    |(?P<quote>["'`])(?:\\.|(?!(?P=quote))[^\\\n])++)"""
_WORD = r"""[^\s"'`]++(?:["'`](?=\w)[^\s"'`]*+)*+"""
_OPENING = re.compile(r"""(?i)(?:[rbfu]{0,2}(?:"{3}|'{3}|["'`]))?""")
# On to the next line, and over its sign in a diff, only where a quote begins there.
_GAP = r"""[ \t]*+(?:\(?[ \t]*+\\?\n[-+ ]?[ \t]*+(?=[rbfu]{0,2}["']))?"""
_USER = r"""(?!\d+:\d+(?!\S)|[\w+]+://|[A-Za-z]:[\\/])[^\s:"']+:[^\s"']+"""
# `-phunter2` as mysql takes it, but not the long options that some programs spell with one dash, nor `-p8080`.
_GLUED = r"""-p(?!\d{1,5}(?!\S)|no:|(?:ath|ort|atience|retrained|refix|recision|roject|reset|rofile|arams?|artition
    |rocs|rocess(?:es)?|arallel|rint|rogress|olicy|lot|i|g|ipe|thread|edantic|ix_fmt
    |ass(?:wd|word|phrase)?|at|in|wd?)(?![A-Za-z0-9]))[^\s"']+"""

_ROWS = [
    re.compile(rf"(?x){row}")
    for row in (
        # a private key, also one whose end was cut off
        r"(?P<value>-----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY(?:[ ]BLOCK)?-----(?s:.*?)(?:-----END[ ][A-Z ]*-----|\Z))",
        # https://user:p@w/d@host: after a colon up to the last @; without one up to the path
        r"""(?i)(?P<keep>\b[a-z][a-z0-9+.-]{1,20}://)
            (?P<value>[^\s/@:"'`]{0,200}:[^\s"'`]{0,400}|[^\s/"'`]{1,400})(?=@)""",
        # user:password@host; but no image:tag@sha256:, a[1:]@b, nor our own run:name@step
        r"""(?<![\w/:.@<-])(?!(?:run|model):)(?P<keep>[\w.-]++:)(?!//)(?P<value>[^\s"'`\])]{1,200})(?=@(?!sha256:))""",
        # addresses whose path is the secret: Slack, Discord, Teams, Telegram
        r"""(?i)(?P<keep>hooks\.slack\.com/|discord(?:app)?\.com/api/(?:v\d+/)?webhooks/|webhook\.office\.com/
            |api\.telegram\.org/bot)(?P<value>[^\s"'`<>]+)""",
        # an HTTP header, to the end of its line or quotation
        r"""(?i)(?P<keep>(?<!\w)(?:proxy-)?authorization[ \t]*+[:=][ \t]*+)(?P<value>[^\s"'][^\n"']*+)""",
        # Bearer x, Basic x
        r"(?i)(?P<keep>\b(?:bearer|basic(?=[ \t]+[a-z+/]*[\d=]))[ \t]+)(?P<value>[A-Za-z0-9._~+/=-]{6,})",
        # credentials that show by how they begin
        r"""(?<![A-Za-z0-9])(?P<value>(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}     # AWS
            | gh[pousr]_[A-Za-z0-9]{12,} | github_pat_\w{12,} | glpat-[\w-]{12,} # GitHub, GitLab
            | hf_[A-Za-z0-9]{16,} | KGAT_\w{12,} | r8_[A-Za-z0-9]{16,}         # Hugging Face, Kaggle, Replicate
            | [sr]k_(?:live|test)_\w{8,} | sk-[\w-]{20,} | gsk_[A-Za-z0-9]{16,} # Stripe, OpenAI and others, Groq
            | xox[abeoprs]-[\w-]{10,} | SG\.[\w-]{10,}(?:\.[\w-]+)?            # Slack, SendGrid
            | AIza[\w-]{30,} | ya29\.[\w.-]{10,} | nvapi-[\w-]{12,}            # Google, NVIDIA
            | npm_[A-Za-z0-9]{20,} | pypi-[\w-]{16,} | do[opr]_v1_\w{12,}      # npm, PyPI, DigitalOcean
            | (?<![\w-])eyJ[\w-]{8,}+\.[\w-]{8,}+(?:\.[\w-]*)?                 # JSON web token
            | (?<![\w-])[MNO][\w-]{22,28}\.[\w-]{6}\.[\w-]{27,})""",  # Discord
        # the default of an option that is declared: ("--token", type=str, default="x")
        rf"""(?P<keep>["']{_NAME}["'],(?s:(?!add_argument|option\().){{0,200}}?\bdefault[ ]?=[ ]?)
            (?P<value>{_QUOTED})""",
        # a name and its value as neighbours: setdefault("API_KEY", "x"), ["--token", "x"]
        rf"""(?P<keep>["']{_NAME}["'],{_GAP})(?P<value>{_QUOTED})""",
        # password: some words, up to the end of the line
        rf"""(?m)(?P<keep>^[-+ ]?[ \t]*+(?:-[ ])?{_NAME}:[ \t]++)(?!{_TYPE}[ \t]*+(?:[=,)#]|$)){_CODE}
            (?P<value>[^\s"'`][^\n"'`]*+)$""",
        # a name, a sign, a value: token=x, token = other = x, token: str = "x", environ["TOKEN"] = x, ?sig=x,
        # getenv("TOKEN") or x, and JSON with its quotes escaped
        rf"""(?P<keep>{_NAME}(?:(?:\\?["'][\])]{{0,2}})?[ \t]*+(?::[ ]*+{_TYPE}[ ]*+(?==))?(?:=>|[:=!?|]?=|:)
            |["'][\])]+[ ]?(?:or|\|\|)[ ]){_GAP}(?:[A-Za-z_][\w.]*+[ ]=[ ])*+){_CODE}(?P<value>{_QUOTED}|{_WORD})""",
        # --token x, and -token x within a line; the next long option is not the value
        rf"""(?P<keep>(?:(?=--)|(?<=[ \t])(?=-)){_NAME}[ \t]++(?:\\\n[-+ ]?[ \t]*+)?+)(?!--[A-Za-z]|[=:])
            (?P<value>{_QUOTED}|{_WORD})""",
        # export TOKEN x, ENV TOKEN x, set -x TOKEN x
        rf"""(?P<keep>\b(?i:export|setenv|set|env|arg)[ \t]++(?:-\w+[ \t]++)*+{_NAME}[ \t]++)(?![=:])
            (?P<value>{_QUOTED}|{_WORD})""",
        # netrc, in one line or in several
        r"""(?m)(?P<keep>(?:^[-+ ]?[ \t]*+|\b(?:machine|login)[ \t]++\S++[ \t]++)passw(?:or)?d[ \t]++)(?![=:<])
            (?P<value>\S++)""",
        # curl -u me:password
        rf"""(?P<keep>(?<!\S)(?:-u|--(?:proxy-)?user)[ \t=]*+["']?)(?P<value>{_USER})""",
        # mysql -phunter2
        rf"(?<=[ \t])(?P<value>{_GLUED})",
        # long words that no person has typed (see `_is_typed`), but for commits and git's index lines
        r"""(?<![^\s"'`=:(,\[{<>|&;])(?<!commit[ ])(?<!index[ ])[-+]?(?P<random>[A-Za-z0-9+/_-]{32,}+={0,2}+)
            (?![A-Za-z0-9+/_=-]|\.\w)""",
    )
]

_OPTION = re.compile(rf"(?x)(?=-){_NAME}")
_ASSIGNED = re.compile(rf"""(?x)(?P<keep>[^\s"']*?{_NAME}[ ]?[=:][ ]?)(?P<value>(?s:.+))""")
_GLUED_ARGUMENT = re.compile(rf"(?x){_GLUED}")
_USER_OPTION = re.compile(r"-u|--(?:proxy-)?user")
_USER_ARGUMENT = re.compile(_USER)


def redact(text: str) -> str:
    """Return ``text`` without what looks like a credential; everything else stays as it is.

    >>> redact("git clone https://me:hunter2@host/x.git --api-key=abc123 --lr=0.1")
    'git clone https://<redacted>@host/x.git --api-key=<redacted> --lr=0.1'
    """
    for row in _ROWS:
        text = row.sub(_hide, text)
    return text


def redact_arguments(arguments: Sequence[str]) -> list[str]:
    """Return a command line without credentials, ``--token VALUE`` in two words included.

    >>> redact_arguments(["train.py", "--token", "abc", "--epochs", "3"])
    ['train.py', '--token', '<redacted>', '--epochs', '3']
    """
    return [_redact_argument(*pair) for pair in zip(["", *arguments], arguments, strict=False)]


def redact_variable(name: str, value: str) -> str:
    """Return the value of a variable, hidden where its name says that it is a secret.

    >>> redact_variable("HF_TOKEN", "abc"), redact_variable("OMP_NUM_THREADS", "4")
    ('<redacted>', '4')
    """
    is_telling = re.fullmatch(rf"(?x){_NAME}", name) is not None
    return HIDDEN if is_telling and value else redact(value)


def _redact_argument(before: str, argument: str) -> str:
    """Hide an argument that stands after ``before``; unlike in a text, it is known where a value ends."""
    if _OPTION.fullmatch(before) and argument and not re.match(r"--[A-Za-z]", argument):
        return argument if _is_plain(before, argument) else HIDDEN
    if _USER_OPTION.fullmatch(before) and _USER_ARGUMENT.fullmatch(argument):
        return HIDDEN
    if _GLUED_ARGUMENT.match(argument):
        return HIDDEN
    assigned = _ASSIGNED.fullmatch(argument)
    if assigned and not _is_plain(assigned["name"], assigned["value"]):
        return redact(assigned["keep"]) + HIDDEN
    return redact(argument)


def _hide(match: re.Match[str]) -> str:
    """Put `HIDDEN` where the row found a value; the opening quote stays, and so does what no one has to hide."""
    found = match.groupdict("")
    if "random" in found:
        return match[0] if _is_typed(found["random"]) else match[0].replace(found["random"], HIDDEN)
    if _is_plain(found.get("name", ""), found["value"]):
        return match[0]
    opening = _OPENING.match(found["value"])
    return found.get("keep", "") + (opening[0] if opening else "") + HIDDEN


def _is_plain(name: str, value: str) -> bool:
    """Whether ``value`` says nothing under this name: a flag, a type, or the number of something."""
    value = value.partition(" #")[0].strip().strip("\"'").rstrip(",;:)]}")
    return bool(name) and bool(_PLAIN.fullmatch(value) or (_COUNT.search(name) and _NUMBER.fullmatch(value)))


def _is_typed(value: str) -> bool:
    """Whether a long word is a path, a name made of words and numbers, or the name of a GPU."""
    if not (re.search(r"\d", value) and re.search(r"[A-Za-z]", value)):
        return True
    if re.match(r"/[a-z]+\d{0,4}/|(?:GPU|MIG)-[0-9a-f]{8}-", value):
        return True
    parts = [part for part in re.split(r"[-_/+=]", value) if len(part) > 4 and not re.fullmatch(r"\d{1,14}", part)]
    words = [part for part in parts if re.fullmatch(r"(?:[A-Za-z][a-z]{1,19}|[A-Z]{2,20})\d{0,8}", part)]
    return sum(map(len, words)) >= 0.6 * sum(map(len, parts))
