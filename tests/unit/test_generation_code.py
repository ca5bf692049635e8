"""What looks like a secret in cells and their tracebacks: by Python's grammar, and by lines where that fails."""

from __future__ import annotations

import ast

import pytest

from sandbox_kernel.cell_memory import RunCell
from sandbox_kernel.generation.code_redaction import redact_answer, redact_cell, redact_code, redact_kept
from sandbox_kernel.generation.conversation import explain_request, fix_request

WORD = "hunterseven"

LEAKING = [
    'user, password = "bob", "X"',
    'password, = ("X",)',
    '[password, *r] = ["X", 2]',
    "PASSWORD = 'x' if 0 else 'X'",
    'password = ["X"][0]',
    'password += "X"',
    'setattr(obj, "password", "X")',
    'for password in ["X"]: pass',
    'match "X":\n    case password: pass',
    'match password:\n    case "X": pass',
    'passwd = str("X")',
    'password = f("X") if 0 else None',
    'passwords = {"bob": "X"}',
    'tokens = ["X"]',
    'api_keys = ["X"]',
    'api_keys = [\n    "X",\n]',
    'credentials = dict(user="u", key="X")',
    'credentials = ("bob", "X")',
    'password = input() or "X"',
    'password = "X".strip()',
    'password = "-".join(["X"])',
    "password = f'X{1}'",
    "f\"{(password := 'X')}\"",
    "lambda password='X': 1",
    "def f(user='me', *, password=b'X'): pass",
    "def api_key(): return 'X'",
    "class Credentials:\n    value = 'X'",
    "globals()['password'] = 'X'",
    "globals().update(password='X')",
    "passwords.append('X')",
    "login.set_password('X')",
    "config.set('db', 'password', 'X')",
    "data = [('user', 'bob'), ('password', 'X')]",
    "requests.get(url, auth=('bob', 'X'))",
    "os.environ.update(A='X')",
    "os.environ.update({'A': 'X'})",
    "with f('X') as token: pass",
    "if password in ('X', 'b'): pass",
    "password = {'a': 'X'}['a']",
    "password = x.get('a', 'X')",
    'password = """\nX\n"""',
    "assert True, 'password=X'",
    "print('password: X')",
    "x = 1  # password: X",
    "execute(\"CREATE USER bob PASSWORD 'X'\")",
    "ä = 'ö'; password = dict(ü='X')",
    "!mysql --password=X",
    "!mysql --password X -u root",
    "!mysql -u root -pX db",
    "!curl -u bob:X http://x",
    "!curl -H 'x-api-key: X' http://x",
    "!docker login \\\n  --password X",
    "out = !tool --token=X",
    "%sql --password X",
    "%time user, password = 'bob', 'X'",
    "if 1:\n    !tool --token X\npassword = ['X']",
    "%%bash\nexport db_password=X\n",
    "%%bash\ntool --token 'X Y'\n",
    "%%writefile .x\npassword: X\n",
    "%%writefile a/.env\nA=X\n",
    "%%writefile -a id_rsa\nX\n",
    "%%file my_secrets.txt\nX\n",
    "%%writefile a.py\npasswords = ['X']\n",
    "%%time\nuser, password = 'bob', 'X'\n",
    "%%timeit password = ['X']\npass\n",
    "%%javascript\nconst password = a ? 'x' : 'X'\n",
    # What is no Python.
    "user, password = 'bob', 'X'\nx = (",
    "passwords = {\n  'bob': 'X',\n}\nx = = 1",
    "setattr(obj, 'password', 'X') x",
    "password = ['X",
    "password = f(\n  'X'\n",
]


@pytest.mark.parametrize("code", LEAKING)
def test_texts_of_a_statement_with_a_secrets_name_are_taken_out(code: str) -> None:
    cleaned = redact_code(code.replace("X", WORD))
    assert WORD not in cleaned
    assert "***" in cleaned


@pytest.mark.parametrize("code", [one for one in LEAKING if one[0] not in "!%" and "!" not in one][:46])
def test_python_stays_python(code: str) -> None:
    ast.parse(redact_code(code.replace("X", WORD)))


