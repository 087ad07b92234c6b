"""Weights on a hub: what is published comes back, what goes wrong is said in one line, and nobody's token is shown.

The hub is a server of this file on the loopback, which answers as the real one does. No other address can be reached.
"""

import base64
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
import torch
from safetensors.torch import save_file

import funnybone as fb
from funnybone import models
from funnybone.cli import main
from funnybone.data import npz
from funnybone.errors import DataError
from funnybone.models import hub
from funnybone.models.weights import AccuracyRecord, DataRecord, SelectionRecord, SkeletonRecord
from funnybone.skeletons import COCO17
from funnybone.testing import random_clips

REPO = "somebody/stgcn-small"
TOKEN, READER, STRANGER = "hf_writesAndReads", "hf_onlyReads", "hf_unknownToTheHub"


class Server(ThreadingHTTPServer):
    """Repositories in memory, behind the part of the hub's interface that publishing and fetching use."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.asked, self.broken = {}, [], None
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def add(self, repo, files=None, **settings):
        """A repository; ``files`` are its first commit."""
        self.repos[repo] = {"private": False, "gated": False, "commits": {}, **settings}
        return self.commit(repo, files or {})

    def commit(self, repo, files):
        commits = self.repos[repo]["commits"]
        whole = {**(list(commits.values())[-1] if commits else {}), **files}
        sha = hashlib.sha1(repr((len(commits), sorted(whole.items()))).encode()).hexdigest()
        commits[sha] = whole
        return sha

    def files(self, repo):
        return list(self.repos[repo]["commits"].values())[-1]

    def stop(self):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """One request to `Server`."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/agent-harnesses":  # asked by the library on its own behalf
            return self.answer(404, {})
        self.server.asked.append((self.command, path, body))
        if self.server.broken:
            return self.answer(*self.server.broken)
        if self.command == "POST":
            return self.post(path, body)
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        if found:
            repo, sha = self.find(*found.groups())
            if sha:
                facts = {"id": found[1], "sha": sha, "private": repo["private"], "tags": [], "siblings": []}
                self.answer(200, facts)
            return None
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not found:
            return self.answer(404, {"error": "nothing here"})
        repo, sha = self.find(found[1], found[2])
        if sha is None:
            return None
        if repo["gated"]:
            return self.refuse(403, "GatedRepo", "Access to it is restricted.")
        content = repo["commits"][sha].get(found[3])
        if content is None:
            return self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        etag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": sha}
        return self.answer(200, content, etag)

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        self.do_GET()

    def post(self, path, body):
        if path == "/api/validate-yaml":
            front = json.loads(body)["content"].split("---\n")[1]
            import yaml

            return self.answer(200, {"errors": [], "warnings": []} if yaml.safe_load(front)["license"] else {})
        if self.token not in (TOKEN, READER):
            return self.refuse(401, None, "Invalid username or password.")
        if self.token == READER:
            return self.refuse(403, None, f"You have no rights under this namespace with {READER}")
        if path == "/api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted['organization']}/{wanted['name']}"
            if repo in self.server.repos:
                return self.answer(409, {"error": "You already created this model repo", "url": self.link(repo)})
            self.server.add(repo, private=wanted.get("private") is True or wanted.get("visibility") == "private")
            return self.answer(200, {"url": self.link(repo), "name": repo})
        repo, what = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path).groups()
        if what == "preupload":
            regular = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer(
                200, {"files": [{"path": file["path"], **regular} for file in json.loads(body)["files"]]}
            )
        lines = [json.loads(line) for line in body.splitlines()]
        files = [line["value"] for line in lines if line["key"] == "file"]
        sha = self.server.commit(repo, {file["path"]: base64.b64decode(file["content"]) for file in files})
        url = f"{self.link(repo)}/commit/{sha}"
        return self.answer(200, {"success": True, "commitUrl": url, "commitOid": sha})

    @property
    def token(self):
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def link(self, repo):
        return f"{self.server.url}/{repo}"

    def find(self, name, revision):
        """The repository and the commit, or an answer that says why not."""
        repo = self.server.repos.get(name)
        if repo is None or (repo["private"] and self.token not in (TOKEN, READER)):
            status = 404 if self.token in (TOKEN, READER) else 401
            return self.refuse(status, "RepoNotFound", "Repository not found"), None
        commits = list(repo["commits"])
        sha = commits[-1] if revision in (None, "main") else revision
        if sha not in commits:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}"), None
        return repo, sha

    def refuse(self, status, code, message, headers=None):
        named = {"X-Error-Code": code} if code else {}
        self.answer(status, {"error": message}, {**named, "X-Error-Message": message, **(headers or {})})

    def answer(self, status, content, headers=None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The hub of this file, for the library in this process; with a token that may write, and a cache of its own."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (funnybone[hub])")
    from huggingface_hub import constants, file_download, hf_api, utils

    server = Server()
    home = tmp_path / "hf"
    settings = {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "AGENT_HARNESSES_PATH": str(home / "harnesses"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": False,
    }
    for module in (constants, file_download, hf_api, utils._http):  # older versions copy them
        for name in settings.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, settings[name])
    for name in ("HF_OIDC_RESOURCE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    connect = socket.socket.connect

    def only_here(self, address):
        assert address[0] == "127.0.0.1", f"a test reached for {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)
    yield server
    server.stop()


def write_weights(path, start=0, **facts):
    """Weights of an untrained network, with a record of a training that never was."""
    torch.manual_seed(start)
    known = {
        "data": DataRecord(name="made up", split="!subject:s1", n=120, synthetic=True, sha256="ab" * 32),
        "recipe": {"epochs": 7, "max_lr": 0.002},
        "seed": 5,
        "selection": SelectionRecord(n=12, sha256="cd" * 32, epochs={"joint": 6}),
        "accuracy": AccuracyRecord(value=0.9, ci95=(0.768, 0.962), n=40, split="subject:s1"),
        "licence": "CC BY 4.0",
        "classes": ("left", "right"),
    }
    record = models.WeightsRecord(
        model="stgcn",
        options={"width": 4, "frames": 10, "persons": 1},
        skeleton=SkeletonRecord.of(COCO17),
        **{**known, **facts},
    )
    network = models.create("stgcn", skeleton=COCO17, num_classes=2, width=4, frames=10, persons=1)
    return path, models.save_weights(path, network, record)


@pytest.fixture
def weights(tmp_path):
    return write_weights(tmp_path / "small.safetensors")[0]


@pytest.fixture
def record(tmp_path):
    return lambda **facts: write_weights(tmp_path / "recorded.safetensors", **facts)[1]


@pytest.fixture
def refused(capfd, tmp_path):
    """A function that runs a command which must end in one line that names no token."""

    def check(*argv, says):
        status = main([str(token) for token in argv])
        out, err = capfd.readouterr()
        assert status == 2, err
        assert out == ""
        assert len(err.splitlines()) == 1, err
        assert err.startswith("funnybone: "), err
        assert "hf_" not in err
        for fragment in says:
            assert str(fragment) in err
        assert main([*map(str, argv), "--debug"]) == 2
        assert "hf_" not in "".join(capfd.readouterr())

    return check


@pytest.fixture
def attack(tmp_path):
    """The beginning of a command that attacks a victim; its name is missing."""
    npz.write(tmp_path / "motion.npz", random_clips(4, frames=10))
    return ["attack", "pgd", "--data", tmp_path / "motion.npz", "--threat", "linf:0.01", "--set", "steps=2", "--victim"]


# There and back


def test_what_is_pushed_comes_back_byte_for_byte(server, weights):
    published = hub.push(weights, REPO)
    assert set(server.files(REPO)) == {"model.safetensors", "README.md"}
    assert server.files(REPO)["model.safetensors"] == weights.read_bytes()
    assert hub.fetch(REPO).read_bytes() == weights.read_bytes()
    assert published == hub.Published(REPO, list(server.repos[REPO]["commits"])[-1], f"{server.url}/{REPO}", False)
    commits = [path for method, path, _ in server.asked if "/commit/" in path]
    assert len(commits) == 1, "both files are one commit"


def test_the_card_that_is_pushed_is_that_of_the_record(server, weights):
    hub.push(weights, REPO)
    assert server.files(REPO)["README.md"].decode() == hub.card(models.load_weights(weights)[1], REPO)


def test_a_victim_of_the_hub_answers_as_the_local_one(server, weights):
    hub.push(weights, REPO)
    xyz = random_clips(4, frames=10).xyz
    local, remote = fb.create_victim(weights), fb.create_victim(f"hub:{REPO}")
    assert torch.equal(local.logits(xyz), remote.logits(xyz))
    assert (remote.name, remote.classes) == (REPO, local.classes)


def test_a_commit_means_the_same_weights_for_ever(server, weights, tmp_path):
    first = hub.push(weights, REPO)
    other, _ = write_weights(tmp_path / "other.safetensors", start=1)
    second = hub.push(other, REPO)
    assert hub.fetch(REPO).read_bytes() == hub.fetch(REPO, second.commit).read_bytes() == other.read_bytes()
    assert hub.fetch(*hub.parse(f"hub:{REPO}@{first.commit}")).read_bytes() == weights.read_bytes()


def test_what_was_fetched_is_there_without_a_network(server, weights):
    commit = hub.push(weights, REPO).commit
    path = hub.fetch(REPO)
    asked = len(server.asked)
    assert hub.fetch(REPO, commit) == path
    assert len(server.asked) == asked, "a commit in the cache needs no question"
    server.broken = (503, {})
    assert hub.fetch(REPO) == path
    server.stop()
    assert hub.fetch(REPO) == path


def test_private_repositories(server, weights, monkeypatch):
    assert hub.push(weights, REPO, private=True).private
    assert server.repos[REPO]["private"]
    assert hub.push(weights, REPO).private, "it stays what it is"
    monkeypatch.setenv("HF_TOKEN", READER)
    assert hub.fetch(REPO).is_file()


def test_on_the_command_line(server, weights, attack, tmp_path):
    """In processes of their own, that find the hub by its environment variable."""
    home = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": server.url, "HF_HUB_DISABLE_TELEMETRY": "1"}

    def run(*argv):
        done = subprocess.run(
            [sys.executable, "-m", "funnybone.cli", *map(str, argv)],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, **home},
        )
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return done.stdout

    answer = json.loads(run("models", "push", weights, REPO, "--private", "--json"))
    assert answer["repo"] == REPO
    assert answer["private"] is True
    assert answer["victim"] == f"hub:{REPO}@{answer['commit']}"
    run(*attack, answer["victim"])
    cached = [path for path in (tmp_path / "home").rglob("model.safetensors") if answer["commit"] in path.parts]
    assert [path.read_bytes() for path in cached] == [weights.read_bytes()]


