"""The Hub through its real client, against a small server of our own; no network is used."""

import json
import os
import subprocess
import sys
import threading
import time
from functools import partial
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
import tiny_tokenizers as tiny

from pm_mined.tokenizer.readers.folder_config import CONFIG_FILES

OLD, NEW = "0" * 40, "1" * 40
TOKENIZER = json.dumps(tiny.bpe_document({"a": 0, "b": 1})).encode()
OLD_TOKENIZER = json.dumps(tiny.bpe_document({"a": 0})).encode()
README = b"weights and words, which nobody asked for"

# Repository -> commit -> file -> content.
REPOSITORIES = {
    "acme/tiny": {
        NEW: {"tokenizer.json": TOKENIZER, "README.md": README, "model.safetensors": README},
        OLD: {"tokenizer.json": OLD_TOKENIZER},
    },
    "acme/weights-only": {NEW: {"README.md": README}},
    "acme/gated": {NEW: {"tokenizer.json": TOKENIZER}},
    "acme/cut-off": {NEW: {"tokenizer.json": TOKENIZER}},
    "acme/damaged": {NEW: {"tokenizer.json": TOKENIZER[:-5]}},
    "acme/configured": {NEW: dict.fromkeys(CONFIG_FILES, b"{}") | {"model.bin": README}},
    "meta-llama/Llama-2-7b-hf": {NEW: {"tokenizer.json": TOKENIZER}},
}
REPOSITORIES["acme/configured"][NEW] |= {
    "vocab.json": json.dumps({"a": 0}).encode(),
    "merges.txt": b"",
    "config.json": b'{"model_type": "gpt2"}',
}
REVISIONS = {"main": NEW, NEW: NEW, "v1": OLD, OLD: OLD}


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as its client asks for."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        self.server.requests.append("/".join(parts))
        api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if api else parts[:2])
        rest = parts[4:] if api else parts[2:]
        if repo == "acme/down":
            self.refuse(500, None)
        elif repo not in REPOSITORIES:
            # What the Hub says to someone who is not logged in, of private repositories, too.
            self.refuse(404 if repo == "acme/missing" else 401, "RepoNotFound")
        elif rest and rest[1] not in REVISIONS:
            self.refuse(404, "RevisionNotFound")
        elif api:
            self.describe(repo, rest)
        else:
            self.send_file(repo, REVISIONS[rest[1]], "/".join(rest[2:]))

    def describe(self, repo, rest):
        commit = REVISIONS[rest[1]] if rest else NEW
        files = REPOSITORIES[repo][commit]
        if rest[:1] == ["tree"]:
            answer = [
                {"type": "file", "path": path, "size": len(data), "oid": sha1(data).hexdigest()}
                for path, data in files.items()
            ]
        else:
            siblings = [{"rfilename": path} for path in files]
            answer = {"id": repo, "modelId": repo, "sha": commit, "siblings": siblings}
        self.answer(json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def send_file(self, repo, commit, path):
        if repo == "acme/gated":
            self.refuse(403, "GatedRepo")
        elif path not in REPOSITORIES[repo][commit]:
            self.refuse(404, "EntryNotFound")
        else:
            data = REPOSITORIES[repo][commit][path]
            headers = {"ETag": f'"{sha1(data).hexdigest()}"', "X-Repo-Commit": commit}
            self.answer(data, headers, cut_off=repo == "acme/cut-off")

    def answer(self, data, headers, *, cut_off=False):
        self.send_response(200)
        for name, value in {**headers, "Content-Length": len(data)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) // 2] if cut_off else data)
        self.close_connection = cut_off

    def refuse(self, status, code):
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", "as the Hub says it")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    """A running server; `requests` lists the paths it was asked for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.gone = lambda: (server.shutdown(), server.server_close(), thread.join())
    yield server
    server.gone()


LOAD = """
import json, sys
from pm_mined import VocabularyError, load_vocabulary
try:
    found = load_vocabulary(sys.argv[1])
    answer = {"name": found.name, "source": found.source, "size": len(found)}
except VocabularyError as error:
    answer = {"error": str(error)}
print(json.dumps(answer))
"""

IS_CACHED = """
import sys
from pm_mined.tokenizer.registry import is_in_hub_cache, named_vocabularies
print("true" if is_in_hub_cache(named_vocabularies()[sys.argv[1]]) else "false")
"""


@pytest.fixture
def ask(hub, tmp_path):
    """Run code in a process of its own: the client reads its environment when it is imported."""

    def run(code: str, argument: str, **more: str) -> object:
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("HF_") and not name.lower().endswith("_proxy")
        }
        env |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        env |= {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}", **more}
        command = [sys.executable, "-c", code, argument]
        done = subprocess.run(
            command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=50
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def load(ask):
    """Load a vocabulary as a person does whose cache is empty at first."""
    return partial(ask, LOAD)


def refusal(answer: dict) -> str:
    assert "error" in answer, answer
    assert len(answer["error"].splitlines()) == 1
    return answer["error"]


TINY = {"name": "tiny", "source": "hub:acme/tiny", "size": 2}


@pytest.mark.slow
def test_a_download_is_kept_and_used_when_the_hub_is_gone(hub, load):
    assert load("acme/tiny") == TINY
    assert any(path.endswith("resolve/" + NEW + "/tokenizer.json") for path in hub.requests)
    hub.gone()
    start = time.monotonic()
    assert load("acme/tiny") == TINY
    assert load("acme/tiny", HF_HUB_OFFLINE="1") == TINY
    assert time.monotonic() - start < 15


def test_only_tokenizer_files_are_downloaded(hub, load):
    load("acme/tiny")
    assert not [path for path in hub.requests if path.endswith((".md", ".safetensors"))]


def test_a_tokenizer_comes_with_all_files_that_are_read_beside_it(hub, load):
    assert load("acme/configured")["size"] == 2, "GPT-2's end of text is added"
    fetched = {path.rpartition("/")[2] for path in hub.requests if "/resolve/" in path}
    assert fetched == {*CONFIG_FILES, "vocab.json", "merges.txt"}


@pytest.mark.parametrize("revision", ["v1", OLD])
def test_a_revision_is_what_was_asked_for(load, revision):
    spec = f"acme/tiny@{revision}"
    assert load(spec) == {"name": "tiny", "source": f"hub:{spec}", "size": 1}


def test_a_revision_that_does_not_exist(load):
    assert "no revision 'v9'" in refusal(load("acme/tiny@v9"))


@pytest.mark.parametrize("repo", ["acme/missing", "acme/private"])
def test_a_repository_that_is_not_there_or_private(load, repo):
    text = refusal(load(repo))
    assert text.startswith(f"{repo}: the Hub has no such repository, or it is private")
    assert "hf auth login" in text


def test_a_gated_repository(load):
    text = refusal(load("acme/gated"))
    assert text.startswith("acme/gated: access to this repository must be granted")


def test_a_repository_without_a_tokenizer_is_named(load):
    text = refusal(load("acme/weights-only"))
    assert text.startswith("acme/weights-only: ")
    assert "has no tokenizer" in text


def test_a_damaged_tokenizer_names_its_file(load):
    text = refusal(load("acme/damaged"))
    assert "damaged" in text.partition(": ")[0]
    assert "tokenizer.json: not JSON, or cut off" in text


def test_neither_network_nor_cache(hub, load):
    hub.gone()
    start = time.monotonic()
    text = refusal(load("acme/tiny"))
    assert time.monotonic() - start < 20
    assert text.startswith("acme/tiny: the Hub cannot be reached and no earlier run has fetched")
    assert "local file" in text


def test_offline_by_choice_without_a_cache(hub, load):
    assert "HF_HUB_OFFLINE" in refusal(load("acme/tiny", HF_HUB_OFFLINE="1"))
    assert hub.requests == []


def test_a_hub_that_is_down(load):
    assert refusal(load("acme/down")).startswith("acme/down: the Hub ")


@pytest.mark.slow
def test_an_interrupted_download_is_refused_and_leaves_nothing_to_be_read(hub, load):
    first = refusal(load("acme/cut-off"))
    assert first.startswith("acme/cut-off: ")
    hub.gone()
    assert refusal(load("acme/cut-off")).startswith("acme/cut-off: ")


@pytest.mark.parametrize("repo", ["acme/tiny--b", "acme/.tiny", "acme/tiny..b"])
def test_a_name_that_no_repository_can_have(hub, load, repo):
    assert refusal(load(repo)).startswith(f"{repo}: not the name of a Hub repository")
    assert hub.requests == []


# No PyPI package ships Llama 2's vocabulary, so that its name always leads to the Hub.
LLAMA2 = {"name": "llama2", "source": "hub:meta-llama/Llama-2-7b-hf", "size": 2}


def test_a_name_without_an_installed_package_comes_from_the_cache_first(hub, load):
    assert load("llama2") == LLAMA2
    hub.requests.clear()
    assert load("llama2") == LLAMA2
    assert hub.requests == [], "asked the Hub for what is in the cache"
    hub.gone()
    assert load("llama2") == LLAMA2


def test_a_name_that_is_nowhere_says_how_to_get_it(hub, load):
    hub.gone()
    text = refusal(load("llama2"))
    assert text.startswith("llama2 is not available here (meta-llama/Llama-2-7b-hf: ")
    assert "the Hub cannot be reached" in text


@pytest.mark.slow
def test_whether_a_name_is_in_the_cache_is_told_without_the_network(hub, ask, load):
    assert ask(IS_CACHED, "llama2") is False
    assert hub.requests == []
    load("llama2")
    hub.requests.clear()
    assert ask(IS_CACHED, "llama2") is True
    assert hub.requests == []