@pytest.mark.parametrize(
    "code",
    [
        "token = get_token()\nfor token in tokens: count[token] += 1",
        'df["passenger"] = df["key"].map(names)',
        "tokens = len(text) // 4",
        "connect(\n    user=user,\n    password=password,\n    token=token)",
        'def f(password: str, name="me", token: str = None): pass',
        'tokenizer = "gpt2"; passenger = "me"; KEY = "id"; JOIN_KEY = "customer_id"',
        'df[["password", "email"]].groupby("token")["x"].sum()',
        'df["token"].str.contains("abc")',
        'for key in keys:\n    if key == "city": break',
        'password = getpass("Password: ")',
        'password = os.environ["DB_PASSWORD"]',
        'password = os.environ.get("DB_PASSWORD")',
        'token = open("token.txt").read()',
        'password = config["db"]["main"]',
        'password = ""',
        'print("name:", password)',
        'def f(token):\n    """Use it.\n\n    token: the token to use\n    """',
        "!pip list\n%matplotlib inline\nx = !ls -la\nx?",
        "%%bash\nls -la --token-file\necho 'a'",
        "%%html\n<b class='x'>y</b>",
        "%%sandbox generate\nplot the tokens",
        "%%writefile a.txt\nhello: world",
        "x = 'unfinished",
    ],
)
def test_code_without_secrets_stays_as_it_is(code: str) -> None:
    assert redact_code(code) == code


def test_letters_before_a_text_stay() -> None:
    assert (
        redact_code('x = "a"\nsecret = f"b{1}"\n"c"; token = b"d"') == 'x = "a"\nsecret = f"***"\n"c"; token = b"***"'
    )


def test_name_and_form_of_what_was_taken_out_stay() -> None:
    code = "a = 1\nuser, password = r'bob', b\"x\" # ü\nconnect(user='me', password=str('x'))\n"
    assert redact_code(code) == (
        "a = 1\nuser, password = r'***', b\"***\" # ü\nconnect(user='me', password=str('***'))\n"
    )


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ('def f(password): raise ValueError("bad password=X")\nf(1)', "bad password=X"),
        ('raise ValueError("the password is X")', "the password is X"),
        ('user, password = "bob", "X"\nlogin(user, password)', "'bob' cannot log in by password 'X'"),
        ('password = """\nX\n"""\n1/0', "division by zero"),
    ],
)
def test_what_a_message_hides_is_hidden_in_traceback_and_code(code: str, message: str) -> None:
    code, message = code.replace("X", WORD), message.replace("X", WORD)
    lines = "\n".join(f"---> {number} {one}" for number, one in enumerate(code.split("\n"), 1))
    failed = redact_cell(RunCell(code, 0.1, 1, "ValueError", message, f"Traceback\n{lines}\n\nValueError: {message}"))
    assert WORD not in failed.code + failed.message + failed.traceback
    assert failed.traceback.count("\n") == lines.count("\n") + 3


def test_other_modules_lines_in_a_traceback_are_redacted() -> None:
    lines = ('      2 def f(token="X"):', '----> 3     users, tokens = [1], ["X"]', "      4     else:")
    traceback = "\n".join(("File a.py:3, in f()", *lines)).replace("X", WORD)
    assert WORD not in redact_cell(RunCell("f()", 0.1, 1, "E", "m", traceback)).traceback


def test_requests_about_cells_hold_no_secrets() -> None:
    code = f'user, password = "bob", "{WORD}"\nlogin()'
    trace = f'----> 1 user, password = "bob", "{WORD}"\nE: no'
    for text in (fix_request(code, "E: no", trace, ""), explain_request(code, "E: no", trace)):
        assert WORD not in text


def test_blocks_of_answers_are_redacted_as_code() -> None:
    blocks = ('user, password = "bob", "X"', 'tokens = ["X"]')
    answer = 'It is "fine".\n'.join(f"```python\n{one}\n```\n" for one in blocks).replace("X", WORD)
    cleaned = redact_answer(answer)
    assert WORD not in cleaned
    assert 'It is "fine".' in cleaned


def test_large_and_nested_code_is_redacted_in_time() -> None:
    parts = ["password = ", "'", '"', "passwords.", "f(password=", '"""', "{'token':", "-", "#", "\\", "!mysql -p"]
    parts += ["a=b ", "password['x']", "x = 'password: abc'\n", "--token ", "password=['a']\n", "[", "token: "]
    for part in parts:
        for before in ("", "%%bash\n"):
            redact_code(before + part * (20_000 // len(part)))


def test_history_keeps_no_secrets_that_a_request_tells() -> None:
    wish, code = redact_kept(
        "use api_key=wish-4747, password: 'mine' and the token is abcd-12",
        'get(url, headers={"X": "wish-4747"})\nuser, password = "bob", "x"\nprint("abcd-12")\n',
    )
    assert wish == "use api_key=***, password: '***' and the token is ***"
    assert code == 'get(url, headers={"X": "***"})\nuser, password = "***", "***"\nprint("***")\n'
