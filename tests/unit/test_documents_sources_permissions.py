"""Readers from modes, ACLs and tags: never more of them than may read the file where it is."""

from __future__ import annotations

import grp
import os
import pwd
import struct
from pathlib import Path

import pytest
from child import as_another_user
from hypothesis import given
from hypothesis import strategies as st

from headrace.documents.names import check_principals
from headrace.documents.sources.folder import find_files
from headrace.documents.sources.permissions import (
    Access,
    FolderPermissions,
    Unreadable,
    access_of,
    labels,
    nfs4_access,
    tag_labels,
)
from headrace.errors import WrongUsage
from headrace.settings import PosixPermissions, SourceSettings, TagPermissions
from headrace.storage.filters import NOBODY, Filters
from headrace.storage.vectors.labels import condition

RULE = PosixPermissions(type="posix", user="u{id}", group="g{id}")
TAGS = TagPermissions(type="tags")
ME, OURS = os.getuid(), os.getgid()
ALICE, BOB, STAFF, AUDIT = 40_001, 40_002, 50_001, 50_002  # numbers that no machine names
READ, ENTER = 4, 1
OWNER, USER, GROUP_OWNER, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    root = tmp_path / "docs"
    (root / "hr").mkdir(parents=True)
    (root / "hr" / "pay.md").write_text("The pay is secret.")
    for path, mode in ((root, 0o755), (root / "hr", 0o755), (root / "hr" / "pay.md", 0o644)):
        path.chmod(mode)
    return root


def readers(docs: Path) -> tuple[str, ...]:
    return FolderPermissions(docs, RULE).readers(docs / "hr" / "pay.md")


def set_acl(path: Path, *entries: tuple[int, int, int]) -> None:
    packed = b"".join(struct.pack("<HHI", tag, bits, number) for tag, bits, number in sorted(entries))
    os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + packed)


NONE = 0xFFFFFFFF


def test_what_everybody_may_read_is_open_and_what_some_may_is_theirs(docs: Path) -> None:
    assert readers(docs) == ()
    file = docs / "hr" / "pay.md"
    for mode, expected in (
        (0o640, (f"g{OURS}", f"u{ME}")),
        (0o600, (f"u{ME}",)),
        (0o040, (f"g{OURS}",)),
        (0o000, (NOBODY,)),
        (0o604, (f"u{ME}",)),  # the group may not, and some of everybody are in it
        (0o044, (f"g{OURS}",)),
    ):
        file.chmod(mode)
        assert readers(docs) == expected, oct(mode)


def test_a_folder_that_some_may_enter_closes_what_is_below_it(docs: Path) -> None:
    """The files of a closed folder are often open to everybody by their own modes."""
    (docs / "hr").chmod(0o750)
    assert readers(docs) == (f"g{OURS}", f"u{ME}")
    (docs / "hr").chmod(0o700)
    assert readers(docs) == (f"u{ME}",)
    (docs / "hr").chmod(0o755)
    docs.chmod(0o700)
    assert readers(docs) == (f"u{ME}",), "the followed folder's own mode counts, too"
    docs.chmod(0o711)
    assert readers(docs) == (), "to be entered a folder need not be listed"


def test_entries_of_an_acl_count_under_its_mask(docs: Path) -> None:
    file = docs / "hr" / "pay.md"
    base = ((OWNER, 6, NONE), (GROUP_OWNER, 4, NONE), (OTHER, 0, NONE))
    set_acl(file, *base, (USER, 4, ALICE), (GROUP, 4, STAFF), (MASK, 4, NONE))
    assert readers(docs) == tuple(sorted((f"g{STAFF}", f"g{OURS}", f"u{ME}", f"u{ALICE}")))
    set_acl(file, *base, (USER, 4, ALICE), (GROUP, 4, STAFF), (MASK, 0, NONE))
    assert readers(docs) == (f"u{ME}",), "the mask refuses all named ones and the group"
    set_acl(file, *base, (USER, 0, BOB), (GROUP, 4, STAFF), (MASK, 4, NONE))
    assert readers(docs) == (f"u{ME}",), "Bob may be in the groups that may read it, and is refused"
    set_acl(file, *base[:2], (OTHER, 4, NONE), (USER, 0, BOB), (MASK, 4, NONE))
    assert readers(docs) == (f"u{ME}",), "everybody but Bob cannot be said by naming readers"


