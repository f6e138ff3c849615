import time

import pytest

from modelkeep.training.redaction import HIDDEN, redact, redact_arguments, redact_variable

# No token stands here in one piece, so that no scanner of secrets takes this file for a leak.
SECRET = "aB3dEf6hIj9kLmN0" + "pQr5tUv8xYz1bC4e"
HEX = "0123456789abcdef" * 2 + "01234567"
BODY = "Hunter2hunter2" * 3
# Whatever is left of these after redaction is a leak.
LEAKS = ("hunter2", SECRET.lower(), HEX, "phrase", "cdef", "12345678")

PREFIXES = [
    *(
        "hf" + "_",
        "ghp" + "_",
        "ghs" + "_",
        "github" + "_pat_",
        "glpat" + "-",
        "sk" + "_live_",
        "npm" + "_",
        "pypi" + "-",
    ),
    *("dop" + "_v1_", "SG" + ".", "gsk" + "_", "r8" + "_", "ya29" + ".", "nvapi" + "-", "KGAT" + "_", "sk" + "-"),
    *("xox" + "b-", "xox" + "a-", "xox" + "p-"),
]


def leaks(text: str) -> list[str]:
    return [leak for leak in LEAKS if leak in text.lower()]


@pytest.mark.parametrize(
    "text",
    [
        f"--api-key={SECRET}",
        "password: hunter2",
        "password: my hunter2 phrase",
        "password: string phrase",
        "DB_PASSWORD='hunter2'",
        "+DB_PASSWORD=ab;cdef,hunter2",
        'PASSWORD=ab"hunter2',
        '+    "client_secret": "hunter2",',
        r'+  "{\"token\": \"hunter2\"}"',
        "+TOKEN = 'hunter2'",
        "+TOKEN = b'hunter2'",
        '+    token: str = "hunter2"',
        '+    token: str | None = "hunter2",',
        "+HFToken = apiKey = 'hunter2'",
        "+PGPASSWORD=hunter2",
        '+if password == "hunter2":',
        '+os.environ["HF_TOKEN"] = "Plainhunter2secret"',
        "+os.environ['HF_TOKEN']='hunter2'",
        '+os.environ.setdefault("OPENAI_API_KEY", "hunter2")',
        '+os.environ.setdefault(\n+    "OPENAI_API_KEY",\n+    "hunter2",\n+)',
        '+os.getenv("HF_TOKEN") or "hunter2"',
        '+parser.add_argument("--token", default="hunter2")',
        '+parser.add_argument("--token", "-t", type=str, default="hunter2")',
        '+subprocess.run(["x", "--token", "hunter2"])',
        f"+client = Client('{HEX}')",
        f"+export WANDB_API_KEY {HEX}",
        "+export WANDB_API_KEY hunter2",
        "+ENV HF_TOKEN hunter2",
        f"+wandb login {HEX}",
        "+train.py --token hunter2 --lr 0.1",
        "+train.py --token \\\n+  hunter2",
        "+machine h login u password hunter2",
        "+machine h\n+  login u\n+  password hunter2",
        '+KEY = """hunter2\n+and hunter2\n+"""\n',
        "+KEY = '''\n+hunter2 and the diff was cut",
        '+KEY = (\n+    "hunter2"\n+)',
        "https://me:hunter2@host/repo.git",
        "https://hunter2@github.com/x/y",
        "https://user:p@hunter2@h/x",
        "https://user:p/hunter2@h/x",
        "https://p@hunter2@h/x",
        "user:p/hunter2@h",
        "postgres://u:hunter2@db:5432/x",
        "https://hooks.slack.com/" + "services/T000/B000/hunter2",
        "https://discord.com/api/" + "webhooks/123/hunter2",
        "https://discordapp.com/api/v10/" + "webhooks/123/hunter2",
        "https://x.blob.core.windows.net/c/f?sv=2024&sig=hunter2%3D",
        "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=hunter2==",
        "aws AKIA" + "IOSFODNN7HUNTER2 x",
        "Authorization: Bearer hunter2.hunter2",
        "curl -H 'Authorization: token abc hunter2' https://host",
        "curl -u me:hunter2 https://host",
        "mysql -u root -phunter2 db",
        "-----BEGIN RSA " + "PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN " + "PRIVATE KEY-----\nhunter2 and the diff was cut",
        f"+{BODY}{SECRET}{SECRET}\n",
        f"anything={SECRET}hunter2",
        "aws wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYhunter2KEY",
        "WANDB_API_KEY=0123456789abcdef0123456789abcdefhunter2",
        *(f"x {prefix}{BODY} y" for prefix in PREFIXES),
    ],
)
def test_a_secret_does_not_survive(text: str) -> None:
    found = redact(text)
    assert not leaks(found)
    assert HIDDEN in found
    assert redact(found) == found


