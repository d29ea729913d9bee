"""Folders, prefixes and repositories that are followed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from headrace.settings.references import read_reference, read_references
from headrace.settings.section import Section

_REPOSITORY = re.compile(r"git\+(https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?/[^\s?#@]+|file:///[^\s?#]+)")
_NO_BRANCH = re.compile(r"^[-/.]|\.\.|//|@\{|/\.|\.lock(/|$)|[/.]$|[\x00-\x20\x7f~^:?*\[\\]")  # git-check-ref-format(1)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SERVER_S = 30.0
_ADDRESSES = ("s3://", "git+")


def repository_url(place: str) -> str:
    """The URL of a Git repository that a place names (`git+URL`). Raises `ValueError` where it names none that is read."""
    found = _REPOSITORY.fullmatch(place)
    if found is None or not place.isprintable():
        raise ValueError(
            "a Git repository is git+https://HOST/PATH, git+http://HOST/PATH or git+file:///PATH, and holds no secret"
        )
    return found[1]


def usual_every_s(place: str) -> float:
    """Seconds between two looks at a place where nothing says how many: a Git server is asked less often."""
    return _SERVER_S if place.startswith("git+http") else 1.0


class PosixPermissions(Section):
    """Readers by the mode and the ACL (POSIX or NFSv4) of each file and of the folders above it, up to the place itself."""

    type: Literal["posix"]
    user: str = "{name}"
    """Reader label of a user; `{name}` and `{id}` are replaced by the user's, e.g. `user:{name}`."""
    group: str = "{name}"
    """Reader label of a group; `{name}` and `{id}` are replaced by the group's, e.g. `group:{name}`."""

    @field_validator("user", "group")
    @classmethod
    def _template(cls, value: str) -> str:
        rest = value.replace("{name}", "", 1) if "{name}" in value else value.replace("{id}", "", 1)
        if rest == value or {"{", "}"}.intersection(rest):
            raise ValueError(f"{value!r} must have {{name}} or {{id}} in it once, and no other braces")
        return value


class TagPermissions(Section):
    """Readers by a tag of each object; one without the tag has the source's `readers`, or nobody."""

    type: Literal["tags"]
    tag: str = Field(default="readers", min_length=1, max_length=128)
    """Key of the tag. Its value names users and groups, separated by spaces."""
    everybody: str = Field(default="everybody", min_length=1)
    """Value of the tag with which everybody of the tenant may read the object."""


class SourceS3(Section):
    """Another S3 than the object tier's. Its keys are named, not written, and read again at each look, so they may be rotated."""

    endpoint: str = Field(pattern=r"^https?://[^/?#@\s]+/?$")
    """URL of the endpoint, e.g. `https://s3.example.net`."""
    access_key: str = Field(pattern=r"^(env|file):.+$")
    """Where the access key id is: `env:NAME` for an environment variable of the service, or `file:PATH`."""
    secret_key: str = Field(pattern=r"^(env|file):.+$")
    """Where the secret access key is, in the same form."""
    region: str = "us-east-1"
    """Region to sign for."""

    def keys(self) -> tuple[str, str]:
        """The access key id and the secret access key. Raises `BadSettings` where they are not where they should be."""
        return read_reference(self.access_key), read_reference(self.secret_key)


class SourceNotifications(Section):
    """A Kafka topic to which the bucket's store sends its events, in the form of AWS S3 or MinIO.

    The objects that they name are looked at, and the bucket is listed only at the start, from time to time, and after a fault.
    """

    bootstrap: str = Field(min_length=1)
    """`host:port[,host:port]`."""
    topic: str = Field(min_length=1)
    """The topic."""
    properties: dict[str, str] = Field(default={})
    """Further librdkafka properties, e.g. `security.protocol`; `env:NAME` or `file:PATH` as a value names where it is."""
    list_s: float = Field(default=600.0, ge=1)
    """Seconds between two listings of the bucket all the same, for events that its store did not send."""

    def client(self) -> dict[str, str]:
        """The properties of a client. Raises `BadSettings` where one is not where it should be."""
        return {"bootstrap.servers": self.bootstrap, **read_references(self.properties)}


