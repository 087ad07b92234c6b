"""Weights on a Hugging Face hub: publish a file with its model card, and fetch it back."""

import errno
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

import funnybone
from funnybone.errors import DataError
from funnybone.models.preprocess import Preprocess
from funnybone.models.weights import WeightsRecord, load_weights

PREFIX = "hub:"
WEIGHTS, CARD = "model.safetensors", "README.md"
LOG_IN = "log in with hf auth login, or set HF_TOKEN"
UNREACHABLE = "check the network, and HF_ENDPOINT if it is set"
TIMEOUT = 10.0  # seconds until the hub has answered the first question
# Licences that a hub has a name for; any other one goes by "other" and what the record calls it.
LICENCES = re.compile(
    r"unknown|mit|apache-2\.0|bsd-[23]-clause|cc0-1\.0|cc-by(-sa|-nc|-nc-sa|-nc-nd)?-[34]\.0|cc-by-nd-4\.0"
    r"|a?gpl-3\.0|gpl-2\.0|lgpl-3\.0|mpl-2\.0|odbl|pddl|unlicense"
)
# Whose errors mean that no answer came: the libraries that versions of huggingface_hub speak HTTP with.
TRANSPORTS = frozenset(("httpx", "httpx2", "httpcore", "requests", "urllib3"))
STATUS = {
    401: ("the token is not accepted", LOG_IN),
    403: ("no permission", "use a token that may do this there, or another repository"),
    404: ("no such repository, or a private one that your token does not open", f"check the name, or {LOG_IN}"),
    409: ("it was changed in the meantime", "try again"),
    413: ("too large for the hub", "look up what a repository may hold there"),
    429: ("too many requests", "wait a few minutes"),
}


@dataclass(frozen=True)
class Published:
    """A commit on the hub, and whether everybody can read it."""

    repo: str
    commit: str
    url: str
    private: bool


def card(record: WeightsRecord, repo: str) -> str:
    """Return the model card of weights that are to be published as ``repo``: Markdown behind YAML front matter.

    Every figure is the record's own; what nobody measured is said not to have been measured.

    Examples
    --------
    >>> from funnybone.models import load_weights, packaged
    >>> _, record = load_weights(packaged("stgcn.synthetic"))
    >>> text = card(record, "somebody/stgcn")
    >>> "96.1 % [93.5, 97.7]" in text, "no person was recorded" in text
    (True, True)
    """
    licence = record.licence.partition("(")[0].strip().lower().replace(" ", "-")
    return (
        _environment()
        .get_template("card.md.j2")
        .render(
            record=record,
            repo=repo,
            known=licence if LICENCES.fullmatch(licence) else None,
            data=record.data.name + (", synthetic data" if record.data.synthetic else ""),
            preprocessing=_described(record),
        )
    )


def push(
    path: Path | str, repo: str, *, private: bool = False, endpoint: str | None = None, token: str | None = None
) -> Published:
    """Publish a weights file, byte for byte, with its model card, as one commit.

    The repository is made where there is none. Where there is one, both files get a new version and the old ones stay
    in its history.

    Parameters
    ----------
    path : Path or str
        A file that `save_weights` wrote. It is checked as `load_weights` does before anything is sent.
    repo : str
        ``owner/name``.
    private : bool
        Only for those whom the owner lets in. Refused where the repository is there and public.
    endpoint, token : str, optional
        Of the hub; by default those of huggingface_hub: ``HF_ENDPOINT``, ``HF_TOKEN``, ``hf auth login``.

    Raises
    ------
    DataError
        For a file that is no good, without a token or a permission, and when the hub cannot be reached or refuses.
    """
    library = _library()
    path = Path(path)
    _check_name(repo)
    _, record = load_weights(path)
    with _asking(repo):
        token = _checked(token or library.get_token())
        if token is None:
            raise DataError(f"{repo}: publishing needs a token of the hub, and there is none", hint=LOG_IN)
    with _asking(repo, token):
        api = library.HfApi(endpoint=endpoint, token=token)
        # Without the word, the owner's own rule stands for who can read a new repository.
        api.create_repo(repo, exist_ok=True, **({"private": True} if private else {}))
        hidden = bool(api.model_info(repo, timeout=TIMEOUT).private)
        if private and not hidden:
            raise DataError(
                f"{repo}: is there already and is public; nothing was sent",
                hint="make it private on the hub, name another one, or leave out --private",
            )
        commit = api.create_commit(
            repo,
            operations=[
                library.CommitOperationAdd(WEIGHTS, path),
                library.CommitOperationAdd(CARD, card(record, repo).encode()),
            ],
            commit_message=f"{_plain(record.model)}, written by {_plain(record.created_by)}",
        )
    return Published(repo, commit.oid, f"{api.endpoint}/{repo}", hidden)