def test_in_words(server, weights, capsys):
    assert main(["models", "push", str(weights), REPO]) == 0
    out, _ = capsys.readouterr()
    assert f"published, public: {server.url}/{REPO}" in out
    assert f"hub:{REPO}" in out
    assert TOKEN not in out


# The card


def test_the_card_says_what_was_measured_and_on_what(record):
    card = hub.card(record(), REPO)
    for fact in ("90.0 % [76.8, 96.2]", "n = 40", "Synthetic data", "No person was recorded", "`COCO17`, 17 joints"):
        assert fact in card
    for fact in ("120 clips", "| seed | 5 |", "| epoch kept | 6 (`joint`)", "`max_lr` | `0.002`", "left, right"):
        assert fact in card
    assert f'fb.create_victim("hub:{REPO}")' in card
    assert "Not for decisions about people" in card


def test_the_card_of_recorded_data_is_not_called_synthetic(record):
    data = DataRecord(name="recordings", split=None, n=9, synthetic=False, sha256="")
    assert "synthetic" not in hub.card(record(data=data), REPO).lower()


def test_what_was_not_measured_is_not_claimed(record):
    card = hub.card(record(accuracy=None, selection=None, seed=None, recipe={}), REPO)
    assert "Not measured." in card
    assert "model-index" not in card
    assert "the last one" in card
    assert "| seed | not recorded |" in card