def test_a_mode_is_not_believed_where_an_acl_says_less(docs: Path) -> None:
    """With an ACL the group bits of a mode are its mask, which may allow what the group's own entry does not."""
    file = docs / "hr" / "pay.md"
    set_acl(file, (OWNER, 6, NONE), (USER, 4, ALICE), (GROUP_OWNER, 0, NONE), (MASK, 4, NONE), (OTHER, 0, NONE))
    assert file.stat().st_mode & 0o777 == 0o640
    assert readers(docs) == tuple(sorted((f"u{ME}", f"u{ALICE}")))


def test_a_link_is_as_open_as_what_it_leads_to(docs: Path) -> None:
    (docs / "open.md").symlink_to(docs / "hr" / "pay.md")
    (docs / "hr").chmod(0o700)
    assert FolderPermissions(docs, RULE).readers(docs / "open.md") == (f"u{ME}",)
    (docs / "out.md").symlink_to(docs.parent)
    assert FolderPermissions(docs, RULE).readers(docs / "out.md") == (NOBODY,), "which is refused when it is read"


def test_what_cannot_be_looked_at_is_closed(docs: Path) -> None:
    assert FolderPermissions(docs, RULE).readers(docs / "hr" / "none.md") == (NOBODY,)

    def closed(empty: Path) -> None:
        (empty / "deep").mkdir()
        (empty / "deep" / "a.md").write_text("a")
        (empty / "deep").chmod(0o600)
        assert FolderPermissions(empty, RULE).readers(empty / "deep" / "a.md") == (NOBODY,)
        (empty / "deep").chmod(0)
        found = find_files([empty], lambda _: RULE)
        assert list(found.closed) == [f"{empty.name}/deep"]
        assert not found.whole, "nothing is deleted because of it"
        assert not find_files([empty]).closed, "where permissions do not count"

    as_another_user(closed)