def fetch(repo: str, revision: str | None = None, *, endpoint: str | None = None) -> Path:
    """Return the weights file of a repository, in huggingface_hub's cache; downloaded where it is not there yet.

    Without a network, it is what the cache has of that revision.

    Parameters
    ----------
    repo : str
        ``owner/name``.
    revision : str, optional
        A branch, a tag or a commit; by default the main branch. Only a whole commit hash means the same for ever.
    endpoint : str, optional
        Of the hub; by default huggingface_hub's, ``HF_ENDPOINT``.

    Raises
    ------
    DataError
        When there is no such repository, revision or file, no permission, or neither a network nor a copy.
    """
    library = _library()
    _check_name(repo)
    _check_revision(revision)
    named = repo if revision is None else f"{repo}@{revision}"
    with _asking(named):
        token = _checked(library.get_token())
        found = library.try_to_load_from_cache(repo, WEIGHTS, revision=revision)
    cached = Path(found) if isinstance(found, str) else None
    if cached is not None and revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        return cached
    with _asking(named, token, cached):
        # Asked first, since the download would try for minutes where nothing answers.
        library.HfApi(endpoint=endpoint).model_info(repo, revision=revision, timeout=TIMEOUT)
        return Path(library.hf_hub_download(repo, WEIGHTS, revision=revision, endpoint=endpoint))
    assert cached is not None  # or the question would have raised
    return cached


def parse(name: str) -> tuple[str, str | None]:
    """Return the repository and the revision of ``hub:owner/name`` or ``hub:owner/name@revision``.

    Examples
    --------
    >>> parse("hub:somebody/stgcn"), parse("hub:somebody/stgcn@v2")
    (('somebody/stgcn', None), ('somebody/stgcn', 'v2'))
    """
    repo, at, revision = name.removeprefix(PREFIX).partition("@")
    _check_name(repo)
    if at and not revision:
        raise DataError(f"{name}: no revision behind the @", hint="name a branch, a tag or a commit")
    _check_revision(revision or None)
    return repo, revision or None


def _library() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError:
        raise DataError(
            "weights on a hub need huggingface_hub, which is not installed", hint="pip install 'funnybone[hub]'"
        ) from None
    return huggingface_hub


def _check_name(repo: str) -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo, re.ASCII):
        raise DataError(f"{repo!r} names no repository of a hub", hint="write owner/name")


def _check_revision(revision: str | None) -> None:
    """Raise `DataError` for what is no name of a revision; the library would make a path in its cache of it."""
    if revision is None:
        return
    parts = revision.split("/")
    if not re.fullmatch(r"[\w./-]+", revision, re.ASCII) or not {"", ".", ".."}.isdisjoint(parts):
        raise DataError(f"{revision!r} names no revision of a repository", hint="name a branch, a tag or a commit")


def _checked(token: str | None) -> str | None:
    """The token, when it can stand in a request; libraries that cannot send it would print it."""
    if token is not None and not re.fullmatch("[!-~]+", token):
        raise DataError("the token of the hub holds characters that no token has", hint=LOG_IN)
    return token