def test_what_was_imported_was_not_trained_here(record):
    data = DataRecord(name="not said", split=None, n=0, synthetic=False, sha256="")
    card = hub.card(record(data=data, accuracy=None, selection=None, seed=None), REPO)
    assert "imported, not trained by funnybone" in card
    assert "0 clips" not in card
    assert "epoch kept" not in card


def test_streams_and_their_weights(record):
    two = record().model_copy(update={"streams": ("joint", "bone"), "fusion": (1.0, 0.5)})
    assert "`joint` × 1.0, `bone` × 0.5" in hub.card(two, REPO)


def test_the_card_says_what_is_done_to_clips(record):
    joints = {"joint": 0, "spine": (11, 5), "shoulders": (5, 6)}
    steps = {"order": "deviation", "trim": "each", "pad": "replay", "pad_to": 150, "align": "spine", "centre": "frame"}
    more = {"sample": "resize", "sample_to": 32, "mean": ((0.0,) * 3,) * 17, "std": 0.5}
    preprocess = models.Preprocess(**joints, **steps, **more)
    card = hub.card(record().model_copy(update={"preprocess": preprocess.to_dict()}), REPO)
    for words in (
        "deviate most comes first",
        "begin with the clip",
        "starts again up to 150 frames",
        "joint nose of the first person",
        "left\\_hip to left\\_shoulder points along z",
        "left\\_shoulder to right\\_shoulder along x",
        "resized to 32",
        "a mean pose is subtracted and all is divided by 0.5",
    ):
        assert words in card
    for name, recipe in models.PREPROCESSINGS.items():
        if recipe.skeleton is None:
            update = {"preprocess": models.Preprocess.named(name, COCO17).to_dict()}
            assert "| preprocessing |" in hub.card(record().model_copy(update=update), REPO)


