"""Exceptions that are hard to copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class Base(Exception):
    pass


class OwnSignature(Base):
    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class KeywordsOnly(Base):
    def __init__(self, *, code: int) -> None:
        self.code = code


class OwnReduce(Base):
    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail

    def __reduce__(self) -> Any:
        return type(self), (self.code, self.detail)


class OwnNew(Base):
    def __new__(cls, code: int, *, detail: str) -> OwnNew:
        new = super().__new__(cls, code)
        new.detail = detail
        return new

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(code)

    detail: str


class Slotted(Base):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code


class PrivateSlot(Exception):
    __slots__ = ("__code", "__weakref__")

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.__code = code

    def __str__(self) -> str:
        return f"code {self.__code}"


class OwnProperty(Base):
    def __init__(self, code: int) -> None:
        super().__init__("read only")
        self.__dict__["code"] = code

    @property
    def code(self) -> Any:
        return self.__dict__["code"]


class OwnOSError(OSError):
    def __init__(self, path: str, *, attempt: int) -> None:
        super().__init__(13, "denied", path)
        self.attempt = attempt


class OwnGroup(ExceptionGroup):
    def __new__(cls, message: str, errors: list[Exception], code: int) -> OwnGroup:
        new = super().__new__(cls, message, errors)
        new.code = code
        return new

    def __init__(self, message: str, errors: list[Exception], code: int) -> None:
        super().__init__(message, errors)

    code: int


@dataclass
class Data(Base):
    code: int


@dataclass(frozen=True)
class Frozen(Base):
    code: int
