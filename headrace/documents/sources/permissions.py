"""Who may read what is found in a source, from the permissions it has there: POSIX modes and ACLs, or tags of objects in S3.

Where permissions cannot be read, or cannot be expressed as a list of readers, the document is closed: to `NOBODY`, or to fewer
readers than the source has. It is never opened to more.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from headrace.documents.names import check_principals
from headrace.errors import WrongUsage
from headrace.settings import PosixPermissions, TagPermissions
from headrace.storage.filters import NOBODY

_READ, _ENTER = 4, 1
_ACL, _NFS4_ACL = "system.posix_acl_access", "system.nfs4_acl"
_NO_ACL = {errno.ENODATA, errno.EOPNOTSUPP}
_HEAD, _ENTRY = struct.Struct("<I"), struct.Struct("<HHI")  # linux/posix_acl_xattr.h
_VERSION = 2
_OWNER, _USER, _OWNING_GROUP, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_DENY, _NFS4_GROUP, _NFS4_INHERIT_ONLY, _NFS4_READ, _NFS4_ENTER = 1, 0x40, 0x8, 0x1, 0x20  # RFC 7530, section 6.2.1


class Unreadable(Exception):
    """Permissions that cannot be read, or in a form that is not understood."""


@dataclass(frozen=True)
class Access:
    """Who may do something with a file: everybody, or these users and groups, by number."""

    everybody: bool = False
    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()

    def __and__(self, other: Access) -> Access:
        """Who may do both. Of two different groups these are their common members that one of the two names."""
        if self.everybody or other.everybody:
            return other if self.everybody else self
        users = {user for user in self.users if other._admits(user)} | {user for user in other.users if self._admits(user)}
        return Access(False, frozenset(users), self.groups & other.groups)

    def _admits(self, user: int) -> bool:
        return user in self.users or not self.groups.isdisjoint(_groups_of(user))


def labels(access: Access, rule: PosixPermissions) -> tuple[str, ...]:
    """The readers that these are as labels of documents: none for everybody, `NOBODY` alone where there are none."""
    if access.everybody:
        return ()
    named = {rule.user.format(name=_user(user), id=user) for user in access.users}
    named |= {rule.group.format(name=_group(group), id=group) for group in access.groups}
    return checked(named)


def tag_labels(tags: dict[str, str], rule: TagPermissions, untagged: Collection[str] | None) -> tuple[str, ...]:
    """The readers that an object's tag names, separated by spaces: none for everybody; `untagged` where it has no such tag."""
    value = tags.get(rule.tag)
    if value is None:
        return (NOBODY,) if untagged is None else tuple(sorted(set(untagged)))
    named = value.split()
    return () if named == [rule.everybody] else checked(named)


def checked(named: Collection[str]) -> tuple[str, ...]:
    """The labels in order, `NOBODY` where there are none or one of them cannot be a reader's."""
    readers = tuple(sorted(set(named)))
    try:
        check_principals(readers)
    except WrongUsage:
        return (NOBODY,)
    return readers or (NOBODY,)


class FolderPermissions:
    """The readers of files below a folder: who may read the file, and may enter each folder from `root` down to it."""

    def __init__(self, root: Path, rule: PosixPermissions) -> None:
        self._root, self._rule = root, rule
        self._folders: dict[Path, Access] = {}
        for names in (_groups_of, _user, _group):  # they may have changed since the last listing
            names.cache_clear()

    def readers(self, path: Path) -> tuple[str, ...]:
        """The labels of a file below the folder; for a link they are of its target, as far as its own folders may be entered."""
        try:
            access = self._entered(path.parent) & access_of(path, _READ)
            if path.is_symlink():
                access = access & self._entered(Path(os.path.realpath(path)).parent)
        except (OSError, Unreadable, ValueError):
            return (NOBODY,)
        return labels(access, self._rule)

    def _entered(self, folder: Path) -> Access:
        """Who may get to the files of a folder."""
        if folder not in self._folders:
            own = access_of(folder, _ENTER)
            if folder != self._root:
                if not folder.is_relative_to(self._root):
                    raise Unreadable
                own = own & self._entered(folder.parent)
            self._folders[folder] = own
        return self._folders[folder]