def test_the_front_matter_is_what_a_hub_reads(record):
    library = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (funnybone[hub])")
    facts = library.ModelCard(hub.card(record(), REPO)).data
    assert (facts.license, facts.library_name, facts.datasets) == ("cc-by-4.0", "funnybone", ["made-up"])
    assert {"funnybone", "stgcn", "synthetic-data"} <= set(facts.tags)
    (result,) = facts.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("accuracy", 0.9, "subject:s1")
    assert "n = 40" in result.metric_name
    assert "synthetic" in result.dataset_name


@pytest.mark.parametrize(
    ("licence", "front"),
    [
        ("unknown", {"license": "unknown"}),
        ("Apache-2.0 (generated by this package)", {"license": "apache-2.0"}),
        ("research only: ask", {"license": "other", "license_name": "research-only-ask"}),
    ],
)
def test_licences_that_a_hub_knows(record, licence, front):
    yaml = pytest.importorskip("yaml", reason="PyYAML, which huggingface_hub brings, is not installed")
    assert front.items() <= yaml.safe_load(hub.card(record(licence=licence), REPO).split("---\n")[1]).items()


def test_odd_names_stay_names(record):
    yaml = pytest.importorskip("yaml", reason="PyYAML, which huggingface_hub brings, is not installed")
    odd = 'a"b\n---\n# c: |<script>\x07`'
    data = DataRecord(name=odd, split=odd, n=1, synthetic=False, sha256="")
    accuracy = AccuracyRecord(value=1, ci95=(0, 1), n=1, split=odd)
    text = hub.card(record(data=data, accuracy=accuracy, classes=(odd, "right"), licence=odd, recipe={odd: odd}), REPO)
    start, front, *_ = text.split("---\n")
    assert start == ""
    assert yaml.safe_load(front)["model-index"][0]["results"][0]["dataset"]["split"] == 'a"b --- # c: |<script> `'
    assert text.count("\n# ") == 1
    assert not re.search(r"(?<![\\])<script>", re.sub("`.*?`", "", text.split("---\n", 2)[2]))


# What goes wrong


def test_a_damaged_file_is_not_sent(server, weights, refused):
    weights.write_bytes(weights.read_bytes()[:-40] + bytes(40))
    refused("models", "push", weights, REPO, says=[weights, "damaged"])
    weights.write_bytes(b"not at all")
    refused("models", "push", weights, REPO, says=[weights, "not a safetensors file"])
    weights.unlink()
    refused("models", "push", weights, REPO, says=[weights, "no such file"])
    assert server.asked == []
    assert server.repos == {}


def test_names_that_no_repository_has(server, weights, attack, refused):
    for name in ("alone", "a/b/c", "a/", "a/-b", "a/b--c"):
        refused("models", "push", weights, name, says=[name, "owner/name"])
    refused(*attack, "hub:alone", says=["'alone'", "owner/name"])
    refused(*attack, f"hub:{REPO}@", says=["revision"])
    assert server.asked == []


@pytest.mark.parametrize(
    "revision", ["../../../../escaped", "a/../../b", "/etc", "a//b", "a/", "..", ".", "a\nb", "a b", "ä", "v1\n"]
)
def test_names_that_no_revision_has(server, weights, attack, refused, tmp_path, revision):
    hub.push(weights, REPO)
    asked = len(server.asked)
    before = set(tmp_path.rglob("*"))
    for ask in (lambda: hub.fetch(REPO, revision), lambda: hub.parse(f"hub:{REPO}@{revision}")):
        with pytest.raises(DataError, match="names no revision of a repository; name a branch") as caught:
            ask()
        assert "\n" not in str(caught.value)
    refused(*attack, f"hub:{REPO}@{revision}", says=["names no revision"])
    assert len(server.asked) == asked
    assert set(tmp_path.rglob("*")) == before


def test_names_that_a_revision_has(server, weights):
    commit = hub.push(weights, REPO).commit
    for revision in (commit, "main"):
        assert hub.fetch(*hub.parse(f"hub:{REPO}@{revision}")).is_file()
    assert hub.parse(f"hub:{REPO}@refs/pr/1") == (REPO, "refs/pr/1")
    assert hub.parse(f"hub:{REPO}@v2.0_a-b")[1] == "v2.0_a-b"