@contextmanager
def _asking(what: str, token: str | None = None, cached: Path | None = None) -> Iterator[None]:
    """Turn what goes wrong with the hub into `DataError`; where no answer comes, go on if there is a copy."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        said = _explained(error, token)
        if said is None:
            raise
        why, mend, answered = said
        if cached is None or answered:
            # Nothing of the library's own error goes along: it can hold the request with the token.
            raise DataError(f"{what}: {why}", hint=mend) from None


def _explained(error: BaseException, token: str | None) -> tuple[str, str, bool] | None:
    """What is wrong, the mend, and whether the hub has answered; None for what is no matter of the hub or the disk."""
    from huggingface_hub import utils as hub

    if isinstance(error, hub.LocalEntryNotFoundError):  # the download's word for whatever kept it from asking
        return _explained(error.__cause__, token) if error.__cause__ else ("not in the cache", UNREACHABLE, False)
    if isinstance(error, hub.OfflineModeIsEnabled):
        return "the hub is not asked, since huggingface_hub is told to stay offline", "unset HF_HUB_OFFLINE", False
    if isinstance(error, hub.HFValidationError):
        return "no name of a repository or revision", "write owner/name or owner/name@revision", True
    if isinstance(error, hub.GatedRepoError):
        return "its owner has to let you in", f"ask for access on its page, and {LOG_IN}", True
    if isinstance(error, hub.RevisionNotFoundError):
        return "no such revision", "name a branch, a tag or a commit of it", True
    if isinstance(error, hub.EntryNotFoundError):
        return f"the repository has no {WEIGHTS}", "name one that funnybone models push wrote", True
    if isinstance(error, hub.RepositoryNotFoundError):
        return *STATUS[404], True
    if isinstance(error, hub.HfHubHTTPError) and error.response is not None:
        return _status(error.response.status_code, getattr(error, "server_message", None), token)
    if isinstance(error, json.JSONDecodeError | hub.FileMetadataError):
        return "what answered is no hub", UNREACHABLE, True
    if type(error).__module__.partition(".")[0] in TRANSPORTS or isinstance(error, ConnectionError | TimeoutError):
        return f"the hub cannot be reached ({type(error).__name__})", UNREACHABLE, False
    if isinstance(error, OSError) and error.errno in errno.errorcode:
        return f"{error.filename or 'the cache'}: {error.strerror}", "HF_HOME says where the cache lies", True
    return None


def _status(code: int, message: str | None, token: str | None) -> tuple[str, str, bool]:
    if code >= 500:
        return f"the hub has a fault of its own ({code})", "try again later", False
    why, mend = STATUS.get(code, ("the hub refuses", "look at the repository's settings on the hub"))
    said = _plain(message or "").replace(token or "\0", "***")[:200].rstrip(". ")
    return f"{why} ({code}{': ' if said else ''}{said})", mend, True


def _described(record: WeightsRecord) -> list[str]:
    """What a victim's preprocessing does, in words."""
    preprocess: Preprocess = record.build_preprocess()
    names = record.skeleton.joints
    joint = names[preprocess.joint]
    lines = [" to ".join(names[end] for end in line) for line in (preprocess.spine or (), preprocess.shoulders or ())]
    words: dict[str, dict[str, str]] = {
        "order": {
            "deviation": "the person whose positions deviate most comes first",
            "variance": "the person whose positions vary most comes first",
            "frames": "the person who is there longest comes first",
        },
        "trim": {
            "each": "each person's frames begin with the clip",
            "anyone": "frames without anybody are moved to the end",
            "first": "frames without the first person are dropped",
        },
        "pad": {
            "zero": f"zeros up to {preprocess.pad_to} frames",
            "replay": f"each person starts again up to {preprocess.pad_to} frames",
        },
        "centre": {
            "clip": "each clip is moved so that the mean of all its joints lies at the origin",
            "first_frame": f"each clip is moved so that joint {joint} of its first frame lies at the origin",
            "frame": f"each frame is moved so that joint {joint} of the first person lies at the origin",
        },
        "align": {
            "hips": "turned about the vertical so that the hips of its first frame point along the first horizontal "
            "axis",
            "spine": f"turned so that {lines[0]} points along z in its first frame, then {lines[-1]} along x",
        },
        "sample": {
            "first": f"the first {preprocess.sample_to} frames",
            "resize": f"the central 95 % of its frames are resized to {preprocess.sample_to}",
            "segments": f"{preprocess.sample_to} frames, the middle ones of equal segments",
        },
    }
    said = [choices.get(getattr(preprocess, step)) for step, choices in words.items()]
    if preprocess.mean is not None or preprocess.std != 1:
        mean = "a mean pose is subtracted and " if preprocess.mean is not None else ""
        said.append(f"{mean}all is divided by {preprocess.std:.6g}")
    return [part for part in said if part]


def _plain(text: Any) -> str:
    """One line of text that a terminal, YAML and Markdown can hold."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in str(text)).split())


def _yaml(value: Any) -> str:
    """A value in YAML, of which JSON is a part."""
    return json.dumps(_plain(value) if isinstance(value, str) else value, ensure_ascii=False, allow_nan=False)


def _markdown(value: Any) -> str:
    """Text of somebody else's making, as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_\[\]<>#|~&$!])", r"\\\1", _plain(value))


def _code(value: Any) -> str:
    """Text as Markdown code, also in a table."""
    return f"`{_plain(value).replace('`', chr(39)).replace('|', '/') or ' '}`"


def _slug(value: Any) -> str:
    """Text as a name that a hub takes."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", _plain(value)).strip("-.").lower() or "unnamed"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


@cache
def _environment() -> Environment:
    def template(name: str) -> str:
        return files("funnybone.models").joinpath(name).read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(template),
        autoescape=False,  # Markdown, not HTML; names go through the filters below
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Any] = {"yaml": _yaml, "md": _markdown, "code": _code, "slug": _slug, "percent": _percent}
    environment.filters |= filters
    environment.globals["version"] = funnybone.__version__
    return environment
