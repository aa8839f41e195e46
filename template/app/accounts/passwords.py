"""Passwords are hashed with Argon2id, which is slow and takes much memory, on purpose.

So it runs in threads, a few at a time and one for each hash: a flood of logins must not take the
memory of the service, its cores or the turns of its event loop. Others wait in a line, which is
long enough for what passes the limits of `throttle.py`.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from pydantic import SecretStr

T = TypeVar("T")


class LineFull(TimeoutError):
    """Too many wait for a password to be hashed: another try later may find fewer."""


class Passwords:
    """Memory and passes are those that RFC 9106 has for little memory: 64 MiB, three times."""

    def __init__(self, *, at_once: int = 2, most_waiting: int = 100) -> None:
        """Hash `at_once` passwords while up to `most_waiting` others wait for their turn."""
        self._hasher = PasswordHasher(parallelism=1)
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="passwords")
        self._most = at_once + most_waiting
        self._there = 0
        self._nobodys: str | None = None
        self._nobodys_turn = asyncio.Lock()

    async def hash(self, password: SecretStr) -> str:
        """What to keep of a password.

        Raises:
            LineFull: too many others were before us.
        """
        return await self._in_thread(lambda: self._hasher.hash(password.get_secret_value()))

    async def matches(self, password: SecretStr, password_hash: str | None) -> bool:
        """Whether it is the password. For nobody (None) it takes the same time to say no.

        Raises:
            LineFull: too many others were before us.
        """
        async with self._nobodys_turn:
            if self._nobodys is None:
                self._nobodys = await self.hash(
                    SecretStr("the password of those who have no account")
                )
        known = password_hash or self._nobodys
        found = await self._in_thread(lambda: self._verify(known, password.get_secret_value()))
        return found and password_hash is not None

    def is_outdated(self, password_hash: str) -> bool:
        """Whether a hash was made with other parameters, and takes other time."""
        return self._hasher.check_needs_rehash(password_hash)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except VerificationError:
            return False

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._there >= self._most:
            raise LineFull(f"{self._there} passwords wait to be hashed")
        self._there += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._there -= 1