def access_of(path: Path, permission: int) -> Access:
    """Who has a permission (4: read, 1: enter a folder) by the mode and the ACL of a path. Raises `OSError`, `Unreadable`.

    A mode and an ACL may refuse somebody what they allow everybody, or a group. A list of readers cannot, so those who are only
    allowed as part of a larger number are then left out: everybody, if any entry refuses; groups, if a user's entry does.
    """
    status = path.stat()
    nfs4 = _attribute(path, _NFS4_ACL)
    if nfs4 is not None:
        return nfs4_access(nfs4, permission, status)
    acl = _attribute(path, _ACL)
    entries = list(_entries(acl)) if acl is not None else list(_of_mode(status.st_mode))
    mask = next((bits for tag, bits, _ in entries if tag == _MASK), 7)
    may: dict[int, dict[int, bool]] = {tag: {} for tag in (_OWNER, _USER, _OWNING_GROUP, _GROUP, _OTHER)}
    for tag, bits, number in entries:
        if tag != _MASK:
            masked = bits & mask if tag in (_USER, _OWNING_GROUP, _GROUP) else bits
            number = {_OWNER: status.st_uid, _OWNING_GROUP: status.st_gid}.get(tag, number)
            may[tag][number] = bool(masked & permission)
    if not (may[_OWNER] and may[_OWNING_GROUP] and may[_OTHER]):
        raise Unreadable
    every = [allowed for of_tag in may.values() for allowed in of_tag.values()]
    users = frozenset(user for tag in (_OWNER, _USER) for user, allowed in may[tag].items() if allowed)
    groups = frozenset(group for tag in (_OWNING_GROUP, _GROUP) for group, allowed in may[tag].items() if allowed)
    return Access(all(every), users, groups if all(may[_USER].values()) else frozenset())


def _of_mode(mode: int) -> Iterator[tuple[int, int, int]]:
    bits = stat.S_IMODE(mode)
    yield from ((_OWNER, bits >> 6 & 7, 0), (_OWNING_GROUP, bits >> 3 & 7, 0), (_OTHER, bits & 7, 0))


def _entries(acl: bytes) -> Iterator[tuple[int, int, int]]:
    """Tag, permissions and user or group of each entry of a POSIX ACL."""
    if len(acl) < _HEAD.size or (len(acl) - _HEAD.size) % _ENTRY.size or _HEAD.unpack_from(acl)[0] != _VERSION:
        raise Unreadable
    for tag, bits, number in _ENTRY.iter_unpack(acl[_HEAD.size :]):
        if tag not in (_OWNER, _USER, _OWNING_GROUP, _GROUP, _MASK, _OTHER):
            raise Unreadable
        yield tag, bits, number


def nfs4_access(acl: bytes, permission: int, status: os.stat_result) -> Access:
    """Who has a permission by an NFSv4 ACL in XDR: entries that allow, as far as none before them refuses it to anybody."""
    everybody, users, groups = False, set[int](), set[int]()
    try:
        (count,) = struct.unpack_from(">I", acl)
        wanted, at = _NFS4_READ if permission == _READ else _NFS4_ENTER, 4
        for _ in range(count):
            kind, flags, mask, length = struct.unpack_from(">IIII", acl, at)
            who = acl[at + 16 : at + 16 + length].decode()
            at += 16 + (length + 3) // 4 * 4
            if not mask & wanted or kind > _DENY or flags & _NFS4_INHERIT_ONLY:  # others are for audits and alarms
                continue
            if kind == _DENY:
                break
            if who == "EVERYONE@":
                everybody = True
            elif who == "OWNER@":
                users.add(status.st_uid)
            elif who == "GROUP@":
                groups.add(status.st_gid)
            elif flags & _NFS4_GROUP:
                groups.add(_numbered(who, group=True))
            else:
                users.add(_numbered(who, group=False))
    except (struct.error, UnicodeDecodeError, KeyError) as error:
        raise Unreadable from error
    return Access(everybody, frozenset(users), frozenset(groups))


def _numbered(who: str, *, group: bool) -> int:
    """The number of `name@domain`, which is a number itself where the server maps none. Raises `KeyError`."""
    name = who.partition("@")[0]
    if name.isascii() and name.isdigit():
        return int(name)
    return grp.getgrnam(name).gr_gid if group else pwd.getpwnam(name).pw_uid


def _attribute(path: Path, name: str) -> bytes | None:
    """An extended attribute; `None` where the file has none, or its file system none of that kind."""
    try:
        return os.getxattr(path, name)
    except OSError as error:
        if error.errno in _NO_ACL:
            return None
        raise


@cache
def _groups_of(user: int) -> frozenset[int]:
    """The groups that a user is in, as this machine knows them; none of one that it does not know."""
    try:
        known = pwd.getpwuid(user)
        return frozenset(os.getgrouplist(known.pw_name, known.pw_gid))
    except (KeyError, OSError):
        return frozenset()


@cache
def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


@cache
def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