@pytest.mark.parametrize(
    "words",
    [
        *(["--wandb", HEX], ["wandb", "login", HEX], ["login", SECRET + "=="], ["login", f"x-{SECRET}"]),
        *(["--pass", "Hunter2pw"], ["--pass=Hunter2pw"], ["--db-pass=hunter2"], ["--dbPass", "hunter2"]),
        *(
            ["--pw", "hunter2"],
            ["--auth", "hunter2"],
            ["--pat", "hunter2"],
            ["--pin", "12345678"],
            ["-token", "hunter2"],
        ),
        *(
            ["-u", "me:hunter2"],
            ["-ume:hunter2"],
            ["--user", "me:hunter2"],
            ["-phunter2"],
            ["-p12345678"],
            ["-psecret-hunter2"],
        ),
        *(["-H", "Authorization: token ghs0 hunter2"], ["-H", "X-Api-Key: hunter2 phrase"]),
        *(
            ["--password=12345678"],
            ["--password", "12345678"],
            ["--password", "-hunter2"],
            ["--password", "--8hunter2"],
        ),
        *(["--password=ab;cdef"], ["--password=ab,cdef"], ["--password=ab'cdef"], ["--password=-hunter2"]),
        *(["--api-key=my secret phrase"], ["--api-key", "my secret phrase"], ["+logger.api_key=my secret phrase"]),
        *(["--opt=api_key=my secret phrase"], ["--jwt=hunter2"], ["--webhook", "hunter2"], ["--credentials=hunter2"]),
        *(["https://hooks.slack.com/" + "services/T0/B0/hunter2"], ["https://user:p@hunter2@h/x"], ["h?sig=hunter2"]),
        *(["-password=my hunter2"], ["-private-key", "hunter2"], ["-pass", "hunter2"]),
        ["bash", "-c", "train.py --token hunter2 --password='my phrase'"],
        *(["x", prefix + BODY] for prefix in PREFIXES),
    ],
    ids=" ".join,
)
def test_a_secret_of_a_command_line_does_not_survive(words: list[str]) -> None:
    found = redact_arguments(["train.py", *words, "--lr", "0.1"])
    assert not leaks(" ".join(found))
    assert HIDDEN in " ".join(found)
    assert (found[0], found[-2:]) == ("train.py", ["--lr", "0.1"])