class SourceGit(Section):
    """What of a Git repository is read, and as whom. The newest commit of one branch counts, and no other."""

    branch: str = ""
    """The branch; empty: the one that the repository names as its own (`HEAD`)."""
    folder: str = ""
    """The folder of the repository whose files are documents, e.g. `manual/en`; empty: all of it."""
    user: str = Field(default="git", pattern=r"^[^\s:]+$")
    """The user that a server asks for beside the token; most take any."""
    token: str = Field(default="", pattern=r"^((env|file):.+)?$")
    """Where the token or password is: `env:NAME` for an environment variable of the service, or `file:PATH`. Empty: none."""
    most_bytes: int = Field(default=10_000_000_000, ge=1_000_000)
    """A commit that is packed into more is not fetched; a copy with more is made anew, so that it has at most twice that."""
    most_files: int = Field(default=100_000, ge=1)
    """A commit with more files, or more folders, is refused."""

    @field_validator("branch")
    @classmethod
    def _named(cls, value: str) -> str:
        if _NO_BRANCH.search(value):
            raise ValueError(f"{value!r} cannot be the name of a branch")
        return value

    @field_validator("folder")
    @classmethod
    def _below(cls, value: str) -> str:
        folder = value.strip("/")
        if folder and ({"", ".", ".."}.intersection(folder.split("/")) or not folder.isprintable()):
            raise ValueError(f"{value!r} is no folder of a repository, like docs/en")
        return folder

    def secret(self) -> str:
        """The token. Raises `BadSettings` where it is not where it should be."""
        return read_reference(self.token) if self.token else ""


class SourceSettings(Section):
    """A folder, prefix or repository that `headrace up` follows: what changes there changes in the index."""

    place: str = Field(min_length=1)
    """A path, `s3://BUCKET/PREFIX` on the object tier's S3 or on that of `s3`, or a Git repository: `git+https://HOST/PATH` or
    `git+file:///PATH`."""
    git: SourceGit | None = None
    """What of a Git repository is read, and as whom. Unset: all of its own branch, as nobody."""
    s3: SourceS3 | None = None
    """Another S3 that has the bucket. Unset: the object tier's."""
    notifications: SourceNotifications | None = None
    """Where the bucket's events are. Unset: it is listed every `every_s` seconds."""
    tenant: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$")
    """The tenant that its documents belong to; empty: the default tenant."""
    readers: tuple[str, ...] | None = None
    """Who of the tenant may read its documents. Unset: everybody, but a document keeps readers that it was given otherwise."""
    permissions: Annotated[PosixPermissions | TagPermissions, Field(discriminator="type")] | None = None
    """Readers of each document by its permissions in the source; a change of these changes its readers. Unset: `readers`."""
    attributes: tuple[str, ...] | None = None
    """`key=value` for each of its documents. Unset: a document keeps those that it was given otherwise."""
    every_s: float = Field(default=1.0, ge=0.1)
    """Seconds between two listings; listing takes at most a sixth of the time. A folder on a disk of this machine is listed when
    something changes in it, and otherwise every 30 s. A Git server is asked every 30 s, unless this says otherwise."""

    @model_validator(mode="after")
    def _patient(self) -> Self:
        if "every_s" not in self.model_fields_set:
            self.__dict__["every_s"] = usual_every_s(self.place)  # as a default is: nobody set it
        return self

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        bucket = self.place.startswith("s3://")
        if self.place.startswith("git+"):
            url = urlsplit(repository_url(self.place))
            if self.permissions is not None:
                raise ValueError("a Git repository has no permissions of its files: name the `readers`")
            if self.git is not None and self.git.token and url.scheme != "https" and url.hostname not in _LOOPBACK:
                raise ValueError("a token is sent over https alone")
        elif self.git is not None:
            raise ValueError("`git` is for a place like git+https://HOST/PATH")
        if isinstance(self.permissions, PosixPermissions) and (bucket or self.readers is not None):
            raise ValueError("permissions of type posix are for a folder, and beside them there are no `readers`")
        if isinstance(self.permissions, TagPermissions) and not bucket:
            raise ValueError("permissions of type tags are for s3://BUCKET/PREFIX; a folder has those of type posix")
        if (self.s3 or self.notifications) and not bucket:
            raise ValueError("`s3` and `notifications` are for a place like s3://BUCKET/PREFIX")
        return self

    def is_at(self, place: str | Path) -> bool:
        """Whether it is this folder, prefix or repository, however it is written."""
        if self.place.startswith(_ADDRESSES) or str(place).startswith(_ADDRESSES):
            return self.place.rstrip("/") == str(place).rstrip("/")
        return os.path.realpath(self.place) == os.path.realpath(place)