def test_no_token(server, weights, refused, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    refused("models", "push", weights, REPO, says=[REPO, "needs a token", "hf auth login"])
    assert server.asked == []


def test_tokens_of_no_use(server, weights, attack, refused, monkeypatch):
    for token in ("hf_bell\x07", "hf_Ünlesbar", "hf_two words"):
        monkeypatch.setattr("huggingface_hub.get_token", lambda token=token: token)
        refused("models", "push", weights, REPO, says=["token", "hf auth login"])
        refused(*attack, f"hub:{REPO}", says=["token", "hf auth login"])
    assert server.asked == []
    monkeypatch.setattr("huggingface_hub.get_token", lambda: STRANGER)
    refused("models", "push", weights, REPO, says=[REPO, "401", "not accepted", "hf auth login"])


def test_no_permission(server, weights, refused, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", READER)
    refused("models", "push", weights, REPO, says=[REPO, "no permission (403: You have no rights", "***"])
    server.add(REPO)
    refused("models", "push", weights, REPO, says=[REPO, "no permission (403"])
    assert len(server.repos[REPO]["commits"]) == 1


def test_private_is_not_promised_of_what_is_public(server, weights, refused):
    server.add(REPO)
    refused("models", "push", weights, REPO, "--private", says=[REPO, "is public", "--private"])
    assert server.files(REPO) == {}


def test_what_cannot_be_fetched(server, attack, refused, monkeypatch):
    sha = server.add(REPO, {"README.md": b"nothing else"})
    server.add("somebody/gated", {"model.safetensors": b""}, gated=True)
    server.add("somebody/private", {"model.safetensors": b""}, private=True)
    refused(*attack, "hub:nobody/nothing", says=["nobody/nothing: no such repository", "check the name"])
    refused(*attack, f"hub:{REPO}", says=[f"{REPO}: the repository has no model.safetensors", "funnybone models push"])
    refused(*attack, f"hub:{REPO}@{sha}", says=["no model.safetensors"])
    refused(*attack, f"hub:{REPO}@v9", says=[f"{REPO}@v9: no such revision", "branch"])
    refused(*attack, "hub:somebody/gated", says=["somebody/gated: its owner has to let you in"])
    monkeypatch.delenv("HF_TOKEN")
    refused(*attack, "hub:somebody/private", says=["somebody/private: no such repository, or a private", "log in"])


def test_weights_that_are_none_of_ours(server, attack, refused, tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    server.add("somebody/foreign", {"model.safetensors": (tmp_path / "foreign.safetensors").read_bytes()})
    server.add("somebody/garbage", {"model.safetensors": b"garbage"})
    refused(*attack, "hub:somebody/foreign", says=["'hub:somebody/foreign'", "model.safetensors: safetensors without"])
    refused(*attack, "hub:somebody/garbage", says=["'hub:somebody/garbage'", "model.safetensors: not a safetensors"])


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((500, {}), ["a fault of its own (500)", "try again later"]),
        ((429, {}), ["too many requests (429)", "wait"]),
        ((418, {"error": "no\ncoffee \x1b[31m"}), ["refuses (418: no coffee [31m)"]),
        ((200, b"<html>Please pay for this network</html>"), ["no hub", "HF_ENDPOINT"]),
    ],
)
def test_a_hub_that_is_not_well(server, weights, attack, refused, answer, says):
    server.broken = answer
    refused("models", "push", weights, REPO, says=[REPO, *says])
    refused(*attack, f"hub:{REPO}", says=[REPO, *says])


def test_no_network(server, weights, attack, refused, monkeypatch):
    server.stop()
    refused("models", "push", weights, REPO, says=[REPO, "cannot be reached", "check the network"])
    refused(*attack, f"hub:{REPO}", says=[REPO, "cannot be reached", "check the network"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(*attack, f"hub:{REPO}", says=[REPO, "offline", "HF_HUB_OFFLINE"])


def test_a_cache_that_cannot_be_written(server, weights, attack, refused, tmp_path):
    hub.push(weights, REPO)
    (tmp_path / "hf").write_text("a file where a folder belongs")
    refused(*attack, f"hub:{REPO}", says=[REPO, tmp_path / "hf", "HF_HOME"])


def test_without_the_library(weights, attack, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("models", "push", weights, REPO, says=["huggingface_hub", "pip install 'funnybone[hub]'"])
    refused(*attack, f"hub:{REPO}", says=["pip install 'funnybone[hub]'"])
    with pytest.raises(DataError, match="not installed"):
        fb.create_victim(f"hub:{REPO}")


def test_nobody_pays_for_the_library_who_does_not_use_it():
    code = (
        "import sys, funnybone as fb; from funnybone import models; from funnybone.models import hub; "
        "fb.create_victim('stgcn.synthetic'); assert 'huggingface_hub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