@pytest.mark.parametrize(
    "text",
    [
        "python train.py --lr=0.001 --epochs=20 --name=resnet-50",
        "max_tokens=512 num_keys=8 key=None token: true",
        "git@github.com:someone/project.git",
        "https://github.com/someone/project.git",
        "https://github.com/someone/project/blob/x@v1",
        "git+https://github.com/someone/project.git@" + HEX,
        "index 83db48f..bf2a1c9 100644",
        "commit db292f30123456789abcdef0123456789abcdef01",
        "-Subproject commit " + HEX,
        "data=/srv/datasets/imagenet/2012/train/shard-00001-of-01024.tfrecord",
        "for key in sorted(values): monkey = 3",
        "keyboard='us' tokenizer='bert' author='me' bypass='no' compass='n'",
        "DataLoader(data, pin_memory=True, num_workers=4)",
        "+def load(token: str, lr: float = 0.1) -> None:",
        "+    token = os.environ['HF_TOKEN']",
        "+    key = self.key_proj(x)",
        "+    names = sorted(names, key=lambda name: name.lower())",
        "+    pass\n+    path = 'x'\n+    patience: 3",
        '+parser.add_argument("--lr", default="0.1")',
        '+parser.add_argument("--token", help="of the hub")\n+parser.add_argument("--lr", default="0.1")',
        "+image: tensorflow/tensorflow:2.21@sha256:abc",
        "+y = w[1:]@x",
        "PATH=/usr/bin:/bin PYTHONPATH=src",
        "basic training of a tokenizer",
        'token=""',
        "+    api_key: Optional[str] = None\n+    token: bytes\n",
        "+    if read(key) == first: table[key] = second",
        'keep.snapshot("run:digits@1200"), keep.load("model:digits@best:val_loss")',
    ],
)
def test_what_is_no_secret_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "words",
    [
        *(["--batch-size", "32"], ["--keep", "dir"], ["--keyboard", "us"], ["--monkey", "x"], ["--monkey=x"]),
        *(["--token-length", "128"], ["--token-length=128"], ["--max-tokens", "4096"], ["--max-tokens=4096"]),
        *(["--train-tokens=3e9"], ["--key-dim", "64"], ["pin_memory=True"], ["--pin-memory", "data/"]),
        *(["--pad-token", "<pad>"], ["--tokenizer", "bert"], ["--path", "/data"], ["--patience", "3"], ["--token="]),
        *(["-u", "train.py"], ["-u", "1000:1000"], ["-p8080"], ["-p", "8080"], ["-patience", "5"], ["-path=x"]),
        *(["-m", "project.train"], ["-X", "dev"], ["--password", "--flag"], ["--key", "None"], ["--sigma=0.5"]),
        ["/home/me/runs/2024-01-01/resnet50/checkpoints/step_0001000"],
        ["/data/snapshots/" + HEX + "/model"],
        ["--fork", "run:digits@1200", "--fork=run:digits@1200"],
        ["runs/a1b2c3d4/checkpoints/resnet50/step_0001000"],
        ["--name=resnet50-imagenet-pretrained-augmented-2024-01-01"],
        ["--data=s3://bucket/imagenet/2012/train", "--remote=git@github.com:a/b.git"],
    ],
    ids=" ".join,
)
def test_a_harmless_command_line_stays_as_it_is(words: list[str]) -> None:
    assert redact_arguments(words) == words


def test_an_option_that_names_a_secret_hides_the_next_word() -> None:
    words = ["train.py", "--token", "hunter2", "--lr", "0.1", "--password", "--flag"]
    assert redact_arguments(words) == ["train.py", "--token", HIDDEN, "--lr", "0.1", "--password", "--flag"]


@pytest.mark.parametrize("name", ["TF_SERVICE_TOKEN", "TF_VAR_db_pass", "KERAS_AUTH", "TORCH_PAT", "SLURM_JWT"])
def test_a_variable_is_hidden_by_its_name_alone(name: str) -> None:
    assert redact_variable(name, "x") == HIDDEN
    assert redact_variable(name, "") == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TF_ENABLE_ONEDNN_OPTS", "0"),
        ("XLA_FLAGS", "--xla_cpu_x=1"),
        ("CUDA_PATH", "/usr/local/cuda-12.4"),
        ("CUDA_VISIBLE_DEVICES", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"),
        ("VIRTUAL_ENV", "/home/me/.cache/pypoetry/virtualenvs/project-AbC123xy-py3.11"),
        ("TF_XLA_FLAGS", "--tf_xla_auto_jit=2"),
        ("SLURM_JOB_NODELIST", "node[001-004]"),
    ],
)
def test_a_harmless_variable_stays_as_it_is(name: str, value: str) -> None:
    assert redact_variable(name, value) == value


@pytest.mark.parametrize("piece", ["a", '"', "'"])
def test_a_megabyte_in_one_line_takes_seconds(piece: str) -> None:
    start = time.process_time()
    redact("+" + piece * (1 << 20))
    assert time.process_time() - start < 30


@pytest.mark.parametrize(
    "piece",
    [
        *("=", "-", ":", "@", " ", "\\", "a.", "a_", "key", "key-", "token ", '"token"', "token=", "\n", "/", "a://"),
        *("a:b", "eyJ-", '"token",', "token: ", "--token ", '"""', 'k="', "-----BEGIN ", "login ", "sk-", "-p", "a@"),
    ],
)
def test_hostile_text_takes_no_squared_time(piece: str) -> None:
    start = time.process_time()
    for text in (piece * ((1 << 17) // len(piece)), f"token{piece * ((1 << 17) // len(piece))}"):
        redact(text)
        redact_arguments([text])
    assert time.process_time() - start < 15