def test_acls_that_are_none_are_refused(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for odd in (b"", b"\1\0\0\0", struct.pack("<I", 2) + b"abc", struct.pack("<IHHI", 2, 99, 4, 0), struct.pack("<I", 2)):
        monkeypatch.setattr(os, "getxattr", lambda _, name, odd=odd: odd if "posix" in name else _no_data())
        with pytest.raises(Unreadable):
            access_of(docs, READ)
        assert readers(docs) == (NOBODY,)


def _no_data() -> bytes:
    raise OSError(61, "No data available")


def xdr(*entries: tuple[int, int, int, str]) -> bytes:
    """An NFSv4 ACL as the Linux client shows it: type, flags, mask and name of each entry."""
    packed = struct.pack(">I", len(entries))
    for kind, flags, mask, who in entries:
        name = who.encode()
        packed += struct.pack(">IIII", kind, flags, mask, len(name)) + name + b"\0" * (-len(name) % 4)
    return packed


def test_nfsv4_acls_allow_as_far_as_nobody_is_refused(docs: Path) -> None:
    status = docs.stat()
    root = pwd.getpwuid(0).pw_name
    group = grp.getgrgid(0).gr_name
    everybody = (0, 0, 1, "EVERYONE@")

    def who(*entries: tuple[int, int, int, str], permission: int = READ) -> Access:
        return nfs4_access(xdr(*entries), permission, status)

    assert who((0, 0, 3, "OWNER@"), everybody).everybody
    assert who((0, 0, 3, "OWNER@"), (0, 0x40, 1, "GROUP@"), (0, 0, 0x8000, "EVERYONE@")) == Access(
        False, frozenset({ME}), frozenset({OURS})
    )
    assert who((1, 0, 2, "OWNER@"), everybody).everybody, "to write may be refused"
    assert who((0, 0, 1, f"{root}@example.net"), (0, 0x40, 1, f"{group}@example.net"), (0, 0, 1, "40001")) == Access(
        False, frozenset({0, ALICE}), frozenset({0})
    )
    assert who((0, 0, 1, "40001"), (1, 0x40, 1, "GROUP@"), everybody) == Access(False, frozenset({ALICE}))
    assert who((0, 0x8, 1, "EVERYONE@")) == Access(), "only what is made below inherits it"
    assert who((0, 0, 0x20, "EVERYONE@")) == Access()
    assert who((0, 0, 0x20, "EVERYONE@"), permission=ENTER).everybody
    for odd in (b"", xdr(everybody)[:-4], xdr((0, 0, 1, "no-such-user@example.net")), struct.pack(">I", 1 << 30)):
        with pytest.raises(Unreadable):
            nfs4_access(odd, READ, status)


NUMBERS = st.frozensets(st.sampled_from((1, 2, 3)), max_size=3)
ACCESS = st.builds(Access, st.booleans(), NUMBERS, NUMBERS)


@given(ACCESS, ACCESS)
def test_who_may_do_both_may_do_each(one: Access, other: Access) -> None:
    both = one & other
    for access in (one, other):
        assert access.everybody or (not both.everybody and both.groups <= access.groups)
    members = {user: set(os.getgrouplist(known.pw_name, known.pw_gid)) for user in (1, 2, 3) if (known := _known(user))}
    for access in (one, other):
        for user in both.users:
            assert access.everybody or user in access.users or members.get(user, set()) & access.groups


def _known(user: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(user)
    except KeyError:
        return None


def test_nobody_is_no_name_that_anybody_can_have() -> None:
    assert labels(Access(), RULE) == (NOBODY,)
    with pytest.raises(WrongUsage, match="cannot be the name of a reader"):
        check_principals([NOBODY])
    where = condition("acme", [NOBODY, "alice"], Filters(), ["readers_idx"])
    assert "alice" in where
    assert NOBODY not in where


def test_tags_name_readers() -> None:
    assert tag_labels({"readers": "hr  boss"}, TAGS, None) == ("boss", "hr")
    assert tag_labels({"readers": "everybody"}, TAGS, None) == ()
    assert tag_labels({"readers": "everybody hr"}, TAGS, None) == ("everybody", "hr")
    assert tag_labels({"readers": ""}, TAGS, ["staff"]) == (NOBODY,)
    assert tag_labels({"other": "hr"}, TAGS, None) == (NOBODY,)
    assert tag_labels({}, TAGS, ["staff"]) == ("staff",)
    assert tag_labels({}, TAGS, []) == (), "readers = [] opens what has no tag"
    assert tag_labels({"readers": NOBODY}, TAGS, None) == (NOBODY,)
    assert tag_labels({"readers": " ".join(f"group-{n:04}" for n in range(1000))}, TAGS, None) == (NOBODY,)


@pytest.mark.parametrize("template", ["user", "{name}{id}", "{name!r}", "{name.x}", "{", "{name}{name}", "{0}"])
def test_a_template_has_one_name_in_it(template: str) -> None:
    with pytest.raises(ValueError, match="must have"):
        PosixPermissions(type="posix", user=template)


def test_permissions_fit_their_place() -> None:
    for place, more in (
        ("s3://a/b", {"permissions": RULE}),
        ("/a", {"permissions": TAGS}),
        ("/a", {"permissions": RULE, "readers": ("hr",)}),
        ("/a", {"s3": {"endpoint": "https://s3.example.net", "access_key": "env:A", "secret_key": "env:B"}}),
        ("s3://a", {"s3": {"endpoint": "https://s3.example.net", "access_key": "env:A", "secret_key": "in plain sight"}}),
    ):
        with pytest.raises(ValueError, match=r"posix|tags|s3|pattern"):
            SourceSettings(place=place, **more)
