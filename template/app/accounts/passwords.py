"""Passwords are hashed with Argon2id, which is slow and takes much memory, on purpose.

So it runs in threads, a few at a time: a flood of logins must not take the memory of the service
or the turns of its event loop.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from pydantic import SecretStr

T = TypeVar("T")


class Passwords:
    """The library's parameters are those of RFC 9106 for little memory: 64 MiB a hash."""

    def __init__(self, *, at_once: int = 2, timeout: float = 5.0) -> None:
        """`timeout` is the longest wait for one's turn and its end, in seconds."""
        self._hasher = PasswordHasher()
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="passwords")
        self._timeout = timeout
        self._nobodys: str | None = None

    async def hash(self, password: SecretStr) -> str:
        """What to keep of a password.

        Raises:
            TimeoutError: too many others were before us.
        """
        return await self._in_thread(lambda: self._hasher.hash(password.get_secret_value()))

    async def matches(self, password: SecretStr, password_hash: str | None) -> bool:
        """Whether it is the password. For nobody (None) it takes the same time to say no.

        Raises:
            TimeoutError: too many others were before us.
        """
        if self._nobodys is None:
            self._nobodys = await self.hash(SecretStr("the password of those who have no account"))
        known = password_hash or self._nobodys
        found = await self._in_thread(lambda: self._verify(known, password.get_secret_value()))
        return found and password_hash is not None

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except VerificationError:
            return False

    async def _in_thread(self, work: Callable[[], T]) -> T:
        async with asyncio.timeout(self._timeout):
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
